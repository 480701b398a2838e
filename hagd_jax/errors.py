"""Typed errors, each naming the value got, what was expected, and how to mend it; and checks.

They are raised before tracing, so a user never reads a traceback from deep inside JAX.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from typing import Any

from hagd_jax.brief import brief


class HagdError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: The subject, e.g. a file, a field or an argument.
        got: The value found.
        expected: What would have been right.
        mend: What the user can do about it (one sentence).

    Example:
        >>> raise ConfigError("d_model", got=7, expected="a multiple of n_heads = 2")
        Traceback (most recent call last):
        ...
        hagd_jax.errors.ConfigError: d_model: got 7; expected a multiple of n_heads = 2.
    """

    def __init__(
        self, what: str, *, got: object = None, expected: str | None = None, mend: str | None = None
    ):
        parts = [] if got is None else [f"got {got}"]
        if expected is not None:
            parts.append(f"expected {expected}")
        message = f"{what}: {'; '.join(parts)}" if parts else what
        message = message.rstrip(".") + "."
        super().__init__(f"{message} {mend}" if mend else message)


class ConfigError(HagdError, ValueError):
    """A configuration asks for something impossible or unsupported."""


class CheckpointError(HagdError, ValueError):
    """A weights file, a run folder or a checkpoint cannot be used as it is."""


class DamagedError(CheckpointError):
    """A file or a folder no longer holds what was written there."""


class BusyError(CheckpointError):
    """Another process writes to a folder."""


class OutputError(HagdError, OSError):
    """Standard output cannot be written to."""


class InputError(HagdError, ValueError):
    """Tokens, prompts, masks or circuits that do not fit the model."""


class MeshError(HagdError, ValueError):
    """A device mesh that does not exist here or does not divide an array."""


class Interrupted(KeyboardInterrupt):
    """Somebody asked the run to stop; raised where the work so far can be saved.

    A `progress` function may raise it: the stage saves its state, and raises it again.
    """


class TrainingError(HagdError, ArithmeticError):
    """Training met NaN or infinity; what it had learnt before is kept."""


class NoCircuitError(HagdError, RuntimeError):
    """A search ended without a circuit: what it found does no more than the empty circuit."""


class MissingDependencyError(HagdError, ImportError):
    """An optional package is needed for what was asked."""


def require(holds: bool, what: str, *, got: object, expected: str, mend: str | None = None) -> None:
    """Raise a `ConfigError` unless a condition on a configuration holds.

    Args:
        holds: The condition.
        what: The field.
        got: Its value.
        expected: What would have been right.
        mend: What the user can do about it.

    Raises:
        ConfigError: If it does not hold.

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
        what: The field.
        value: Its value.
        least: Smallest value allowed.
        above: Bound that it must exceed.
        most: Largest value allowed.
        below: Bound that it must stay under.
        whole: Whether it must be an integer.

    Raises:
        ConfigError: If it is something else; True and False are no numbers.

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
        raise ConfigError(what, got=repr(value), expected=f"a finite {kind[2:]}")
    joint = " " if least is None else ", "
    raise ConfigError(what, got=repr(value), expected=f"{kind}{joint}{said}")


def require_choice(what: str, value: Any, allowed: Collection[Any]) -> None:
    """Raise a `ConfigError` unless a value is one of a few.

    Args:
        what: The field.
        value: Its value.
        allowed: The few.

    Raises:
        ConfigError: If it is another.

    Example:
        >>> require_choice("norm", "rms", ("layer", "rms"))
    """
    if not isinstance(value, str) or value not in allowed:
        expected = f"one of {', '.join(map(str, allowed))}"
        raise ConfigError(what, got=repr(value), expected=expected)


def require_is(what: str, value: Any, *kinds: type, mend: str | None = None) -> None:
    """Raise an `InputError` unless an argument is an instance of a class.

    Args:
        what: The argument.
        value: Its value.
        kinds: The classes that will do.
        mend: What the user can do about it.

    Raises:
        InputError: If it is of another class.

    Example:
        >>> require_is("text", "cat", str)
    """
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(what, got=shown(value), expected=expected, mend=mend)


def require_list(what: str, value: Any, expected: str) -> list[Any]:
    """Read an argument that lists things.

    Args:
        what: The argument.
        value: An iterable; not a text, whose items would be characters.
        expected: What would be right, for the message.

    Returns:
        Its items.

    Raises:
        InputError: If it lists nothing.

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
    """What a value of some class is called in a message: its class, and a few characters of it."""
    described = brief(value)
    known = described.startswith(type(value).__name__)
    return described if known else f"{type(value).__name__} {described}"


def require_index(
    what: str, value: Any, size: int | None = None, *, mend: str | None = None
) -> int:
    """Read an index that a user gave, as a Python integer.

    Args:
        what: The argument.
        value: An integer of Python, NumPy or JAX.
        size: How many things there are, if that is known; indices count from 0.
        mend: What the user can do about it.

    Returns:
        The index.

    Raises:
        InputError: If it is no integer (True, False and 1.0 are none), or outside.

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
    raise InputError(what, got=repr(value)[:80], expected=expected, mend=mend)
