"""Masks over a tree of units: a node is open if it and every cluster above it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_list
from hagd_jax.models.arrays import read_array
from hagd_jax.search.hard_concrete import held, log_open_probability, open_probability, sample
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import UnitTree


@struct.dataclass
class Tree:
    """A tree assigns every node to a cluster of each level; the nodes are the last level.

    It is what masks see of a tree of units, as arrays: a `units.UnitTree` has one level for each of
    its depths, and clusters of nodes alone are a tree, too.

    Attributes:
        clusters: One (N,) int32 array for each level above the nodes, coarsest first.
        counts: Number of clusters of each of those levels.
        seen: The data that decided the clusters; None if that is not recorded.

    Example:
        >>> import numpy as np
        >>> from hagd_jax.search import Tree
        >>> Tree.of([np.array([0, 0, 1, 1])]).counts
        (2,)
    """

    clusters: tuple[Any, ...]
    counts: tuple[int, ...] = struct.field(pytree_node=False, default=())
    seen: Seen | None = struct.field(pytree_node=False, default=None)

    __repr__ = one_line

    @classmethod
    def of(cls, clusters: Sequence[np.ndarray] | UnitTree, *, seen: Seen | None = None) -> Tree:
        """Make a tree from levels, checking them and counting their clusters.

        Args:
            clusters: (N,) cluster of every node, one array a level, coarsest first; or the
                `Levels` that `hierarchy.clusters_of` returns, or a `units.UnitTree`, which know
                what they have seen.
            seen: The data that decided the clusters. Clusters that no data decided have seen
                `Seen.nothing()`; None is unknown.

        Returns:
            The tree.

        Raises:
            InputError: If levels are of different length, numbers are not whole and 0 or more, or
                a cluster is not within one of the level above.
        """
        own = getattr(clusters, "seen", None)
        seen = own if seen is None else seen if own is None else own | seen
        levels = clusters.depths() if isinstance(clusters, UnitTree) else clusters
        rows = [read_array("a level of the tree", level)
                for level in require_list("tree", levels, "levels of clusters")]  # fmt: skip
        for upper, lower in zip([None, *rows[:-1]][: len(rows)], rows, strict=True):
            if lower.ndim != 1 or rows[0].ndim != 1 or len(lower) != len(rows[0]) or not len(lower):
                raise InputError("tree", got=f"levels of shapes {[r.shape for r in rows]}",
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
        return cls(levels, tuple(int(level.max()) + 1 for level in rows), seen)

    def history(self) -> Seen:
        """Return the data that decided the clusters; nothing without any, unknown if unrecorded."""
        if not self.clusters:
            return Seen.nothing()
        return Seen.unknown() if self.seen is None else self.seen

    def bare(self) -> Tree:
        """Drop the history, which would only enlarge the compilation key."""
        return self.replace(seen=None)  # type: ignore[attr-defined]


def gathered(tree: Tree, values: Sequence[jax.Array]) -> list[jax.Array]:
    """Gather the values of each node's clusters: (..., N) per level, the nodes' own last."""
    above = [level[..., place] for level, place in zip(values, tree.clusters, strict=False)]
    return [*above, values[-1]]


def expected_size(
    tree: Tree, logits: Sequence[jax.Array], opened: jax.Array, shift: jax.Array
) -> jax.Array:
    """Compute the expected number of open nodes.

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
    """Shift logits so that the expected size is the requested one."""
    shift = held(lambda own, t: expected_size(tree, own, opened, t), list(logits), size)
    return [level - shift for level in logits]


def draw(
    tree: Tree, logits: Sequence[jax.Array], opened: jax.Array, key: jax.Array, rows: int
) -> jax.Array:
    """Draw masks with independent noise: a node's mask is the product down its branch of the tree.

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


def ranks(tree: Tree, logits: Sequence[jax.Array], size: jax.Array) -> jax.Array:
    """Rank nodes for a circuit of one size: by the log-probability that a mask of that size opens.

    log P(node open) = Σ over its levels of log σ(α − τ + T log 11), the open probability of the
    hard concrete distribution (`open_probability`), with the shift τ at which the expected number
    of open nodes is `size`.
    All levels decide, those that have not joined the training yet with the logits they began with.

    Args:
        tree: The tree.
        logits: Of all levels, see `expected_size`.
        size: () the size asked for.

    Returns:
        (N,) float32, at most 0; the `size` nodes with the highest ranks are the circuit.
    """
    everywhere = jnp.ones(len(logits), bool)
    own = gathered(tree, shifted(tree, logits, everywhere, size))
    return jnp.sum(log_open_probability(jnp.stack(own)), axis=0)
