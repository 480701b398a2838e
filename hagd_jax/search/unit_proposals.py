"""Changes of a circuit of units that may be worth measuring, the likeliest first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hagd_jax.search.unit_sizes import Limit
from hagd_jax.units import Unit, UnitTree

Chain = tuple[Unit, ...]
_Worth = Callable[[Unit], float]


def proposals(
    tree: UnitTree, units: Chain, slope: np.ndarray, limit: Limit, most: int
) -> list[Chain]:
    """Propose changes of a circuit that stay within a limit, likeliest first within each kind.

    A merge replaces all units inside the parent of one by that parent; a split opens a unit and
    keeps those of its children that are worth most; a swap lets a unit out and one in; an addition
    only lets one in, and a drop only lets one out. Swaps and drops of 2, 4, 8, ... units at once
    come last. A unit is worth minus the sum of the slope.

    Args:
        tree: The tree.
        units: The circuit.
        slope: (N,) gradient of the loss with respect to the mask of the leaves.
        limit: What the circuits must fit.
        most: Largest number of changes of each kind.

    Returns:
        Distinct antichains, in the order of the tree.

    Example:
        >>> tree = hagd.units.tree(hagd.testbeds.hand_built()[0].model)
        >>> slope = -np.arange(10.0)
        >>> for chain in proposals(tree, tree.antichain(["head 0.3"]), slope, Limit(1, 4, 9, 1), 1):
        ...     print([unit.name for unit in chain])
        ['attention 0']
        ['neuron 0.5']
    """

    def worth(unit: Unit) -> float:
        return -float(sum(slope[start:stop].sum() for start, stop in unit.ranges))

    outside = (unit for unit in _outside(tree, units) if _fits((unit,), limit))
    entering = sorted(outside, key=lambda unit: (-worth(unit), unit.ranges))
    leaving = sorted(units, key=lambda unit: (worth(unit), unit.ranges))
    kinds: list[Iterator[Chain]] = [
        _merges(tree, units, worth),
        _splits(tree, units, worth, limit),
        _swaps(units, leaving, entering, limit, math.isqrt(most)),
        ((*units, into) for into in entering),
        (_without(units, out) for out in leaving),
        _together(units, leaving, ()),
        _together(units, leaving, entering),
    ]  # fmt: skip
    found, known = [], {frozenset(unit.name for unit in units)}
    for kind in kinds:
        count = 0
        for chain in kind:
            names = frozenset(unit.name for unit in chain)
            if count == most:
                break
            if names not in known and _fits(chain, limit):
                known.add(names)
                found.append(tuple(sorted(chain, key=lambda u: tree.layout.at[u.ranges[0][0]])))
                count += 1
    return found


def _outside(tree: UnitTree, units: Chain) -> list[Unit]:
    """All units without a leaf in the circuit: the largest ones, and what is inside them."""
    found, waiting = [], list(tree.rest(units))
    while waiting:
        unit = waiting.pop()
        found.append(unit)
        waiting += tree.children(unit)
    return found


def _fits(chain: Chain, limit: Limit) -> bool:
    """Whether a circuit is within a limit; the empty one is none."""
    return bool(chain) and bool(limit.fits(len(chain), sum(map(len, chain))))


def _swaps(
    units: Chain, leaving: Sequence[Unit], entering: Sequence[Unit], limit: Limit, side: int
) -> Iterator[Chain]:
    """Each of the units that are worth least for the best ones that fit in its place."""
    for out in leaving[:side]:
        tried = (_without(units, out, into) for into in entering)
        yield from itertools.islice((chain for chain in tried if _fits(chain, limit)), side)


def _without(units: Chain, out: Unit, *into: Unit) -> Chain:
    return (*(unit for unit in units if unit != out), *into)


def _together(units: Chain, leaving: Sequence[Unit], entering: Sequence[Unit]) -> Iterator[Chain]:
    """The circuit without 2, 4, 8, ... of the units that are worth least, and with as many others.

    Units that make up for each other are each better out than in, but not all of them at once: how
    many may leave is measured.
    """
    into: list[Unit] = []
    for unit in entering:
        if not any(_overlap(unit, other) for other in into):
            into.append(unit)
        if len(into) == len(units):
            break
    for power in range(1, len(units).bit_length()):
        some = leaving[: 2**power]
        if len(some) < 2**power or len(some) == len(units):
            return
        kept = tuple(unit for unit in units if unit not in some)
        if not entering:
            yield kept
        elif len(into) >= len(some):
            yield (*kept, *into[: len(some)])


def _overlap(unit: Unit, other: Unit) -> bool:
    """Whether two units share a leaf."""
    return any(a < d and c < b for a, b in unit.ranges for c, d in other.ranges)


def _merges(tree: UnitTree, units: Chain, worth: _Worth) -> Iterator[Chain]:
    """The circuit with all that is inside a parent replaced by it; most worth first."""
    parents = {above.name: above for unit in units if (above := tree.parent(unit))}
    for above in sorted(parents.values(), key=lambda unit: (-worth(unit), unit.ranges)):
        inside = set(above.places().tolist())
        yield (*(unit for unit in units if unit.ranges[0][0] not in inside), above)


def _splits(tree: UnitTree, units: Chain, worth: _Worth, limit: Limit) -> Iterator[Chain]:
    """The circuit with a unit replaced by its best children: as many as fit, half, and one."""
    for unit in sorted((u for u in units if not u.leaf), key=lambda u: (worth(u), u.ranges)):
        rest = _without(units, unit)
        below = sorted(tree.children(unit), key=lambda u: (-worth(u), u.ranges))
        room = min(limit.units - len(rest), len(below))
        for count in dict.fromkeys((room, max(room // 2, 1), 1)):
            yield (*rest, *below[:count])
