"""JSON, JSON lines and YAML from outside, with bounds that hold while they are parsed.

Python's own parsers take what no one means: names that stand twice, NaN, integers of a million
digits, half of a surrogate pair. They also follow any depth, and YAML's references can make a few
hundred bytes larger than the memory. What is read here is a tree of plain values that can be
walked, shown, and written again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hagd_jax.brief import quoted, said
from hagd_jax.errors import CheckpointError, HagdError, shown
from hagd_jax.files.reading import AGAIN, KIB, MIB, decoded, named, opened, read_text

# A string; one that does not end takes all that is left, so that each character is seen once.
_STRING = re.compile(r'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
# What each byte of a text without its strings does to the depth.
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]], _STEPS[[ord("]"), ord("}")]] = 1, -1


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How much a parsed text may hold.

    Attributes:
        size: Bytes.
        depth: Lists and objects inside each other.
        items: Values, all levels together.
    """

    size: int = 64 * MIB
    depth: int = 64
    items: int = 4_000_000


JSON = Bounds()
LINE = Bounds(size=4 * MIB, items=100_000)
# PyYAML is slow: a tenth of a second for 10 kB.
YAML = Bounds(size=64 * KIB, depth=4, items=10_000)


def parse_json(
    text: str, where: str, bounds: Bounds = JSON, error: type[HagdError] = CheckpointError
) -> Any:
    """Parse JSON strictly.

    Args:
        text: The text.
        where: What it is, for the message.
        bounds: How much it may hold.
        error: The class of error to raise.

    Returns:
        Dicts, lists, texts, integers of at most 64 bits, finite floats, booleans and None.

    Raises:
        HagdError: Of the given class, if it is not JSON (NaN and Infinity are not), a name stands
            twice in an object, a number is too large, a text is no Unicode, or a bound is exceeded.

    Example:
        >>> parse_json('{"a": [1, 2.5, null]}', "a.json")
        {'a': [1, 2.5, None]}
    """
    try:
        if len(text) > bounds.size:
            raise _Refused(f"{len(text):,} characters", f"at most {bounds.size:,}")
        _require_small(text, bounds)
        value = _DECODER.decode(text)
        if _HALF.search(text):
            # A whole pair is one character by now.
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except _Refused as problem:
        raise error(where, got=problem.got, expected=problem.expected) from None
    except UnicodeEncodeError as problem:
        got = "half of a surrogate pair in a text"
        raise error(where, got=got, expected="Unicode") from problem
    except ValueError as problem:
        raise error(where, got=said(problem), expected="JSON", mend=AGAIN) from problem


def read_json(
    path: str | Path, bounds: Bounds = JSON, error: type[HagdError] = CheckpointError
) -> Any:
    """Read a JSON file strictly, see `parse_json`.

    Args:
        path: The file.
        bounds: How much it may hold.
        error: The class of error to raise.

    Returns:
        The value.

    Raises:
        HagdError: Of the given class, if it cannot be read, or is not JSON.
    """
    return parse_json(read_text(path, bounds.size, error), named(path), bounds, error)


