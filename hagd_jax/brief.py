"""Describe values in one line, for the terminal and for messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_LONGEST = 160
_LINE = 80
_PART = 48
_ITEMS = 4
# Deepest nesting that is described: four items on each of many levels are too many to visit.
_LEVELS = 4
_PLAIN = bool | int | float | str | None


def one_line(self: Any) -> str:
    """Describe a dataclass or a named tuple by its fields, arrays by their shapes.

    Classes with arrays use it as their `__repr__`, so that `print(model)` does not print weights.

    Args:
        self: The value. Array contents are not read, so arrays may be traced or on other machines.

    Returns:
        The class and its fields, in at most 160 characters without a line break.

    Example:
        >>> import typing, numpy as np
        >>> class Pair(typing.NamedTuple):
        ...     name: str
        ...     values: typing.Any
        >>> one_line(Pair("a", np.ones((3, 4))))
        "Pair(name='a', values=float64[3, 4])"
    """
    if not (dataclasses.is_dataclass(self) or hasattr(self, "_fields")):
        return brief(self)
    parts = ", ".join(f"{name}={brief(part)}" for name, part in _fields(self))
    return _cut(f"{type(self).__name__}({parts}", _LONGEST - 1) + ")"


def quoted(value: Any) -> str:
    """Quote an external value for a message: on one line, escaped and shortened.

    Args:
        value: Any value from a file or a user.

    Returns:
        At most 80 printable characters. Numbers are exact; a large collection is only described,
        since its `repr` may not fit in memory.

    Example:
        >>> quoted("a" * 1000)[-5:], quoted(0.1), quoted(10**500)
        ('aa...', '0.1', 'an integer of 1661 bits')
    """
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | bytes):
        text = repr(value[:_LINE])
        return text if len(text) <= _LINE and len(value) <= _LINE else f"{text[: _LINE - 3]}..."
    return _cut(repr(value) if isinstance(value, _PLAIN) else brief(value), _LINE)


def brief(value: Any, levels: int = _LEVELS) -> str:
    """Describe any value in a few words.

    Args:
        value: The value.
        levels: Number of nested collections that are described.

    Returns:
        A description of at most 48 characters: dtype and shape of an array, the contents or the
        number of items of a collection.

    Example:
        >>> import numpy as np
        >>> brief({"q": np.ones(3), "k": 2}), brief(np.ones(3, np.int8)), brief(range(9))
        ('{q, k}', 'int8[3]', '9 items')
    """
    if isinstance(value, _PLAIN):
        return _cut(f"{value:g}" if isinstance(value, float) else quoted(value), _PART)
    if isinstance(value, np.generic):
        return repr(value)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{dtype}[{', '.join(map(str, shape))}]" if shape else f"{dtype}"
    if hasattr(value, "senders") and hasattr(value, "n_node"):
        edges = brief(value.senders).partition("[")[2].removesuffix("]")
        return f"{type(value).__name__}({edges or 'no'} edges)"
    if isinstance(value, Mapping):
        names = ", ".join(map(spelled, value)) if len(value) < _PART else "." * _PART
        return f"{{{names}}}" if len(names) <= _PART - 2 else f"{len(value)} entries"
    if levels < 1:
        return type(value).__name__
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        parts = [f"{name}={brief(part, levels - 1)}" for name, part in _fields(value)]
        text = f"{type(value).__name__}({', '.join(parts)})"
        return text if len(text) <= _PART else f"{type(value).__name__}(...)"
    if isinstance(value, list | tuple | set | frozenset | range):
        if len(value) > _ITEMS:
            return f"{len(value)} items"
        if all(isinstance(item, _PLAIN) and len(quoted(item)) <= _PART for item in value):
            return _cut(repr(value), _PART)
        return _cut(f"({', '.join(brief(item, levels - 1) for item in value)})", _PART)
    if hasattr(value, "__fspath__"):
        return quoted(str(value))
    return type(value).__name__


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of the fields of a dataclass or named tuple, in order."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.repr]
    else:
        names = list(value._fields)
    for name in names:
        yield name, getattr(value, name, None)


def said(error: BaseException) -> str:
    """Return the message of another library's error on one line, shortened.

    Args:
        error: The error.

    Returns:
        At most 200 characters.

    Example:
        >>> said(ValueError("one line" + chr(10) + "and another"))
        'one line and another'
    """
    return _cut(str(error) or type(error).__name__, 200)


def spelled(value: Any) -> str:
    """Return an external name unchanged if it is short and printable, and quoted if not."""
    short = isinstance(value, str) and len(value) <= _LINE and value.isprintable()
    return value if short else quoted(value)


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."
