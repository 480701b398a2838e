"""Masks over heads, MLPs and the leaves inside MLPs, at two expected sizes that are held exactly.

A reader takes in attention heads one by one, and of an MLP what belongs to the circuit as a whole:
a supernode. So there is a gate g for every head, for every MLP, and for every leaf inside an MLP,
which is open if its own gate and that of its MLP are. Two thresholds hold two sizes: the number of
units, heads and MLPs, and the number of leaves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.search.hard_concrete import held, open_probability, sample
from hagd_jax.units import Space

# The most of all gates that can be open at an expected size; at all of them there is no threshold.
_MOST = 0.98
# Where the gates of MLPs begin: open, as most of them have leaves in small circuits, too.
_MLP = 2.0


class SupernodeGates(NamedTuple):
    """Gates hold a value for each gate: logits, probabilities, or what was drawn.

    Attributes:
        heads: (..., L, H).
        mlps: (..., L).
        inside: (..., L, F) of the leaves inside MLPs.
    """

    heads: Any
    mlps: Any
    inside: Any

    __repr__ = one_line


class Shifts(NamedTuple):
    """Shifts are what is subtracted from logits so that expected sizes are the requested ones.

    Attributes:
        units: Of the gates of heads and MLPs.
        leaves: Of the gates inside MLPs.
    """

    units: jax.Array
    leaves: jax.Array

    __repr__ = one_line


def start_gates(space: Space, scores: np.ndarray) -> SupernodeGates:
    """Convert scores of leaves to logits of all gates: clip(½ · logit(rank) + 1, −2, 3).

    Args:
        space: Numbers of layers, heads and features.
        scores: (N,) higher is likelier.

    Returns:
        float32 logits.
    """
    x = np.asarray(scores, np.float64)
    rank = (np.argsort(np.argsort(x, kind="stable"), kind="stable") + 0.5) / max(len(x), 1)
    own = np.clip(0.5 * (np.log(rank) - np.log1p(-rank)) + 1, -2, 3).astype(np.float32)
    layers, heads, features = space
    cut = layers * heads
    return SupernodeGates(
        jnp.asarray(own[:cut].reshape(layers, heads)),
        jnp.full(layers, _MLP, jnp.float32),
        jnp.asarray(own[cut:].reshape(layers, features)),
    )


def units_at(logits: SupernodeGates, shift: jax.Array | float) -> jax.Array:
    """Compute the expected number of open heads and MLPs."""
    both = (open_probability(row - shift).sum() for row in (logits.heads, logits.mlps))
    return sum(both, jnp.float32(0))


def leaves_at(logits: SupernodeGates, shifts: Shifts) -> jax.Array:
    """Compute the expected number of open leaves: heads, and leaves inside open MLPs."""
    inside = open_probability(logits.inside - shifts.leaves).sum(-1)
    open_mlps = open_probability(logits.mlps - shifts.units)
    return open_probability(logits.heads - shifts.units).sum() + (open_mlps * inside).sum()


def held_shifts(
    logits: SupernodeGates, units: jax.Array | float, leaves: jax.Array | float
) -> Shifts:
    """Find the shifts at which both expected sizes are the requested ones, with their gradients.

    Args:
        logits: Of all gates.
        units: Heads and MLPs; more than 98% of them are cut to that.
        leaves: Leaves, cut likewise; where open heads are that many, MLPs are all but empty.

    Returns:
        The shifts, see `hard_concrete.held`.
    """
    total = logits.heads.size + logits.mlps.size
    of_units = held(units_at, logits, jnp.minimum(units, _MOST * total))

    def count(both: tuple[SupernodeGates, jax.Array], shift: jax.Array) -> jax.Array:
        return leaves_at(both[0], Shifts(both[1], shift))

    open_mlps = open_probability(jax.lax.stop_gradient(logits.mlps - of_units)).sum()
    open_heads = open_probability(jax.lax.stop_gradient(logits.heads - of_units)).sum()
    most = open_heads + _MOST * logits.inside.shape[-1] * open_mlps
    least = open_heads + 1e-3
    return Shifts(of_units, held(count, (logits, of_units), jnp.clip(leaves, least, most)))


def draw(logits: SupernodeGates, shifts: Shifts, key: jax.Array, rows: int) -> jax.Array:
    """Draw masks with independent noise at every gate.

    Args:
        logits: Of all gates.
        shifts: From `held_shifts`.
        key: PRNG key.
        rows: How many masks.

    Returns:
        (rows, N) from 0 to 1, in the order of `Nodes.flat`.
    """
    keys = jax.random.split(key, len(logits))
    moved = (logits.heads - shifts.units, logits.mlps - shifts.units, logits.inside - shifts.leaves)
    heads, mlps, inside = (
        sample(row, jax.random.uniform(own, (rows, *row.shape)))
        for own, row in zip(keys, moved, strict=True)
    )
    inside = mlps[..., None] * inside
    return jnp.concatenate([heads.reshape(rows, -1), inside.reshape(rows, -1)], -1)


def chosen(logits: SupernodeGates, units: int, leaves: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the circuit of a size: the likeliest heads and MLPs, and inside those the leaves.

    Args:
        logits: Of all gates, on the host.
        units: Largest number of heads and MLPs.
        leaves: Largest number of leaves, heads included.

    Returns:
        (N,) bool mask of the leaves, and (N,) float64 ranks: the shift up to which a leaf's own
        gate is open, and not above that of its MLP.

    Example:
        >>> gates = start_gates(Space(1, 2, 3), np.array([9, 1, 8, 2, 3]))
        >>> mask, _ = chosen(gates, 2, 2)
        >>> mask.tolist()
        [True, False, True, False, False]
    """
    heads, mlps, inside = (np.asarray(row, np.float64) for row in logits)
    both = np.concatenate([heads.ravel(), mlps])
    taken = _highest(both, units)
    of_heads, of_mlps = taken[: heads.size], taken[heads.size :]
    of_heads &= _highest(np.where(of_heads, heads.ravel(), -np.inf), leaves)
    room = min(leaves - int(of_heads.sum()), int(of_mlps.sum()) * inside.shape[-1])
    of_inside = _highest(np.where(of_mlps[:, None], inside, -np.inf).ravel(), room)
    ranks = np.concatenate([heads.ravel(), np.minimum(inside, mlps[:, None]).ravel()])
    return np.concatenate([of_heads, of_inside]), ranks


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """A mask of the highest values, of equal ones the first."""
    mask = np.zeros(len(values), bool)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask
