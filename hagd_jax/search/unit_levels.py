"""Masks over a tree of units, as arrays: two gates for each inner unit, one for each leaf.

A unit u is kept if its gate g is open, and opened into its children if its gate s is. With
mask(leaf) = g of the leaf, the mask of the leaves below an inner unit is

    mask(u) = g_u · ((1 − s_u) + s_u · mask(child)),

so where gates are 0 or 1 the units that are kept and not opened, with all above them kept and
opened, are an antichain, and the mask is 1 on their leaves. Gates are independent, so the expected
numbers of units and leaves of such an antichain follow the same recursion, from the leaves up:

    units(u) = g_u · ((1 − s_u) + s_u · Σ units(child)),
    leaves(u) = g_u · ((1 − s_u) · |u| + s_u · Σ leaves(child)).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.search.hard_concrete import held, open_probability, sample
from hagd_jax.units import UnitTree

# At this shift every gate is open, whatever the logits.
OPEN = -60.0
_LEAST_OPENED, _MOST_OPENED = -3.0, 3.0


class UnitLevels(NamedTuple):
    """Levels list the U inner units of a tree by depth, roots first, and place its N leaves.

    Attributes:
        parents: For each depth the (n,) int32 number of each unit's parent among those of the
            depth above; zeros for roots.
        leaf_parent: (N,) int32 number of the smallest inner unit that holds each leaf, counted
            over all depths; U for leaves that no unit holds.
        sizes: (U,) float32 leaves of each inner unit.
        number: (U,) int32 number of each inner unit in the tree's `layout`.
    """

    parents: tuple[Any, ...]
    leaf_parent: Any
    sizes: Any
    number: Any

    __repr__ = one_line


class Gates(NamedTuple):
    """Gates hold a value for each gate of a tree: logits, probabilities, or what was drawn.

    Attributes:
        kept: (..., U) g of the inner units, in the order of `UnitLevels`.
        opened: (..., U) s of the inner units.
        leaves: (..., N) g of the leaves, in the order of `Nodes.flat`.
    """

    kept: Any
    opened: Any
    leaves: Any

    __repr__ = one_line


def levels_of(tree: UnitTree) -> UnitLevels:
    """Lay out a tree by depth.

    Args:
        tree: The tree.

    Returns:
        Its levels, as NumPy arrays.

    Example:
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=4)
        >>> levels = levels_of(hagd.units.tree(init(config, jax.random.key(0))))
        >>> [len(level) for level in levels.parents], levels.sizes.tolist()
        ([1, 4], [12.0, 2.0, 4.0, 2.0, 4.0])
    """
    own = tree.layout
    total = len(own.parent)
    depth = np.zeros(total, int)
    for number, above in enumerate(own.parent.tolist()):  # a unit comes after what holds it
        depth[number] = 0 if above < 0 else depth[above] + 1
    number = np.argsort(depth, kind="stable")
    first = np.searchsorted(depth[number], np.arange(depth.max(initial=-1) + 2))
    rank = np.empty(total + 1, int)
    rank[number], rank[-1] = np.arange(total), total
    parents = [
        np.where(own.parent[part] < 0, 0, rank[own.parent[part]] - first[max(level - 1, 0)])
        for level, part in enumerate(np.split(number, first[1:-1]) if total else [])
    ]
    return UnitLevels(
        tuple(row.astype(np.int32) for row in parents),
        rank[own.leaf_parent].astype(np.int32),
        (own.stop - own.start)[number].astype(np.float32),
        number.astype(np.int32),
    )


def expected_size(levels: UnitLevels, chances: Gates) -> tuple[jax.Array, jax.Array]:
    """Compute the expected numbers of units and of leaves.

    Args:
        levels: The tree.
        chances: The probability that each gate is open, (U,), (U,) and (N,).

    Returns:
        Two numbers.
    """
    total = len(levels.sizes)
    below = jax.ops.segment_sum(chances.leaves, jnp.asarray(levels.leaf_parent), total + 1)
    # A row of units and one of leaves: of single leaves both are the same.
    held_below = jnp.stack([below, below])
    whole = jnp.stack([jnp.ones(total), jnp.asarray(levels.sizes)])
    found, stop = held_below[:, total], total
    sums = jnp.zeros((2, len(levels.parents[-1]) if levels.parents else 0))
    for level, parent in reversed(list(enumerate(levels.parents))):
        part = slice(stop - len(parent), stop)
        inside = held_below[:, part] + sums
        kept, opened = chances.kept[part], chances.opened[part]
        each = kept * ((1 - opened) * whole[:, part] + opened * inside)
        if not level:
            found = found + each.sum(1)
        else:
            above = len(levels.parents[level - 1])
            sums = jax.ops.segment_sum(each.T, jnp.asarray(parent), above).T
        stop = part.start
    return found[0], found[1]


def mask_of(levels: UnitLevels, gates: Gates) -> jax.Array:
    """Compute the mask of every leaf.

    Args:
        levels: The tree.
        gates: Values from 0 to 1, (..., U), (..., U) and (..., N).

    Returns:
        (..., N) from 0 to 1.
    """
    # Seen from a leaf its mask is base + share · (its own gate).
    room = (*gates.leaves.shape[:-1], 1)
    base, share, bases, shares, start = jnp.zeros(room), jnp.ones(room), [], [], 0
    for level, parent in enumerate(levels.parents):
        part = slice(start, start + len(parent))
        above = jnp.asarray(parent) if level else jnp.zeros(len(parent), jnp.int32)
        base, share = base[..., above], share[..., above]
        kept, opened = gates.kept[..., part], gates.opened[..., part]
        base, share = base + share * kept * (1 - opened), share * kept * opened
        bases.append(base)
        shares.append(share)
        start = part.stop
    # Leaves that no unit holds are read from the last entry.
    base = jnp.concatenate([*bases, jnp.zeros(room)], -1)[..., jnp.asarray(levels.leaf_parent)]
    share = jnp.concatenate([*shares, jnp.ones(room)], -1)[..., jnp.asarray(levels.leaf_parent)]
    return base + share * gates.leaves


def shifted(logits: Gates, shift: jax.Array | float) -> Gates:
    """Subtract a shift from the logits of g; those of s stay."""
    return Gates(logits.kept - shift, logits.opened, logits.leaves - shift)


def size_at(
    levels: UnitLevels, logits: Gates, shift: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Compute the expected numbers of units and leaves of shifted logits."""
    return expected_size(levels, Gates(*map(open_probability, shifted(logits, shift))))


