"""Masks over a tree of nodes: a node is open if it and every cluster above it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.search.hard_concrete import held, open_probability, sample


@struct.dataclass
class Tree:
    """Which cluster of each level every node is in; the nodes themselves are the last level.

    Attributes:
        clusters: One (N,) int32 array for each level above the nodes, coarsest first.
        counts: How many clusters each of those levels has.
    """

    clusters: tuple[Any, ...]
    counts: tuple[int, ...] = struct.field(pytree_node=False, default=())

    __repr__ = one_line

    @classmethod
    def of(cls, clusters: Sequence[np.ndarray]) -> Tree:
        """Check the levels, and count their clusters.

        Raises:
            InputError: If levels are of different length, numbers are not whole and 0 or more, or
                a cluster is not within one of the level above.
        """
        rows = [np.asarray(level) for level in clusters]
        for upper, lower in zip([None, *rows[:-1]][: len(rows)], rows, strict=True):
            if lower.ndim != 1 or len(lower) != len(rows[0]) or not len(lower):
                raise InputError("tree", got=f"levels of {[len(r) for r in rows]} nodes",
                                 expected="as many in each")  # fmt: skip
            if not np.issubdtype(lower.dtype, np.integer) or lower.min() < 0:
                raise InputError("tree", got="clusters that are no numbers", expected="0 or more")
            if upper is not None and len(np.unique(np.stack([upper, lower]), axis=1)[0]) != len(
                np.unique(lower)
            ):
                raise InputError(
                    "tree", got="a cluster in two of the level above", expected="levels that nest"
                )
        levels = tuple(level.astype(np.int32) for level in rows)
        return cls(levels, tuple(int(level.max()) + 1 for level in rows))


def gathered(tree: Tree, values: Sequence[jax.Array]) -> list[jax.Array]:
    """Values of every level's clusters, for each node: (..., N) each, the nodes' own last."""
    above = [level[..., place] for level, place in zip(values, tree.clusters, strict=False)]
    return [*above, values[-1]]


def expected_size(
    tree: Tree, logits: Sequence[jax.Array], opened: jax.Array, shift: jax.Array
) -> jax.Array:
    """How many nodes are open on average.

    Args:
        tree: The tree.
        logits: (C,) of every level's clusters, coarsest first, then (N,) of the nodes.
        opened: (levels + 1,) whether each level decides yet; those that do not are open.
        shift: Subtracted from all logits.

    Returns:
        A number.
    """
    chances = [
        jnp.where(on, open_probability(level - shift), 1.0)
        for on, level in zip(opened, gathered(tree, logits), strict=True)
    ]
    return jnp.sum(jnp.prod(jnp.stack(chances), axis=0))


def shifted(
    tree: Tree, logits: Sequence[jax.Array], opened: jax.Array, size: jax.Array
) -> list[jax.Array]:
    """The same logits, shifted so that the expected size is the one asked for."""
    shift = held(lambda own, t: expected_size(tree, own, opened, t), list(logits), size)
    return [level - shift for level in logits]


def draw(
    tree: Tree, logits: Sequence[jax.Array], opened: jax.Array, key: jax.Array, rows: int
) -> jax.Array:
    """Masks with noise of their own: the product of what is drawn down the tree.

    Args:
        tree: The tree.
        logits: Of all levels, see `expected_size`.
        opened: Whether each level decides yet.
        key: PRNG key.
        rows: How many masks.

    Returns:
        (rows, N) from 0 to 1.
    """
    keys = jax.random.split(key, len(logits))
    drawn = [
        sample(level, jax.random.uniform(k, (rows, level.shape[0])))
        for k, level in zip(keys, logits, strict=True)
    ]
    masks = [
        jnp.where(on, level, 1.0) for on, level in zip(opened, gathered(tree, drawn), strict=True)
    ]
    return jnp.prod(jnp.stack(masks), axis=0)


def ranks(tree: Tree, logits: Sequence[jax.Array], opened: jax.Array) -> jax.Array:
    """(N,) by which nodes are kept: log-probability of being open, all levels together."""
    chances = [
        jnp.where(on, jax.nn.log_sigmoid(level), 0.0)
        for on, level in zip(opened, gathered(tree, logits), strict=True)
    ]
    return jnp.sum(jnp.stack(chances), axis=0)
