"""Whether arrays fit the sites they shall rewrite."""

from __future__ import annotations

import numpy as np

from hagd_jax.errors import InputError


def require_broadcast(what: str, shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Check that an array broadcasts to a site's value.

    Args:
        what: The array, for the message.
        shape: Its shape.
        target: Shape of the site's value.

    Raises:
        InputError: If it does not broadcast, or would make the value larger.

    Example:
        >>> require_broadcast("a bias", (8,), (2, 5, 8))
    """
    try:
        fits = np.broadcast_shapes(shape, target) == target
    except ValueError:
        fits = False
    if not fits:
        raise InputError(what, got=f"shape {shape}", expected=f"one that broadcasts to {target}")
