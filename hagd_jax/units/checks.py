"""Masks that a user gives, refused by name before anything is traced."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.core import Tracer

from hagd_jax.errors import InputError, require_is
from hagd_jax.models.arrays import read_array
from hagd_jax.units.edges import Edges
from hagd_jax.units.nodes import Nodes, Space
from hagd_jax.units.unit_edges import UnitEdges


def require_mask(what: str, mask: Any, space: Space | Edges | UnitEdges | None = None) -> None:
    """Refuse anything but a mask of nodes or edges that are each in a circuit or not.

    Args:
        what: Name of the argument.
        mask: `Nodes` or `Edges` of bool, or of numbers that are 0 or 1. Traced values are not
            looked at, only their shapes.
        space: The nodes it should be of, or `Edges` or `UnitEdges` for edges of their shapes; any
            if None.

    Raises:
        InputError: If it is something else, such as scores, holds another number, or is a mask of
            other nodes or edges.

    Example:
        >>> from hagd_jax.units import Nodes, Space
        >>> require_mask("mask", Nodes.full(Space(2, 2, 4), True), Space(2, 2, 4))
    """
    require_shapes(what, mask, space)
    for name, value in vars(mask).items():
        array = read_array(f"{what}, {name}", value)
        if array.dtype == bool or isinstance(array, Tracer):
            continue
        wrong = ~np.isin(np.asarray(array), (0, 1))
        if wrong.any():
            raise InputError(
                f"{what}, {name}", got=f"{np.asarray(array)[wrong][0]!s}",
                expected="True or False, or 0 or 1, for each",
                mend="Scores are no mask: choose with search.top_nodes, or by a threshold.",
            )  # fmt: skip


def require_shapes(what: str, values: Any, space: Space | Edges | UnitEdges | None = None) -> None:
    """Refuse anything but one value for each node or edge.

    Args:
        what: Name of the argument.
        values: `Nodes` or `Edges`.
        space: As in `require_mask`.

    Raises:
        InputError: If it is something else, or of other nodes or edges.

    Example:
        >>> from hagd_jax.units import Nodes, Space
        >>> require_shapes("scores", Nodes.full(Space(2, 2, 4), 0.5))
    """
    kinds = (
        (Nodes, Edges) if space is None else (Nodes if isinstance(space, Space) else type(space),)
    )
    mend = None if space is None else "Edges go with `components(model)`, nodes with all else."
    require_is(what, values, *kinds, mend=mend)
    shapes = {k: read_array(f"{what}, {k}", value).shape for k, value in vars(values).items()}
    if isinstance(values, Nodes):
        layers, heads, features = values.space if space is None else space  # type: ignore[misc]
        expected = {"heads": (layers, heads), "features": (layers, features)}
    elif space is None:
        return
    else:
        expected = {name: np.shape(value) for name, value in vars(space).items()}
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise InputError(f"{what}, {name}", got=f"shape {shape}", expected=f"{expected[name]}")
