"""Sizes of circuits of units: limits on units and leaves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import brief
from hagd_jax.errors import InputError, require_list

# (units, leaves), or a cost: units + leaf_weight · leaves.
UnitSize = tuple[int, int] | float
# A cost that was added up differs from itself by rounding.
_ROUNDING = 1 + 1e-9


class Limit(NamedTuple):
    """A limit bounds a circuit of units, and names the cost at which masks are trained for it.

    Attributes:
        units: Largest number of units.
        leaves: Largest number of leaves.
        cost: Largest units + weight · leaves.
        weight: What a leaf costs.
    """

    units: int
    leaves: int
    cost: float
    weight: float

    def fits(self, units: Any, leaves: Any) -> Any:
        """Tell whether numbers of units and leaves are within the limit."""
        within = (units <= self.units) & (leaves <= self.leaves)
        return within & (units + self.weight * leaves <= self.cost * _ROUNDING)


def limits_of(sizes: Sequence[UnitSize], total: int, leaf_weight: float) -> tuple[Limit, ...]:
    """Read sizes as limits.

    A size (U, V) has the weight U / V and the cost 2U, so that units and leaves at their limits
    cost the same.

    Args:
        sizes: Either pairs (units, leaves) or costs, largest first.
        total: Number of leaves of the tree.
        leaf_weight: What a leaf costs where sizes are costs.

    Returns:
        A limit for each.

    Raises:
        InputError: If there is none, or one that no antichain of the tree has, or they do not
            descend.

    Example:
        >>> limits_of([(10, 40), (5, 40)], 100, 0.02)[1]
        Limit(units=5, leaves=40, cost=10.0, weight=0.125)
    """
    expected = f"pairs (units, leaves) with 1 ≤ units ≤ leaves ≤ {total}, or costs"
    listed = require_list("sizes", sizes, expected)
    if not listed:
        raise InputError("sizes", got="none", expected=expected)
    pairs = [isinstance(size, tuple | list) for size in listed]
    found = [_pair(size, total, expected) if all(pairs) else _cost(size, total, leaf_weight)
             for size in listed]  # fmt: skip
    keys = [(each.units, each.leaves, each.cost) for each in found]
    for one, after in itertools.pairwise(keys):
        if one == after or any(a < b for a, b in zip(one, after, strict=True)):
            raise InputError("sizes", got=brief(listed), expected="distinct sizes, largest first")
    return tuple(found)


def _pair(size: Any, total: int, expected: str) -> Limit:
    whole = [isinstance(n, int | np.integer) and not isinstance(n, bool) for n in size]
    if len(size) != 2 or not all(whole) or not 1 <= size[0] <= size[1] <= total:
        raise InputError("sizes", got=brief(size), expected=expected)
    units, leaves = map(int, size)
    return Limit(units, leaves, 2.0 * units, units / leaves)


def _cost(size: Any, total: int, weight: float) -> Limit:
    least, most = 1 + weight, total * (1 + weight)
    number = isinstance(size, int | float | np.number) and not isinstance(size, bool)
    if not number or not least <= size <= most:
        raise InputError("sizes", got=brief(size), expected=f"costs from {least:g} to {most:g}",
                         mend="Give either costs or pairs (units, leaves).")  # fmt: skip
    return Limit(total, total, float(size), weight)
