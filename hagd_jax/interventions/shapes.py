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


def require_mask(what: str, shape: tuple[int, ...], target: tuple[int, int, int]) -> None:
    """Check that a mask has one entry a node in each layer, for all prompts or for each.

    Args:
        what: The nodes, for the message.
        shape: The mask's shape.
        target: Layers, prompts, nodes a layer.

    Raises:
        InputError: If it has not.

    Example:
        >>> require_mask("heads", (3, 4), (3, 8, 4))
    """
    layers, prompts, width = target
    if shape not in [(layers, width), (layers, 1, width), target]:
        raise InputError(
            f"the mask of {what}",
            got=f"shape {shape}",
            expected=f"{(layers, width)}, or with an axis of {prompts} prompts after the layers",
        )
