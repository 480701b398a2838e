"""Reading circuits of heads and supernodes: what the gates keep, as an antichain of a tree."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.search.unit_gates import UnitGates, chosen
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Space, Unit, UnitTree
from hagd_jax.units.tree import BANDWIDTH, block_of, tree_of


class Read(NamedTuple):
    """A reading is a circuit of units, with the rank of each.

    Attributes:
        units: An antichain, in the order of the tree.
        ranks: For each unit the largest of its leaves' ranks, see `unit_gates.chosen`.
    """

    units: tuple[Unit, ...]
    ranks: tuple[float, ...]

    __repr__ = one_line

    @property
    def leaves(self) -> int:
        """Return the number of leaves."""
        return sum(map(len, self.units))


def read_units(
    space: Space,
    dictionary: str,
    gates: Sequence[UnitGates],
    sizes: Sequence[tuple[int, int]],
    seen: Seen,
    clusters: Sequence[np.ndarray] = (),
    heads_each: float = 1.0,
) -> tuple[UnitTree, list[Read]]:
    """Read a circuit of each size, and the tree that their units are of.

    What the smallest circuit keeps of a block is a cluster of the tree. Level by level, clusters
    are then divided by what the next larger circuit keeps, so that these circuits, too, consist of
    clusters; one that would have too many units leaves out the unlikeliest. Below them are the
    given clusters, cut at those above. A circuit that has room for more units has units opened,
    those of the fewest parts first.

    Args:
        space: Numbers of layers, heads and features.
        dictionary: Label of the dictionary whose nodes the leaves are.
        gates: Logits of all gates for each size, on the host.
        sizes: Pairs (units, leaves), largest first.
        seen: The data that decided the gates and the given clusters.
        clusters: (N,) clusters of every leaf, one array for each level, coarsest first, such as
            those of the task's graph.
        heads_each: Heads that count as a unit, see `UnitMaskConfig.heads_each`.

    Returns:
        The tree, and the circuits in the order of the sizes.

    Example:
        >>> from hagd_jax.search.unit_gates import start_gates
        >>> gates = start_gates(hagd.units.Space(1, 1, 4), np.array([9, 8, 7, 1, 2]))
        >>> space, seen = hagd.units.Space(1, 1, 4), hagd.tasks.Seen.nothing()
        >>> tree, (found,) = read_units(space, "neurons", [gates], [(2, 3)], seen)
        >>> [(unit.name, len(unit)) for unit in found.units]
        [('head 0.0', 1), ('cluster 0.0', 2)]
        >>> _, (found,) = read_units(space, "neurons", [gates], [(3, 3)], seen)
        >>> [unit.name for unit in found.units]
        ['head 0.0', 'neuron 0.0', 'neuron 0.1']
    """
    read = [chosen(each, *size, heads_each) for each, size in zip(gates, sizes, strict=True)]
    masks = [mask for mask, _ in read]
    tree = tree_of(space, dictionary, levels_of(space, masks[::-1], clusters), BANDWIDTH, seen)
    return tree, [
        _units(tree, mask, ranks, size[0]) for (mask, ranks), size in zip(read, sizes, strict=True)
    ]


def levels_of(
    space: Space, masks: Sequence[np.ndarray], clusters: Sequence[np.ndarray] = ()
) -> list[np.ndarray]:
    """Make clusters of what masks keep of each block, and inside them of what clusters hold.

    Args:
        space: Numbers of layers, heads and features.
        masks: (N,) bool, that of the coarsest level first.
        clusters: (N,) clusters of every leaf, coarsest level first.

    Returns:
        (N,) clusters of every leaf for each mask and level, each inside the one before.
    """
    labels, levels = block_of(space).astype(np.int64), []
    for row in (*masks, *clusters):
        pairs = np.stack([labels, row])
        labels = np.unique(pairs, axis=1, return_inverse=True)[1].ravel().astype(np.int64)
        levels.append(labels)
    return levels


def _units(tree: UnitTree, mask: np.ndarray, ranks: np.ndarray, most: int) -> Read:
    """The largest units of a tree that hold a mask's leaves, opened while there is room."""
    own = tree.layout
    held = np.concatenate([[0], np.cumsum(mask[own.order])])
    # The last entry stands for what no unit holds.
    full = np.append(held[own.stop] - held[own.start] == own.stop - own.start, False)
    numbers = np.flatnonzero(full[:-1] & ~full[own.parent]).tolist()
    numbers += (-1 - np.flatnonzero(mask & ~full[own.leaf_parent])).tolist()
    units = [tree.inner(n) if n >= 0 else tree.leaf(-1 - n) for n in _opened(tree, numbers, most)]
    rank = np.array([ranks[unit.places()].max() for unit in units])
    likeliest = np.argsort(-rank, kind="stable")[:most]
    place = np.array([own.at[unit.places()].min() for unit in units])
    order = likeliest[np.argsort(place[likeliest])]
    return Read(tuple(units[i] for i in order), tuple(rank[order].tolist()))


def _opened(tree: UnitTree, numbers: list[int], most: int) -> list[int]:
    """Open units of a list, those of the fewest parts first, while there are at most so many."""
    own = tree.layout
    parts = np.bincount(own.parent[own.parent >= 0], minlength=len(own.kind))
    parts += np.bincount(own.leaf_parent[own.leaf_parent >= 0], minlength=len(own.kind))
    found = [n for n in numbers if n < 0]
    waiting = [(int(parts[n]), n) for n in numbers if n >= 0]
    heapq.heapify(waiting)
    while waiting and len(found) + len(waiting) + waiting[0][0] - 1 <= most:
        _, number = heapq.heappop(waiting)
        for inner in np.flatnonzero(own.parent == number).tolist():
            heapq.heappush(waiting, (int(parts[inner]), inner))
        found += (-1 - np.flatnonzero(own.leaf_parent == number)).tolist()
    return found + [number for _, number in waiting]
