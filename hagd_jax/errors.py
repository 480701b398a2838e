"""Define typed errors and checks; each error names the value got, what was expected, and a fix.

Errors are raised before tracing, so that a user never reads a traceback from inside JAX.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from typing import Any

from hagd_jax.brief import brief, quoted


class HagdError(Exception):
    """HagdError is the base class of all errors that this package raises on purpose.

    Args:
        what: The subject of the error, e.g. a file, a field or an argument.
        got: The invalid value.
        expected: Description of the valid values.
        mend: What the user can do about it, in one sentence.

    Example:
        >>> raise ConfigError("d_model", got=7, expected="a multiple of n_heads = 2")
        Traceback (most recent call last):
        ...
        hagd_jax.errors.ConfigError: d_model: got 7; expected a multiple of n_heads = 2.
    """

    def __init__(
        self, what: str, *, got: object = None, expected: str | None = None, mend: str | None = None
    ):
        parts = [] if got is None else [f"got {_short(got)}"]
        if expected is not None:
            parts.append(f"expected {_short(expected)}")
        what = _short(what)
        message = f"{what}: {'; '.join(parts)}" if parts else what
        message = message.rstrip(".") + "."
        super().__init__(_printable(f"{message} {mend}" if mend else message))


_LONGEST = 2000


def _short(value: object) -> str:
    """Cut a part of a message as a last resort; callers shorten foreign values themselves."""
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _printable(text: str) -> str:
    """Escape the characters of a text that a terminal would interpret or UTF-8 cannot encode."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


class ConfigError(HagdError, ValueError):
    """A configuration asks for something impossible or unsupported."""


class CheckpointError(HagdError, ValueError):
    """A weights file, a run folder or a checkpoint cannot be used as it is."""


class DamagedError(CheckpointError):
    """A file or a folder no longer holds what was written there."""


class BusyError(CheckpointError):
    """Another process writes to a folder."""


class OutputError(HagdError, OSError):
    """Standard output cannot be written."""


class InputError(HagdError, ValueError):
    """Tokens, prompts, masks, circuits or other arguments do not fit the model or function."""


class MeshError(HagdError, ValueError):
    """A device mesh does not exist on this machine, or does not divide an array."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; raised at points where the work so far can be saved.

    A `progress` function may raise it: the stage then saves its state, and raises it again.
    """


class TrainingError(HagdError, ArithmeticError):
    """Training reached NaN or infinity; the last finite state is kept."""


class NoCircuitError(HagdError, RuntimeError):
    """A search ended without a circuit: its result is no better than the empty circuit."""


class MissingDependencyError(HagdError, ImportError):
    """An optional package that the request needs is not installed."""


def require(holds: bool, what: str, *, got: object, expected: str, mend: str | None = None) -> None:
    """Raise a `ConfigError` unless a condition on a configuration holds.

    Args:
        holds: The condition.
        what: Name of the field.
        got: Value of the field.
        expected: Description of the valid values.
        mend: What the user can do about it.

    Raises:
        ConfigError: If the condition does not hold.

    Example:
        >>> require(3 <= 5, "first", got=3, expected="at most last = 5")
    """
    if not holds:
        raise ConfigError(what, got=got, expected=expected, mend=mend)


