"""Parse external JSON, JSON lines and YAML strictly and within bounds.

Python's own parsers accept duplicate names, NaN, integers of a million digits and lone surrogates.
They also follow any nesting, and YAML's references can expand a few hundred bytes beyond the
memory. The functions here return trees of plain values that can be traversed, shown and written
again.
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

# A JSON string; an unterminated one matches to the end, so that matching takes linear time.
_STRING = re.compile(r'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
# Change of depth by each byte of a text without its strings.
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]], _STEPS[[ord("]"), ord("}")]] = 1, -1


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Bounds limit the size, depth and number of values of a parsed text.

    Attributes:
        size: Largest size in bytes.
        depth: Deepest nesting of lists and objects.
        items: Largest number of values on all levels together.
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
        where: Name of the text, for the message.
        bounds: Largest size, depth and number of values.
        error: The class of error to raise.

    Returns:
        Dicts, lists, texts, integers of at most 64 bits, finite floats, booleans and None.

    Raises:
        HagdError: Of the given class, if the text is not JSON (NaN and Infinity are not), an object
            has a name twice, a number is too large, a text is not Unicode, or it exceeds a bound.

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
            # Complete pairs are decoded to one character by now; lone surrogates fail to encode.
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except _Refused as problem:
        raise error(where, got=problem.got, expected=problem.expected) from None
    except UnicodeEncodeError as problem:
        got = "half of a surrogate pair in a text"
        raise error(where, got=got, expected="Unicode") from problem
    except ValueError as problem:
        got = f"a text that is not JSON ({_reason(problem)})"
        raise error(where, got=got, expected="JSON", mend=AGAIN) from problem


def _reason(problem: ValueError) -> str:
    """Say what the parser met, and where."""
    if not isinstance(problem, json.JSONDecodeError):
        return said(problem)
    return f"{said(ValueError(problem.msg))} at line {problem.lineno}, column {problem.colno}"


def read_json(
    path: str | Path, bounds: Bounds = JSON, error: type[HagdError] = CheckpointError
) -> Any:
    """Read a JSON file strictly, see `parse_json`.

    Args:
        path: The file.
        bounds: Largest size, depth and number of values.
        error: The class of error to raise.

    Returns:
        The value.

    Raises:
        HagdError: Of the given class, if the file cannot be read, or is not JSON.
    """
    return parse_json(read_text(path, bounds.size, error), named(path), bounds, error)


def read_json_object(
    path: str | Path, bounds: Bounds = JSON, error: type[HagdError] = CheckpointError
) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        bounds: Largest size, depth and number of values.
        error: The class of error to raise.

    Returns:
        The object.

    Raises:
        HagdError: Of the given class, if the file cannot be read, or is not a JSON object.
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
    r"""Read JSON lines one at a time; only "\n" ends a line, since texts may contain U+2028.

    Args:
        path: The file.
        size: Largest size of the file in bytes; unbounded if None.
        rows: Largest number of lines.
        bounds: Largest size, depth and number of values of a line.
        broken: Maps the number and the error of a line that is not JSON to the value used for it;
            if None, such a line raises its error.
        error: The class of error to raise.

    Yields:
        The number of a line, from 1, and its value; blank lines are skipped.

    Raises:
        HagdError: Of the given class, if the file cannot be read, or a line is not JSON or too
            long; the message names the line.
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
    """Check that a parsed tree, at most a few levels deep, has only plain values.

    Args:
        value: The tree.
        where: Name of the tree, for the message.
        error: The class of error to raise.

    Returns:
        The tree, with surrogate pairs joined to characters.

    Raises:
        HagdError: Of the given class, naming the first value that is not plain: a date, a number
            that is infinite or beyond 64 bits, a name that is not a text, or a lone surrogate.

    Example:
        >>> plain({"a": [1, "two"]}, "a.yaml")
        {'a': [1, 'two']}
    """
    right = value is None or isinstance(value, bool)
    if isinstance(value, str):
        if _SURROGATE.search(value):
            # YAML keeps a pair of JSON-style escapes as two characters; join them.
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
    """_Refused is raised for a text that Python's parser accepts, but that is refused here."""

    def __init__(self, got: str, expected: str):
        super().__init__(got)
        self.got, self.expected = got, expected


def _require_small(text: str, bounds: Bounds) -> None:
    """Check depth and number of values against the bounds, before any value is built."""
    opening = text.count("[") + text.count("{")
    if opening <= bounds.depth and opening + text.count(",") < bounds.items:
        return
    # Strings are removed, so that the remaining brackets and commas are structural.
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
