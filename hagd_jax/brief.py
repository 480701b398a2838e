"""How values read in one line: in the terminal, and in messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_LONGEST = 160
_PART = 48
_ITEMS = 4
_PLAIN = bool | int | float | str | None


def one_line(self: Any) -> str:
    """Describe a dataclass or a named tuple by its fields, arrays by their shapes.

    Classes that hold arrays use it as their `__repr__`, so that `print(model)` is not its weights.

    Args:
        self: The value. No array is looked into, so it may be traced or on other machines.

    Returns:
        Its class and its fields, at most 160 characters without a line break.

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


def brief(value: Any) -> str:
    """Describe any value in a few words.

    Args:
        value: The value.

    Returns:
        Arrays as dtype and shape, collections by what and how many they hold, at most 48
        characters.

    Example:
        >>> import numpy as np
        >>> brief({"q": np.ones(3), "k": 2}), brief(np.ones(3, np.int8)), brief(range(9))
        ('{q, k}', 'int8[3]', '9 items')
    """
    if isinstance(value, _PLAIN):
        return _cut(f"{value:g}" if isinstance(value, float) else repr(value), _PART)
    if isinstance(value, np.generic):
        return repr(value)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{dtype}[{', '.join(map(str, shape))}]" if shape else f"{dtype}"
    if hasattr(value, "senders") and hasattr(value, "n_node"):
        edges = brief(value.senders).partition("[")[2].removesuffix("]")
        return f"{type(value).__name__}({edges or 'no'} edges)"
    if isinstance(value, Mapping):
        names = ", ".join(n if isinstance(n, str) and n.isprintable() else repr(n) for n in value)
        return f"{{{names}}}" if len(names) <= _PART - 2 else f"{len(value)} entries"
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        parts = [f"{name}={brief(part)}" for name, part in _fields(value)]
        text = f"{type(value).__name__}({', '.join(parts)})"
        return text if len(text) <= _PART else f"{type(value).__name__}(...)"
    if isinstance(value, list | tuple | set | frozenset | range):
        if len(value) > _ITEMS:
            return f"{len(value)} items"
        plain = all(isinstance(item, _PLAIN) for item in value)
        return _cut(repr(value) if plain else f"({', '.join(map(brief, value))})", _PART)
    if hasattr(value, "__fspath__"):
        return repr(str(value))
    return type(value).__name__


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of what a value holds, in their order."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.repr]
    else:
        names = list(value._fields)
    for name in names:
        yield name, getattr(value, name, None)


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."
