"""Arrays that a user gives, read before tracing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from hagd_jax.errors import InputError, shown


def read_array(what: str, value: Any, expected: str = "an array of numbers") -> Any:
    """Read an argument as an array.

    Args:
        what: The argument, for the message.
        value: An array of JAX (traced ones too) or NumPy, a number, or nested lists of numbers.
        expected: What would be right, for the message.

    Returns:
        A `jax.Array` as it is, anything else as a NumPy array.

    Raises:
        InputError: If it is no array of numbers or booleans, or has rows of unequal length.

    Example:
        >>> read_array("weight", [[1, 2], [3, 4]]).shape
        (2, 2)
    """
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(what, got="rows of unequal length", expected=expected) from error
    if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise InputError(what, got=shown(value), expected=expected)
    return array


def read_indices(what: str, value: Any, size: int, shape: tuple[int | None, ...]) -> Any:
    """Read an argument as indices.

    Args:
        what: The argument, for the message.
        value: As for `read_array`.
        size: How many things are indexed; values are looked at where they are concrete.
        shape: Its shape; None stands for any positive size.

    Returns:
        The array.

    Raises:
        InputError: If it has another shape, is not of integers, or one of them is outside.

    Example:
        >>> read_indices("order", [2, 0, 1], 3, (3,)).tolist()
        [2, 0, 1]
    """
    form = str(tuple("n" if n is None else n for n in shape)).replace("'n'", "n")
    most = ", n at least 1" if None in shape else ""
    expected = f"integers from 0 to {size - 1} of shape {form}{most}"
    array = read_array(what, value, expected)
    fits = len(array.shape) == len(shape) and all(
        have > 0 if want is None else have == want
        for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise InputError(what, got=f"shape {array.shape}", expected=expected)
    if not jnp.issubdtype(array.dtype, np.integer):
        raise InputError(what, got=f"dtype {array.dtype}", expected=expected)
    if array.size and not isinstance(array, Tracer):
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= size:
            raise InputError(what, got=f"{low} to {high}", expected=f"0 to {size - 1}")
    return array


def require_key(key: Any, what: str = "key") -> None:
    """Refuse what is no PRNG key of JAX, typed or raw.

    Args:
        key: The argument.
        what: Its name, for the message.

    Raises:
        InputError: If it is something else, such as a seed.

    Example:
        >>> require_key(jax.random.key(0))
    """
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = isinstance(key, jax.Array) and (key.dtype, key.shape) == (jnp.uint32, (2,))
    if not raw and not (typed and key.shape == ()):
        raise InputError(what, got=shown(key), expected="one key, such as jax.random.key(0)")
