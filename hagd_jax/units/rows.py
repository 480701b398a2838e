"""Nodes or edges as one row of numbers, and rows as masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.units.components import Components, Parts
from hagd_jax.units.edges import Edges
from hagd_jax.units.nodes import Nodes


def count(parts: Parts) -> int:
    """Count the nodes, or the edges that exist."""
    return len(_existing(parts)) if isinstance(parts, Components) else parts.space.nodes


def flat(parts: Parts, values: Nodes | Edges) -> np.ndarray:
    """Copy the (N,) values to the host."""
    every = values.flat()
    return every[_existing(parts)] if isinstance(parts, Components) else every


def unflat(parts: Parts, row: np.ndarray) -> Nodes | Edges:
    """Restore nodes or edges from a flat row; edges that do not exist are 0, or False."""
    if not isinstance(parts, Components):
        return Nodes.from_flat(parts.space, row)
    row = np.asarray(row)
    every = np.zeros(len(parts.space.flat()), row.dtype)
    every[_existing(parts)] = row
    return parts.space.like(every)


def masks(parts: Parts, rows: jax.Array) -> Nodes | Edges:
    """Convert (B, N) rows to masks with a prompt axis after the layers."""
    if isinstance(parts, Components):
        space = parts.space
        every = jnp.zeros((len(rows), len(space.flat()))).at[:, _existing(parts)].set(rows)
        leaves, structure = jax.tree.flatten(space)
        pieces = jnp.split(every, np.cumsum([np.size(x) for x in leaves])[:-1], axis=1)
        shaped = [p.reshape(-1, *x.shape) for p, x in zip(pieces, leaves, strict=True)]
        # The logits' reader has no layers.
        moved = [p.swapaxes(0, 1) if p.ndim > 2 else p for p in shaped]
        return jax.tree.unflatten(structure, moved)
    space = parts.space
    cut = space.layers * space.heads
    heads = rows[:, :cut].reshape(-1, space.layers, space.heads)
    features = rows[:, cut:].reshape(-1, space.layers, space.features)
    return Nodes(heads.swapaxes(0, 1), features.swapaxes(0, 1))


def _existing(parts: Components) -> np.ndarray:
    return np.flatnonzero(parts.space.flat())
