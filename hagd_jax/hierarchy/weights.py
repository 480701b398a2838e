"""Symmetric weights between nodes, dense or as a list of edges: what is coarsened."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_number
from hagd_jax.models.arrays import read_array

# Up to so many nodes weights are kept as a matrix.
DENSE = 4096
# What the largest weight may be; sums of many must fit float32.
_LEAST, _MOST = 1e-30, 1e30


@struct.dataclass
class Weights:
    """Weights are a symmetric non-negative matrix W of connection strengths between nodes.

    Attributes:
        dense: (N, N) float32, or None.
        senders: (E,) int32 of edges in both directions, or None.
        receivers: (E,) int32.
        weight: (E,) float32.
        count: N.
    """

    dense: Any
    senders: Any
    receivers: Any
    weight: Any
    count: int = struct.field(pytree_node=False, default=0)

    __repr__ = one_line

    def times(self, x: jax.Array) -> jax.Array:
        """Compute W x, for (N,) or (N, m)."""
        if self.dense is not None:
            return self.dense @ x
        rows = self.weight.reshape(-1, *[1] * (x.ndim - 1)) * x[self.senders]
        return jax.ops.segment_sum(rows, self.receivers, self.count)

    def matrix(self) -> jax.Array:
        """Build the (N, N) matrix W; entries of edges that end at no node are left out."""
        if self.dense is not None:
            return self.dense
        nothing = jnp.zeros((self.count, self.count), jnp.float32)
        return nothing.at[self.receivers, self.senders].add(self.weight)

    def scaled(self) -> Weights:
        """Divide the weights by the largest one."""
        held = self.weight if self.dense is None else self.dense
        most = held.max(initial=0)
        held = held / jnp.where(most > 0, most, 1)
        if self.dense is None:
            return self.replace(weight=held)  # type: ignore[attr-defined]
        return self.replace(dense=held)  # type: ignore[attr-defined]

    def degree(self) -> jax.Array:
        """Compute (N,) W 1."""
        return self.times(jnp.ones(self.count, jnp.float32))

    def merged(self, cluster: jax.Array, count: int) -> Weights:
        """Sum weights between and within clusters over their members.

        Args:
            cluster: (N,) int32 cluster of every node.
            count: How many clusters there are.

        Returns:
            The clusters' weights, dense.
        """
        if self.dense is not None:
            rows = jax.ops.segment_sum(self.dense, cluster, count)
            both = jax.ops.segment_sum(rows.T, cluster, count)
        else:
            pair = cluster[self.receivers] * count + cluster[self.senders]
            both = jax.ops.segment_sum(self.weight, pair, count * count).reshape(count, count)
        return Weights(both, None, None, None, count)


def relative(values: np.ndarray) -> np.ndarray:
    """Divide weights by the largest magnitude, which clusters do not depend on.

    Args:
        values: (E,) weights.

    Returns:
        (E,) float64; as they are if none is above 0.

    Example:
        >>> relative(np.array([1e-40, -4e-40])).tolist()
        [0.25, -1.0]
    """
    values = np.asarray(values, np.float64)
    largest = np.abs(values).max(initial=0)
    return values / largest if largest > 0 else values


def weights(
    senders: np.ndarray,
    receivers: np.ndarray,
    values: np.ndarray,
    count: int,
    *,
    dense: int = DENSE,
) -> Weights:
    """Symmetrise |A| of directed edges: W = (|A| + |A|ᵀ) / 2.

    Args:
        senders: (E,) nodes, from 0.
        receivers: (E,) nodes.
        values: (E,) signed weights; those of one pair add up after their absolute values.
        count: How many nodes there are.
        dense: Up to so many nodes the result is a matrix.

    Returns:
        The weights.

    Raises:
        InputError: If there is no node, an edge ends at none, or a weight is not finite; or if the
            largest is too small or large for float32.

    Example:
        >>> from hagd_jax.hierarchy import weights
        >>> weights([0, 1], [1, 2], [-2.0, 4.0], 3).dense.tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 2.0], [0.0, 2.0, 0.0]]
    """
    require_number("count", count, least=0, whole=True)
    require_number("dense", dense, least=0, whole=True)
    ends = [np.ravel(read_array("ends of edges", e)) for e in (senders, receivers)]
    for end in ends:
        if end.size and not np.issubdtype(end.dtype, np.integer):
            raise InputError("ends of edges", got=f"dtype {end.dtype}", expected="whole numbers")
    s, r = (np.asarray(end, np.int64) for end in ends)
    a = np.abs(np.asarray(read_array("weights of the graph", values), np.float64)).ravel()
    if count < 1 or not len(s) == len(r) == len(a):
        raise InputError("graph", got=f"{count} nodes, {len(s)}, {len(r)} and {len(a)} edge ends",
                         expected="one or more nodes, and as many of each")  # fmt: skip
    if len(s) and (min(s.min(), r.min()) < 0 or max(s.max(), r.max()) >= count):
        raise InputError("graph", got="an edge from or to no node", expected=f"0 to {count - 1}")
    if not np.isfinite(a).all():
        raise InputError("weights of the graph", got="one that is not finite", expected="numbers")
    if len(a) and a.max() and not _LEAST <= a.max() <= _MOST:
        raise InputError(
            "weights of the graph", got=f"a largest weight of {a.max():.3g}",
            expected=f"{_LEAST} to {_MOST}, where float32 neither loses nor overflows",
            mend="Multiply all weights by one number; clusters do not depend on it.",
        )  # fmt: skip
    both = np.concatenate([s, r]), np.concatenate([r, s])
    half = np.concatenate([a, a]) / 2
    if count <= dense:
        matrix = np.zeros((count, count))
        np.add.at(matrix, both, half)
        return Weights(jnp.asarray(matrix, jnp.float32), None, None, None, count)
    pair, place = np.unique(both[0] * count + both[1], return_inverse=True)
    summed = np.bincount(place, half, len(pair))
    one, other = (jnp.asarray(x, jnp.int32) for x in np.divmod(pair, count))
    return Weights(None, one, other, jnp.asarray(summed, jnp.float32), count)