def require_number(
    what: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> None:
    """Raise a `ConfigError` unless a value is a finite number within bounds.

    Args:
        what: Name of the field.
        value: Value of the field.
        least: Smallest value allowed.
        above: Exclusive lower bound.
        most: Largest value allowed.
        below: Exclusive upper bound.
        whole: Whether the value must be an integer.

    Raises:
        ConfigError: If the value is not such a number; True and False are not numbers.

    Example:
        >>> require_number("share", 1.5, above=0, most=1)
        Traceback (most recent call last):
        ...
        hagd_jax.errors.ConfigError: share: got 1.5; expected a number above 0, at most 1.
    """
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    fits = (
        number
        and (isinstance(value, int) or math.isfinite(value))
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if fits:
        return
    bounds = [
        "" if least is None else f"{least} or more",
        "" if above is None else f"above {above}",
        "" if most is None else f"at most {most}",
        "" if below is None else f"below {below}",
    ]
    kind = "a whole number" if whole else "a number"
    said = ", ".join(bound for bound in bounds if bound)
    if not said:
        raise ConfigError(what, got=quoted(value), expected=f"a finite {kind[2:]}")
    joint = " " if least is None else ", "
    raise ConfigError(what, got=quoted(value), expected=f"{kind}{joint}{said}")


def require_choice(what: str, value: Any, allowed: Collection[Any]) -> None:
    """Raise a `ConfigError` unless a value is one of the allowed texts.

    Args:
        what: Name of the field.
        value: Value of the field.
        allowed: The allowed values.

    Raises:
        ConfigError: If the value is not among them.

    Example:
        >>> require_choice("norm", "rms", ("layer", "rms"))
    """
    if not isinstance(value, str) or value not in allowed:
        expected = f"one of {', '.join(map(str, allowed))}"
        raise ConfigError(what, got=quoted(value), expected=expected)


def require_is(what: str, value: Any, *kinds: type, mend: str | None = None) -> None:
    """Raise an `InputError` unless an argument is an instance of a class.

    Args:
        what: Name of the argument.
        value: Value of the argument.
        kinds: The accepted classes.
        mend: What the user can do about it.

    Raises:
        InputError: If the value is of another class.

    Example:
        >>> require_is("text", "cat", str)
    """
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(what, got=shown(value), expected=expected, mend=mend)


def require_callable(what: str, value: Any, takes: str) -> None:
    """Raise an `InputError` unless an argument can be called.

    Args:
        what: Name of the argument.
        value: Value of the argument.
        takes: The arguments that it is called with.

    Raises:
        InputError: If it cannot be called.

    Example:
        >>> require_callable("progress", print, "(stage, done, total)")
    """
    if not callable(value):
        raise InputError(what, got=shown(value), expected=f"a function of {takes}")


def require_flag(what: str, value: Any) -> None:
    """Raise a `ConfigError` unless a value is True or False.

    Args:
        what: Name of the field.
        value: Value of the field.

    Raises:
        ConfigError: If it is something else, 0 and 1 included.

    Example:
        >>> require_flag("remat", False)
    """
    if not isinstance(value, bool):
        raise ConfigError(what, got=quoted(value), expected="True or False")


def require_config(what: str, value: Any, kind: type) -> None:
    """Raise a `ConfigError` unless a field holds the configuration of a part.

    Args:
        what: Name of the field.
        value: Value of the field.
        kind: Class of the part's configuration.

    Raises:
        ConfigError: If it is something else.

    Example:
        >>> from hagd_jax.tasks import Sizes
        >>> require_config("sizes", Sizes(), Sizes)
    """
    if not isinstance(value, kind):
        mend = f"Write {what}={kind.__name__}(...)."
        raise ConfigError(what, got=shown(value), expected=f"a {kind.__name__}", mend=mend)


def require_list(what: str, value: Any, expected: str) -> list[Any]:
    """Read an iterable argument as a list.

    Args:
        what: Name of the argument.
        value: An iterable, but not a text, whose items would be characters.
        expected: Description of the valid values, for the message.

    Returns:
        The items.

    Raises:
        InputError: If the value is not iterable, or is a text.

    Example:
        >>> require_list("edges", range(3), "numbers of edges")
        [0, 1, 2]
    """
    try:
        if not isinstance(value, str | bytes):
            return list(value)
    except TypeError:
        pass
    raise InputError(what, got=shown(value), expected=expected)


def shown(value: Any) -> str:
    """Describe a value in a message by its class and a few characters of its content."""
    described = brief(value)
    known = described.startswith(type(value).__name__)
    return described if known else f"{type(value).__name__} {described}"


def require_index(
    what: str, value: Any, size: int | None = None, *, mend: str | None = None
) -> int:
    """Read an index that a user gave as a Python integer.

    Args:
        what: Name of the argument.
        value: An integer of Python, NumPy or JAX.
        size: Number of items that can be indexed, from 0; unbounded if None.
        mend: What the user can do about it.

    Returns:
        The index.

    Raises:
        InputError: If the value is not an integer (True, False and 1.0 are not), or out of range.

    Example:
        >>> require_index("layer", 3, 12)
        3
    """
    try:
        index = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        index = None
    if index is not None and index >= 0 and (size is None or index < size):
        return index
    expected = "an integer, 0 or more" if size is None else f"an integer from 0 to {size - 1}"
    if size == 0:
        expected = "none: there is nothing to index"
    raise InputError(what, got=quoted(value), expected=expected, mend=mend)
