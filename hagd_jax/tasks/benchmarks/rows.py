"""Rows of benchmark files: bounded reading, fields of known kinds, and what is left out."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError
from hagd_jax.files import Bounds, named, read_csv, read_jsonl
from hagd_jax.tasks.definition import SPLITS, Sizes

# More than any published validation split has; each costs ten calls of the tokenizer.
MOST_ROWS = 20_000
# The longest published row has some 3,000 bytes.
ROW = Bounds(size=2**16, depth=8, items=1000)
# The longest published prompt has some 200 characters.
MOST_CHARACTERS = 2000


class Skipped(Exception):
    """A row of a benchmark is left out for the reason given."""


@dataclasses.dataclass(frozen=True)
class Record:
    """A record is one row of a file; a field that is not as it must be is an error.

    Attributes:
        place: File and line or entry, for messages.
        values: The fields.
    """

    place: str
    values: Mapping[str, Any]

    def refuse(self, field: str, expected: str) -> NoReturn:
        """Raise an error about a field.

        Args:
            field: Its name.
            expected: Description of the valid values.

        Raises:
            InputError: Naming the file, the row, the field and its value.
        """
        got = quoted(self.values[field]) if field in self.values else "no such field"
        raise InputError(f"{self.place}: {field}", got=got, expected=expected)

    def text(self, field: str) -> str:
        """Read a field that holds a text.

        Args:
            field: Its name.

        Returns:
            The text, with the blanks at its ends.

        Raises:
            InputError: If it is none, or blank, or longer than any published one.
        """
        value = self.values.get(field)
        if not isinstance(value, str) or not value.strip() or len(value) > MOST_CHARACTERS:
            self.refuse(field, f"a text of 1 to {MOST_CHARACTERS} characters")
        return value

    def whole(self, field: str, most: int) -> int:
        """Read a field that holds a whole number from 0, also one in decimal digits.

        Args:
            field: Its name.
            most: The largest that is allowed.

        Returns:
            The number.

        Raises:
            InputError: If it is something else.
        """
        value = self.values.get(field)
        digits = isinstance(value, str) and value.isascii() and value.isdecimal()
        plain = isinstance(value, int) and not isinstance(value, bool)
        if not (plain or (digits and len(str(value)) <= 20)) or not 0 <= int(str(value)) <= most:
            self.refuse(field, f"a whole number from 0 to {most}")
        return int(str(value))

    def flag(self, field: str) -> bool:
        """Read a field that holds true or false; one that is missing is false.

        Args:
            field: Its name.

        Returns:
            The value.

        Raises:
            InputError: If it is something else.
        """
        value = self.values.get(field, False)
        if not isinstance(value, bool):
            self.refuse(field, "true or false")
        return value


def json_rows(path: str | Path) -> Iterator[Record]:
    """Read JSON lines strictly.

    Args:
        path: The file.

    Yields:
        A record for each line that is not blank.

    Raises:
        InputError: If the file cannot be read, or a line is no JSON object.
    """
    where = named(path)
    for number, row in read_jsonl(path, rows=10**6, bounds=ROW, error=InputError):
        place = f"{where}: line {number}"
        if not isinstance(row, Mapping):
            raise InputError(place, got=quoted(row), expected="a JSON object")
        yield Record(place, row)


def csv_rows(path: str | Path) -> Iterator[Record]:
    """Read a CSV file strictly.

    Args:
        path: The file.

    Yields:
        A record for each row; all fields are texts.

    Raises:
        InputError: If the file cannot be read, or is no CSV.
    """
    where = named(path)
    for number, row in read_csv(path, error=InputError):
        yield Record(f"{where}: line {number}", row)


def drawn(rows: Iterable[Any], most: int) -> tuple[list[Any], int]:
    """Keep rows in their order, of which a draw where there are more than can be looked at.

    Whether a row is drawn depends on its number alone, so that it does for every seed.

    Args:
        rows: All of them, one at a time.
        most: How many are kept at most.

    Returns:
        The kept rows, and how many there were.

    Example:
        >>> drawn("abcdef", 3)
        (['a', 'c', 'f'], 6)
    """
    held: list[tuple[int, int, Any]] = []
    number = -1
    for number, row in enumerate(rows):
        digest = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8).digest()
        # The largest digest is the first to go.
        one = -int.from_bytes(digest, "little"), number, row
        if len(held) < most:
            heapq.heappush(held, one)
        elif one[0] > held[0][0]:
            heapq.heapreplace(held, one)
    return [row for _, _, row in sorted(held, key=lambda one: one[1])], number + 1


class LeftOut:
    """LeftOut counts the rows that are left out, by reason.

    Args:
        rows: How many rows are looked at.
        total: How many rows there are; as many if None.
        what: What a row is called in notes.

    Example:
        >>> left = LeftOut(5, 9)
        >>> left.add("too long")
        >>> left.notes()
        ('looked at 5 of 9 rows', 'left out 1 of 5 rows: too long')
    """

    def __init__(self, rows: int, total: int | None = None, what: str = "rows"):
        self.rows, self.total, self.what = rows, rows if total is None else total, what
        self.why: collections.Counter[str] = collections.Counter()

    def add(self, reason: object) -> None:
        """Count a row that is left out for a reason."""
        self.why[str(reason)] += 1

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each reason, the most frequent first."""
        looked = (f"looked at {self.rows:,} of {self.total:,} {self.what}",) * (
            self.total > self.rows
        )
        of = f"of {self.rows} {self.what}"
        return (*looked, *(f"left out {n} {of}: {x}" for x, n in self.why.most_common()))


def require_room(
    name: str, sizes: Sizes, there: Mapping[str, int], left: LeftOut, *, least: int = 1
) -> None:
    """Refuse splits that are larger than the number of usable rows.

    Args:
        name: Of the benchmark.
        sizes: Prompts asked for in each split.
        there: Prompts that there are, by split.
        left: Rows that were left out.
        least: Fewest that a split must have, whatever is asked for.

    Raises:
        InputError: If one is too large; the message says which sizes fit, and what was left out.
    """
    for split in SPLITS:
        size = getattr(sizes, split)
        if there[split] >= max(size, least):
            continue
        fits = all(count >= least for count in there.values())
        flags = " ".join(f"--sizes.{s} {min(getattr(sizes, s), there[s])}" for s in SPLITS)
        notes = [f"Ask for fewer prompts: {flags}."] if fits else []
        notes += [f"Rows: {'; '.join(left.notes())}."] if left.notes() else []
        raise InputError(
            f"size of the {split} split of {name}", got=size,
            expected=f"at most {there[split]} of its {left.rows} {left.what}",
            mend=" ".join(notes) or None,
        )  # fmt: skip
