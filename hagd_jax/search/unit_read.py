"""Reading circuits of units from masks: the antichain that gates describe, up to a size."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.search.hard_concrete import open_probability
from hagd_jax.search.unit_levels import Gates, UnitLevels
from hagd_jax.search.unit_sizes import Limit
from hagd_jax.units import Unit, UnitTree


class Read(NamedTuple):
    """A reading is a circuit of units, with the rank of each.

    Attributes:
        units: An antichain, in the order of the tree.
        ranks: For each unit the least logit of g of itself and of all units above it: the shift
            up to which it is in the circuit.
    """

    units: tuple[Unit, ...]
    ranks: tuple[float, ...]

    __repr__ = one_line

    @property
    def leaves(self) -> int:
        """Return the number of leaves."""
        return sum(map(len, self.units))


def read_units(tree: UnitTree, levels: UnitLevels, logits: Gates, limit: Limit) -> Read:
    """Read the largest circuit within a limit that gates describe at some shift of g.

    Whether a unit is opened, P(s > 0) > ½, does not depend on the shift; one that is too large for
    the limit counts as opened. So units that are not opened, and leaves, below opened units alone,
    divide the tree, and each is in the circuit up to a shift of its own. Circuits only grow as the
    shift falls: the result of a bisection on the shift is a prefix of this order, in which equals
    come in the order of the tree.

    Args:
        tree: The tree.
        levels: Its levels.
        logits: Of all gates, on the host.
        limit: What the circuit must fit.

    Returns:
        The circuit; it has at least one unit.

    Example:
        >>> from hagd_jax.models import DecoderConfig, init
        >>> from hagd_jax.search.unit_levels import levels_of, start_gates
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=4)
        >>> tree = hagd.units.tree(init(config, jax.random.key(0)))
        >>> levels = levels_of(tree)
        >>> logits = start_gates(levels, np.arange(12) == 3)
        >>> [unit.name for unit in read_units(tree, levels, logits, Limit(1, 2, 2.0, 0.5)).units]
        ['head 1.1']
    """
    kept, opened, leaves = (np.asarray(row, np.float64) for row in logits)
    total, sizes = len(levels.sizes), np.asarray(levels.sizes, np.int64)
    split = np.asarray(open_probability(jnp.asarray(opened))) > 0.5
    split |= ~limit.fits(np.ones(total, int), sizes)
    # Of what holds each unit: whether all of it is opened, and its least logit. The last entry
    # stands for what no unit holds.
    reached, least = np.ones(total + 1, bool), np.full(total + 1, np.inf)
    inside, start, above = np.ones(total, bool), 0, slice(total, total + 1)
    for parent in levels.parents:
        part = slice(start, start + len(parent))
        inside[part] = reached[above][parent]
        reached[part] = inside[part] & split[part]
        least[part] = np.minimum(least[above][parent], kept[part])
        start, above = part.stop, part
    whole = np.flatnonzero(inside & ~split)
    single = np.flatnonzero(reached[levels.leaf_parent])
    rank = np.concatenate(
        [least[whole], np.minimum(least[levels.leaf_parent[single]], leaves[single])]
    )
    own = tree.layout
    place = np.concatenate([own.start[levels.number[whole]], own.at[single]])
    size = np.concatenate([sizes[whole], np.ones(len(single), int)])
    order = np.lexsort([place, -rank])
    fits = limit.fits(np.arange(1, len(order) + 1), np.cumsum(size[order]))
    chosen = order[: int(np.argmin(fits)) if not fits.all() else len(order)]
    chosen = chosen[np.argsort(place[chosen])]
    numbers = [int(levels.number[whole[i]]) if i < len(whole) else -1 - int(single[i - len(whole)])
               for i in chosen]  # fmt: skip
    units = (tree.inner(n) if n >= 0 else tree.leaf(-1 - n) for n in numbers)
    return Read(tuple(units), tuple(rank[chosen].tolist()))
