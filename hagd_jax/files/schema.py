"""Check parsed files against frozen dataclasses, which give types and ranges of fields."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar

import msgspec

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, HagdError

_LACKS = re.compile(r"Object missing required field `(.*)`")
_WORDS = {
    "array": "list", "null": "nothing", "`": "", "object": "a mapping", "int": "an integer",
    "str": "a text", "list": "a list", "bool": "true or false", "float": "a number", " | ": " or ",
}  # fmt: skip
T = TypeVar("T")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_SAID = re.compile(r"(.*?)(?: - at (?:`key` in )?`\$(.*)`)?", re.DOTALL)


def checked(
    kind: type[T],
    value: Any,
    where: str,
    *,
    strict: bool = True,
    error: type[HagdError] = CheckpointError,
) -> T:
    """Convert a parsed value to a dataclass, whose annotations give types and ranges.

    Integers are accepted for floats. No other conversion is made: "1", 1.0 and True are not
    integers.

    Args:
        kind: The class; `Annotated[int, msgspec.Meta(ge=0)]` gives a range.
        value: Dicts, lists and plain values.
        where: Name of the file, for the message.
        strict: Refuse fields that the class does not have, at the top level.
        error: The class of error to raise.

    Returns:
        An instance of the class.

    Raises:
        HagdError: Of the given class, naming the file, the field, the value and what was expected.

    Example:
        >>> from hagd_jax.files import Stored
        >>> checked(Stored, {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "a.st")
        Traceback (most recent call last):
        ...
        hagd_jax.errors.CheckpointError: a.st: shape[0]: got -1; expected an integer >= 0.
    """
    if strict and isinstance(value, dict) and dataclasses.is_dataclass(kind):
        known = {field.name for field in dataclasses.fields(kind)}
        for name in value:
            if name not in known:
                got = f"the field {quoted(name)}"
                raise error(where, got=got, expected=f"only {', '.join(sorted(known))}")
    try:
        return msgspec.convert(value, kind, strict=True)
    except UnicodeEncodeError as problem:
        got = "half of a surrogate pair in a text"
        raise error(where, got=got, expected="Unicode") from problem
    except msgspec.ValidationError as problem:
        if isinstance(problem.__cause__, HagdError):
            # The message of the class's own check is more specific.
            raise error(f"{where}: {problem.__cause__}") from problem
        said = _SAID.fullmatch(str(problem))
        expected, path = (said[1], said[2] or "") if said else (str(problem), "")
        place = f"{where}: {path.lstrip('.')}" if path else where
        got = quoted(_at(value, path))
        if lacks := _LACKS.fullmatch(expected):
            got, expected = f"no field {lacks[1]!r}", "every required field"
        elif expected.startswith("Invalid enum value"):
            expected = "a value that is known"
        expected = expected.removeprefix("Expected ").partition(", got ")[0]
        for theirs, ours in _WORDS.items():
            expected = expected.replace(theirs, ours)
        raise error(place, got=got, expected=expected) from problem


def _at(value: Any, path: str) -> Any:
    """Return the value at a path such as `.nodes[3][0]`; its parent if a step is ambiguous."""
    for name, place in _STEP.findall(path):
        try:
            value = value[name] if name else value[int(place)]
        except (LookupError, TypeError):
            break
    return value
