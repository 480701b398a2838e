"""Masks over heads, MLPs and the leaves inside MLPs, at an exact number of leaves and few units.

What belongs to a circuit of an attention block or of an MLP is one unit: a supernode. A reader
takes in the heads of the former one by one, too, and the latter as a whole. So a circuit of at most
U units has at most U supernodes, and at most as many heads, or another number of heads for each
unit. There is a gate g for every head, for every MLP, and for every leaf inside an MLP, which is
open if its own gate and that of its MLP are. One threshold holds the expected number of leaves;
where that leaves more units open than asked for, a second one of heads and MLPs holds their number.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.search.hard_concrete import farthest, held, open_probability, sample
from hagd_jax.units import Space

# The most of all gates that can be open at an expected size; at all of them there is no threshold.
_MOST = 0.98
# Where the gates of MLPs begin: open, as most of them have leaves in small circuits, too.
_MLP = 2.0


class UnitGates(NamedTuple):
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


def start_gates(space: Space, scores: np.ndarray) -> UnitGates:
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
    return UnitGates(
        jnp.asarray(own[:cut].reshape(layers, heads)),
        jnp.full(layers, _MLP, jnp.float32),
        jnp.asarray(own[cut:].reshape(layers, features)),
    )


def units_at(logits: UnitGates, shift: jax.Array | float, heads_each: float = 1.0) -> jax.Array:
    """Compute the expected number of open blocks, or what its open heads count if that is more."""
    heads, mlps = (open_probability(row - shift) for row in (logits.heads, logits.mlps))
    blocks = (1 - jnp.prod(1 - heads, -1)).sum() + mlps.sum()
    return jnp.maximum(heads.sum() / heads_each, blocks)


def leaves_at(logits: UnitGates, shifts: Shifts) -> jax.Array:
    """Compute the expected number of open leaves: heads, and leaves inside open MLPs."""
    inside = open_probability(logits.inside - shifts.leaves).sum(-1)
    open_mlps = open_probability(logits.mlps - shifts.units)
    return open_probability(logits.heads - shifts.units).sum() + (open_mlps * inside).sum()


def held_shifts(
    logits: UnitGates,
    units: jax.Array | float,
    leaves: jax.Array | float,
    heads_each: float = 1.0,
) -> Shifts:
    """Find the shifts at which expected sizes are the requested ones, with their gradients.

    Args:
        logits: Of all gates.
        units: Largest number of units.
        leaves: Number of leaves; more than 98% of them are cut to that.
        heads_each: Heads that count as a unit.

    Returns:
        The shifts, see `hard_concrete.held`: one shift of all gates where that opens at most so
        many units, else two.
    """
    leaves = jnp.minimum(leaves, _MOST * (logits.heads.size + logits.inside.size))
    alike = held(lambda own, shift: leaves_at(own, Shifts(shift, shift)), logits, leaves)
    counted = functools.partial(units_at, heads_each=heads_each)
    of_units = jnp.maximum(alike, held(counted, logits, jnp.asarray(units, jnp.float32)))

    def count(both: tuple[UnitGates, jax.Array], shift: jax.Array) -> jax.Array:
        return leaves_at(both[0], Shifts(both[1], shift))

    still = jax.lax.stop_gradient((logits, of_units))
    far = farthest(still)
    most, least = (leaves_at(still[0], Shifts(still[1], x)) for x in (-far, far))
    room = jnp.clip(leaves, least + 1e-3, jnp.maximum(_MOST * most, least + 2e-3))
    return Shifts(of_units, held(count, (logits, of_units), room))


def draw(logits: UnitGates, shifts: Shifts, key: jax.Array, rows: int) -> jax.Array:
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


def chosen(
    logits: UnitGates, units: int, leaves: int, heads_each: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Read the circuit of a size from the logits.

    Args:
        logits: Of all gates, on the host.
        units: Largest number of open blocks.
        leaves: Largest number of leaves, heads included.
        heads_each: Heads that count as a unit.

    Returns:
        (N,) bool mask of the leaves, and (N,) float64 ranks: the shift of all gates up to which a
        leaf is open. These are the leaves of the highest ranks; or if those lie in too many units,
        the likeliest heads and MLPs, as many as fit, and in these the likeliest leaves.

    Example:
        >>> gates = start_gates(Space(1, 2, 3), np.array([9, 1, 8, 2, 3]))
        >>> mask, _ = chosen(gates, 2, 2)
        >>> mask.tolist()
        [True, False, True, False, False]
    """
    heads, mlps, inside = (np.asarray(row, np.float64) for row in logits)
    ranks = np.concatenate([heads.ravel(), np.minimum(inside, mlps[:, None]).ravel()])
    # Of leaves that their MLP's gate holds at one rank, those with the highest gates come first.
    own = np.concatenate([heads.ravel(), inside.ravel()])
    mask = np.zeros(len(ranks), bool)
    mask[np.lexsort([-own, -ranks])[:leaves]] = True
    held_mlps = np.asarray(_inside(mask, inside).any(1))
    if units_of(mask[: heads.size].reshape(heads.shape), held_mlps, heads_each) <= units:
        return mask, ranks
    of_heads, of_mlps = _fitting(heads, mlps, units, heads_each)
    of_heads &= _highest(np.where(of_heads, heads.ravel(), -np.inf), leaves)
    room = min(leaves - int(of_heads.sum()), int(of_mlps.sum()) * inside.shape[-1])
    of_inside = _highest(np.where(of_mlps[:, None], inside, -np.inf).ravel(), room)
    return np.concatenate([of_heads, of_inside]), ranks


def units_of(heads: np.ndarray, mlps: np.ndarray, heads_each: float = 1.0) -> int:
    """Count the units of a circuit whose supernodes are closed, see `units_at`.

    Args:
        heads: (L, H) bool, its heads.
        mlps: (L,) bool, the MLPs that it has leaves of.
        heads_each: Heads that count as a unit.

    Example:
        >>> heads = np.array([[True, True], [True, True]])
        >>> [units_of(heads, np.array([True, False]), each) for each in (1, 2)]
        [4, 3]
    """
    return max(math.ceil(heads.sum() / heads_each), int(heads.any(-1).sum() + mlps.sum()))


def _fitting(
    heads: np.ndarray, mlps: np.ndarray, units: int, heads_each: float
) -> tuple[np.ndarray, np.ndarray]:
    """(L · H,) heads and (L,) MLPs: the likeliest of both before the first that is too many."""
    order = np.argsort(-np.concatenate([heads.ravel(), mlps]), kind="stable")
    of_heads, of_mlps = np.zeros(heads.shape, bool), np.zeros(mlps.shape, bool)
    for place in order.tolist():
        row, at = (of_heads.ravel(), place) if place < heads.size else (of_mlps, place - heads.size)
        row[at] = True
        if units_of(of_heads, of_mlps, heads_each) > units:
            row[at] = False
            break
    return of_heads.ravel(), of_mlps


def _inside(mask: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return mask[-inside.size :].reshape(inside.shape)


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """A mask of the highest values, of equal ones the first."""
    mask = np.zeros(len(values), bool)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask
