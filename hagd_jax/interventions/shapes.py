"""Whether arrays fit the sites they shall rewrite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jax.core import Tracer

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


def require_mask(
    what: str,
    shape: tuple[int, ...],
    target: tuple[int, int, int],
    span: Any = None,
    positions: int = 0,
) -> None:
    """Check that a mask has one entry per node in each layer, for all prompts or for each.

    Args:
        what: The nodes, for the message.
        shape: The mask's shape.
        target: Layers, prompts, nodes a layer.
        span: (prompts, positions) number of the span of each token, where the mask has an axis of
            spans before the nodes; or None.
        positions: Positions of the prompts; only read with spans.

    Raises:
        InputError: If it has not, or a number of a span is outside.

    Example:
        >>> require_mask("heads", (3, 4), (3, 8, 4))
    """
    layers, prompts, width = target
    if span is not None:
        return _require_span_mask(what, shape, target, span, positions)
    if shape not in [(layers, width), (layers, 1, width), target]:
        raise InputError(
            f"the mask of {what}",
            got=f"shape {shape}",
            expected=f"{(layers, width)}, or with an axis of {prompts} prompts after the layers",
        )


def _require_span_mask(
    what: str, shape: tuple[int, ...], target: tuple[int, int, int], span: Any, positions: int
) -> None:
    """Check a mask with an axis of spans, and which span each token is in."""
    layers, prompts, width = target
    good = len(shape) in (3, 4) and (shape[0], shape[-1]) == (layers, width)
    if not good or shape[1:-2] not in ((), (1,), (prompts,)):
        raise InputError(
            f"the mask of {what} by span",
            got=f"shape {shape}",
            expected=f"({layers}, spans, {width}), or with an axis of {prompts} prompts after the "
            "layers",
        )
    if np.shape(span) != (prompts, positions):
        raise InputError("the spans of the tokens", got=f"shape {np.shape(span)}",
                         expected=f"{(prompts, positions)}, prompts and positions")  # fmt: skip
    if not isinstance(span, Tracer) and np.size(span):
        least, most = int(np.min(span)), int(np.max(span))
        if least < 0 or most >= shape[-2]:
            raise InputError("the spans of the tokens", got=f"numbers from {least} to {most}",
                             expected=f"0 to {shape[-2] - 1}")  # fmt: skip
