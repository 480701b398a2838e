"""How the nodes of a circuit group into units of a tree, and which places stand for each unit."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line, quoted
from hagd_jax.causal.node import plain_scores
from hagd_jax.errors import InputError, require_index, require_is, require_list
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Space, Unit, UnitTree
from hagd_jax.units.dictionary import spans_of, tail
from hagd_jax.units.split import whole_space, whole_unit
from hagd_jax.units.tree import tree_of
from hagd_jax.units.unit import (
    BAND,
    CLUSTER,
    INNER,
    block_ranges,
    leaf,
    leaf_kind,
    require_antichain,
)

DIGEST = re.compile(r"[0-9a-f]{8,64}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Grouping:
    """A grouping names the units of several nodes; all other nodes of a circuit are units alone.

    Attributes:
        units: The units of several nodes, an antichain of the tree.
        scores: What each was chosen by, in the same order.
        band: Layers of the tree's bands.
        digest: The tree's, see `UnitTree.digest`.
        tree: The tree; None if it is not at hand, as after reading a circuit from a file.

    Raises:
        InputError: If units overlap or are none of the tree, or scores are missing or not finite.
    """

    units: tuple[Unit, ...]
    scores: tuple[float, ...]
    band: int
    digest: str
    tree: UnitTree | None = dataclasses.field(default=None, compare=False)

    __repr__ = one_line

    def __post_init__(self):
        units = tuple(require_list("units", self.units, "a tuple of `Unit`"))
        scores = tuple(require_list("scores of units", self.scores, "a number for each unit"))
        object.__setattr__(self, "units", units)
        object.__setattr__(self, "scores", plain_scores("scores of units", scores))
        for unit in units:
            require_is("units", unit, Unit)
            ends = [place for held in unit.ranges for place in held]
            if not ends or any(a >= b for a, b in itertools.pairwise(ends)):
                raise InputError("unit of the circuit", got=f"a {quoted(unit.kind)} of the leaves "
                                 f"{quoted(unit.ranges)}",
                                 expected="ascending ranges apart from each other")  # fmt: skip
        if len(scores) != len(units):
            raise InputError("scores of units", got=f"{len(scores)}", expected=f"{len(units)}")
        if require_index("band", self.band) < 1:
            raise InputError("band", got=self.band, expected="1 layer or more")
        if not isinstance(self.digest, str) or not DIGEST.fullmatch(self.digest):
            raise InputError("digest of the tree", got=quoted(self.digest),
                             expected="8 to 64 hexadecimal digits")  # fmt: skip
        require_antichain("units", units)
        names = [unit.name for unit in units]
        if len(set(names)) < len(names):
            raise InputError("units", got="a name twice", expected="distinct units")
        if self.tree is not None:
            require_is("tree", self.tree, UnitTree)
            self._require_of(self.tree)

    def on(self, tree: UnitTree) -> Grouping:
        """Return the same grouping with the tree at hand.

        Args:
            tree: The tree that the units are of.

        Raises:
            InputError: If it is another tree.
        """
        require_is("tree", tree, UnitTree, mend="Make one with `hagd.units.tree(model)`.")
        return dataclasses.replace(self, tree=tree)

    def frame(self, space: Space, dictionary: str) -> UnitTree:
        """Return the tree; where it is not at hand, the one of the same bands without clusters."""
        if self.tree is not None:
            return self.tree
        return tree_of(space, dictionary, (), self.band, Seen.nothing())

    @property
    def incomplete(self) -> bool:
        """Tell whether units are clusters whose siblings are not known."""
        return self.tree is None and any(unit.kind == CLUSTER for unit in self.units)

    def _require_of(self, tree: UnitTree) -> None:
        """Refuse another tree than the one recorded."""
        if tree.digest != self.digest or tree.band != self.band:
            raise InputError("tree", got=f"one with the digest {tree.digest}",
                             expected=f"the one that the units are of, {self.digest}",
                             mend="Give the tree that the circuit was made with.")  # fmt: skip
        for unit in self.units:
            tree.unit(unit)

    def require_nodes(self, space: Space, dictionary: str, places: np.ndarray) -> None:
        """Refuse units that are impossible in a space, or hold anything but a circuit's nodes.

        Args:
            space: Of the circuit.
            dictionary: Of the circuit.
            places: (n,) of its nodes in `Nodes.flat`.

        Raises:
            InputError: Naming the unit, or if the tree is of another model or dictionary.
        """
        tree = self.tree
        if tree and (tree.space, tail(tree.dictionary)) != (space, tail(dictionary)):
            raise InputError("tree", got=f"one of {tree.dictionary!r} with {tuple(tree.space)}",
                             expected=f"one of {dictionary!r} with {tuple(space)}")  # fmt: skip
        # Ranges are added up before they are expanded: a file may say any numbers.
        held, names = sum(map(len, self.units)), spans_of(dictionary)
        if names:
            require_held(held, len(places))
        whole = whole_space(space, len(names))
        for unit in self.units:
            own = whole_unit(unit, whole, names) if names else unit
            if names and own.leaf:
                require_leaf(own, whole, leaf_kind(dictionary))
            else:
                require_possible(own, whole, self.band)
        require_held(held, int((self.owners(places) >= 0).sum()))

    def owners(self, places: np.ndarray) -> np.ndarray:
        """Return the number of the unit that holds each of some places, -1 for none."""
        rows = sorted((*held, n) for n, unit in enumerate(self.units) for held in unit.ranges)
        if not rows or not len(places):
            return np.full(len(places), -1)
        start, stop, number = np.array(rows).T
        at = np.searchsorted(start, places, "right") - 1
        return np.where((at >= 0) & (places < stop[at]), number[at], -1)


def require_possible(unit: Unit, space: Space, band: int) -> None:
    """Refuse a unit that no tree of a space has.

    Args:
        unit: Of several leaves.
        space: Numbers of layers, heads and features.
        band: Layers of a band.

    Raises:
        InputError: If its kind, layers, block or leaves do not go together.
    """
    first, last = unit.layers
    whole = unit.kind if unit.kind != CLUSTER else unit.block
    good = unit.kind in INNER and 0 <= first <= last < space.layers and unit.index >= 0
    if good and unit.kind == BAND:
        end = min(first + band, space.layers) - 1
        good = (first, last) == (unit.index * band, end) and not unit.block
    elif good:
        good = first == last and whole in INNER[1:3] and unit.block == whole
        good = good and (unit.kind == CLUSTER or unit.index == 0)
    ranges = block_ranges(space, whole, first, last) if good else ()
    if good and unit.kind != CLUSTER:
        good = unit.ranges == ranges
    elif good:
        # Inside its block, and not all of it.
        start, stop = next(iter(ranges), (0, 0))
        good = start <= unit.ranges[0][0] and unit.ranges[-1][1] <= stop
        good = good and unit.ranges != ranges
    if not good or len(unit) < 2:
        raise InputError("unit of the circuit", got=quoted(unit.name),
                         expected="one of several leaves that this model has")  # fmt: skip


def require_held(held: int, nodes: int) -> None:
    """Refuse units of more nodes than a circuit has.

    Args:
        held: Number of nodes of the units.
        nodes: Number of nodes of the circuit, or of those that the units hold.

    Raises:
        InputError: If the units hold more.
    """
    if held > nodes:
        raise InputError("units", got=f"units of {held:,} nodes",
                         expected="units whose nodes are all in the circuit")  # fmt: skip


def require_leaf(unit: Unit, space: Space, kind: str) -> None:
    """Refuse a unit that is no leaf of a space, or not the one that it says.

    Args:
        unit: Of one leaf.
        space: Numbers of layers, heads and features.
        kind: Kind of the leaves that are not heads.

    Raises:
        InputError: If its kind, layer, index and leaf do not go together.
    """
    place = unit.ranges[0][0]
    if not 0 <= place < space.nodes or leaf(space, kind, place) != unit:
        raise InputError("unit of the circuit", got=quoted(unit.name),
                         expected="a head or feature that this model has")  # fmt: skip


class UnitPlaces(NamedTuple):
    """Unit places say which entries of a flat mask each unit of a circuit has.

    Attributes:
        first: (n,) the lowest place of each unit, which stands for it.
        scores: (n,) what it was chosen by.
        names: (n,) what it is called.
        several: Lowest place → (m,) all places of the unit, for units of several.
    """

    first: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]
    several: dict[int, np.ndarray]

    __repr__ = one_line

    def all_of(self, first: Any) -> np.ndarray:
        """Return the places of the units that some places stand for."""
        first = np.asarray(first, int)
        if not self.several:
            return first
        parts = [self.several.get(place, np.array([place])) for place in first.tolist()]
        return np.concatenate(parts) if parts else first


def unit_places(
    places: np.ndarray, scores: Sequence[float], names: Sequence[str], own: Grouping | None = None
) -> UnitPlaces:
    """Gather the nodes of a circuit into its units.

    Args:
        places: (n,) of the nodes, in the circuit's order.
        scores: Of the nodes.
        names: Of the nodes.
        own: How nodes group into units; each is one if None.

    Returns:
        The units, each where the first of its nodes is.
    """
    values, called = np.asarray(scores, float), tuple(names)
    if own is None or not own.units:
        return UnitPlaces(places, values, called, {})
    owner = own.owners(places)
    _, first = np.unique(owner, return_index=True)
    begins = set(first.tolist())
    at = [i for i, number in enumerate(owner.tolist()) if number < 0 or i in begins]
    inside = [own.units[owner[i]].places() if owner[i] >= 0 else None for i in at]
    several = {int(held[0]): held for held in inside if held is not None}
    lowest = [int(places[i] if held is None else held[0])
              for i, held in zip(at, inside, strict=True)]  # fmt: skip
    told = [own.scores[owner[i]] if owner[i] >= 0 else values[i] for i in at]
    named = [own.units[owner[i]].name if owner[i] >= 0 else called[i] for i in at]
    return UnitPlaces(np.array(lowest, int), np.array(told, float), tuple(named), several)