def read_json_object(
    path: str | Path, bounds: Bounds = JSON, error: type[HagdError] = CheckpointError
) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        bounds: How much it may hold.
        error: The class of error to raise.

    Returns:
        The object.

    Raises:
        HagdError: Of the given class, if it cannot be read, is not JSON, or holds something else.
    """
    value = read_json(path, bounds, error)
    if not isinstance(value, dict):
        raise error(named(path), got=shown(value), expected="a JSON object")
    return value


def read_jsonl(
    path: str | Path,
    *,
    size: int | None = None,
    rows: int = 10_000_000,
    bounds: Bounds = LINE,
    broken: Callable[[int, HagdError], Any] | None = None,
    error: type[HagdError] = CheckpointError,
) -> Iterator[tuple[int, Any]]:
    r"""Read JSON lines one at a time; only "\n" ends a line, as U+2028 may stand in a text.

    Args:
        path: The file.
        size: Its largest size in bytes; any size if None.
        rows: Its largest number of lines.
        bounds: How much a line may hold.
        broken: Says what stands for a line that is not JSON, by its number and what is wrong; such
            a line is an error if None.
        error: The class of error to raise.

    Yields:
        The number of a line, from 1, and its value; blank lines are left out.

    Raises:
        HagdError: Of the given class, if the file cannot be read, or a line is not JSON or too
            long, naming it.
    """
    where = named(path)
    with opened(path, size, error) as file:
        number = 0
        while line := file.readline(bounds.size + 1):
            number += 1
            place = f"{where}: line {number}"
            if number > rows:
                raise error(where, got=f"more than {rows:,} lines", expected="fewer")
            if len(line) > bounds.size and not line.endswith(b"\n"):
                got = f"more than {bounds.size:,} bytes"
                raise error(place, got=got, expected="a shorter line")
            if not line.strip():
                continue
            try:
                value = parse_json(decoded(line, place, error), place, bounds, error)
            except error as problem:
                if broken is None:
                    raise
                value = broken(number, problem)
            yield number, value


def plain(value: Any, where: str, error: type[HagdError] = CheckpointError) -> Any:
    """Make sure that a parsed tree, at most a few levels deep, holds nothing but plain values.

    Args:
        value: The tree.
        where: What it is, for the message.
        error: The class of error to raise.

    Returns:
        The same.

    Raises:
        HagdError: Of the given class, naming what does not belong: a date, a number that is
            infinite or beyond 64 bits, a name that is no text, half of a surrogate pair.

    Example:
        >>> plain({"a": [1, "two"]}, "a.yaml")
        {'a': [1, 'two']}
    """
    right = value is None or isinstance(value, bool)
    if isinstance(value, str):
        if _SURROGATE.search(value):
            # YAML's escapes, as JSON writes them, may leave a pair in two characters.
            value = value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        right = not _SURROGATE.search(value)
    elif isinstance(value, int):
        right = -(2**63) <= value < 2**64
    elif isinstance(value, float):
        right = math.isfinite(value)
    elif isinstance(value, list):
        return [plain(item, where, error) for item in value]
    elif isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise error(where, got=f"the name {quoted(name)}", expected="texts as names")
        return {plain(k, where, error): plain(v, where, error) for k, v in value.items()}
    if not right:
        raise error(where, got=quoted(value), expected="texts, finite numbers, lists, mappings")
    return value


class _Refused(ValueError):
    """JSON that Python would take."""

    def __init__(self, got: str, expected: str):
        super().__init__(got)
        self.got, self.expected = got, expected


def _require_small(text: str, bounds: Bounds) -> None:
    """Hold depth and count against the bounds, before anything is built."""
    opening = text.count("[") + text.count("{")
    if opening <= bounds.depth and opening + text.count(",") < bounds.items:
        return
    # What is left has no strings in it, so each bracket and comma is one.
    bare = np.frombuffer(_STRING.sub("", text).encode("utf-8", "replace"), np.uint8)
    steps = _STEPS[bare]
    deepest = int(np.cumsum(steps, dtype=np.int32).max(initial=0))
    if deepest > bounds.depth:
        raise _Refused(f"{deepest} levels of nesting", f"at most {bounds.depth}")
    count = int((steps == 1).sum() + (bare == ord(",")).sum()) + 1
    if count > bounds.items:
        raise _Refused(f"about {count:,} values", f"at most {bounds.items:,}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _Refused(f"the name {quoted(twice)} twice", "each name once")
    return made


def _integer(text: str) -> int:
    if len(text) <= 20 and -(2**63) <= (value := int(text)) < 2**64:
        return value
    raise _Refused(quoted(text), "integers of at most 64 bits")


def _number(text: str) -> float:
    if math.isfinite(value := float(text)):
        return value
    raise _Refused(quoted(text), "finite numbers")


def _constant(text: str) -> Any:
    raise _Refused(text, "finite numbers")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant
)