def cost_at(
    levels: UnitLevels, logits: Gates, weight: jax.Array | float, shift: jax.Array | float
) -> jax.Array:
    """Compute the expected cost, units + weight · leaves, of shifted logits."""
    units, leaves = size_at(levels, logits, shift)
    return units + weight * leaves


def held_shift(
    levels: UnitLevels, logits: Gates, cost: jax.Array | float, weight: jax.Array | float
) -> jax.Array:
    """Find the shift of g at which the expected cost is the requested one, with its gradient.

    Args:
        levels: The tree.
        logits: Of all gates.
        cost: The cost; one that opening every g does not reach is cut to 98% of that.
        weight: What a leaf costs.

    Returns:
        The shift, see `hard_concrete.held`.
    """
    still = jax.lax.stop_gradient(logits)
    most = 0.98 * cost_at(levels, still, weight, OPEN)
    return held(
        lambda own, shift: cost_at(levels, own, weight, shift), logits, jnp.minimum(cost, most)
    )


def draw(levels: UnitLevels, logits: Gates, key: jax.Array, rows: int) -> jax.Array:
    """Draw masks with independent noise at every gate.

    Args:
        levels: The tree.
        logits: Of all gates, shifted.
        key: PRNG key.
        rows: How many masks.

    Returns:
        (rows, N) from 0 to 1.
    """
    keys = jax.random.split(key, len(logits))
    drawn = [sample(row, jax.random.uniform(k, (rows, len(row))))
             for k, row in zip(keys, logits, strict=True)]  # fmt: skip
    return mask_of(levels, Gates(*drawn))


def start_gates(levels: UnitLevels, scores: np.ndarray) -> Gates:
    """Convert scores of leaves to logits of all gates.

    A leaf's g is clip(½ · logit(rank) + 1, −2, 3), where rank is its share in the order of the
    scores; that of an inner unit is the mean of its leaves plus 1, since a leaf is open only if all
    units above it are. Its s depends on how unequal the scores x of its n leaves are: with the
    effective number of leaves (Σ|x|)² / Σx² (the participation ratio) as a share r of n, s is
    clip(1 + log((1 − r) / r), −3, 3). So a unit of equal leaves begins as a whole, and one whose
    score a few leaves carry begins opened. Units without any score begin opened, s = 3: where
    nothing is known, masks that begin with wholes miss small circuits.

    Args:
        levels: The tree.
        scores: (N,) higher is likelier.

    Returns:
        float32 logits of all gates.
    """
    x = np.asarray(scores, np.float64)
    rank = (np.argsort(np.argsort(x, kind="stable"), kind="stable") + 0.5) / max(len(x), 1)
    own = np.clip(0.5 * (np.log(rank) - np.log1p(-rank)) + 1, -2, 3)
    x = np.abs(x) / max(np.abs(x).max(initial=0), np.finfo(np.float64).tiny)
    sums = _sums(levels, np.stack([own, x, x**2]))
    square = sums[1] ** 2
    share = np.where(sums[2] > 0, square / np.maximum(sums[2] * levels.sizes, 1e-300), 0)
    share = np.clip(share, 1e-6, 1 - 1e-6)
    opened = np.clip(1 + np.log1p(-share) - np.log(share), _LEAST_OPENED, _MOST_OPENED)
    mean = sums[0] / np.maximum(levels.sizes, 1) + 1
    return Gates(*(jnp.asarray(row, jnp.float32) for row in (mean, opened, own)))


def _sums(levels: UnitLevels, values: np.ndarray) -> np.ndarray:
    """(K, U) sums of (K, N) values of leaves over each inner unit."""
    total = len(levels.sizes)
    sums = np.stack([np.bincount(levels.leaf_parent, row, total + 1) for row in values])
    stop = total
    for level, parent in reversed(list(enumerate(levels.parents))):
        start = stop - len(parent)
        if level:
            above = start - len(levels.parents[level - 1])
            for row in sums:
                row[above:start] += np.bincount(parent, row[start:stop], start - above)
        stop = start
    return sums[:, :total]
