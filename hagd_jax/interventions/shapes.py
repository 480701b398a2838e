"""Whether arrays fit the sites they shall rewrite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hagd_jax.errors import InputError, require_is, shown


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


def require_values(what: str, values: Any, sites: Iterable[str] = (), *, axes: int = 0) -> None:
    """Check that a mapping holds arrays, those of some sites among them.

    Args:
        what: The mapping, for the message.
        values: Name → array.
        sites: Names that must be there.
        axes: How many axes an array has at least.

    Raises:
        InputError: If it is no mapping, lacks a name, or holds something else.

    Example:
        >>> require_values("values", {"neuron": np.zeros((2, 1, 5, 8))}, ["neuron"])
    """
    require_is(what, values, Mapping)
    missing = [site for site in sites if site not in values]
    if missing:
        raise InputError(
            what,
            got=sorted(map(str, values)),
            expected=f"{missing} as well",
            mend=f"Capture them: capture={tuple(sites)}.",
        )
    for name, value in values.items():
        shape = getattr(value, "shape", None)
        if shape is None or len(shape) < axes:
            got = shown(value) if shape is None else f"shape {shape}"
            expected = f"an array of {axes} axes or more" if axes else "an array"
            raise InputError(f"{what}, {name!r}", got=got, expected=expected)


def require_mask(what: str, shape: tuple[int, ...], target: tuple[int, int, int]) -> None:
    """Check that a mask has one entry per node in each layer, for all prompts or for each.

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
