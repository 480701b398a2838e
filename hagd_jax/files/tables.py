"""Read CSV tables strictly and within bounds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, HagdError
from hagd_jax.files.reading import MIB, named, read_text


def read_csv(
    path: str | Path,
    *,
    size: int = 64 * MIB,
    rows: int = 1_000_000,
    columns: int = 100,
    error: type[HagdError] = CheckpointError,
) -> Iterator[tuple[int, dict[str, str]]]:
    r"""Read the rows of a CSV file whose first line names the columns.

    Args:
        path: The file.
        size: Largest size of the file in bytes.
        rows: Largest number of rows.
        columns: Largest number of columns.
        error: The class of error to raise.

    Yields:
        The number of a row's last line, from 1, and its values by the names of their columns;
        blank lines are skipped.

    Raises:
        HagdError: Of the given class, if the file cannot be read or is no CSV, has a column twice
            or none at all, or a row has more or fewer values than there are columns; the message
            names the line.

    Example:
        >>> written = Path("t.csv").write_text('clean,label\n"a, b",3\n')
        >>> list(read_csv("t.csv"))
        [(2, {'clean': 'a, b', 'label': '3'})]
    """
    where = named(path)
    reader = csv.reader(io.StringIO(read_text(path, size, error), newline=""), strict=True)
    names: list[str] | None = None
    count = 0
    while True:
        place = f"{where}: line {reader.line_num + 1}"
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error as problem:
            raise error(place, got=str(problem), expected="a line of CSV") from problem
        if not values:
            continue
        if names is None:
            names = _names(values, place, columns, error)
            continue
        count += 1
        if count > rows:
            raise error(where, got=f"more than {rows:,} rows", expected="fewer")
        if len(values) != len(names):
            got = f"{len(values)} values"
            raise error(place, got=got, expected=f"{len(names)}, one for each column")
        yield reader.line_num, dict(zip(names, values, strict=True))
    if names is None:
        raise error(where, got="an empty file", expected="CSV with a line of column names")


def _names(values: list[str], place: str, columns: int, error: type[HagdError]) -> list[str]:
    """The names of columns; one of them may be empty, as that of a saved data frame's index."""
    if len(values) > columns:
        raise error(place, got=f"{len(values):,} columns", expected=f"at most {columns}")
    if len(set(values)) < len(values):
        twice = next(name for i, name in enumerate(values) if name in values[:i])
        raise error(place, got=f"the column {quoted(twice)} twice", expected="each name once")
    return values
