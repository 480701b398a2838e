"""Random units like those of a circuit: of the same kinds, at the same depth, of the same size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.circuit import Circuit
from hagd_jax.units import SpannedTree, Unit, UnitTree
from hagd_jax.units.split import kinds, spread
from hagd_jax.units.unit import ATTENTION, CLUSTER, INNER

# Draws the places of a random circuit.
Draw = Callable[[np.random.Generator], Iterable[int]]
# Units whose sizes differ by no more than this factor are drawn with equal chances.
NEAR = 2.0


class Alike(NamedTuple):
    """It draws as many units of each kind as a circuit has, from the same tree.

    Larger units are drawn first. Each is replaced by a random unit of its kind, in its layer
    (`fine`) or in any, that overlaps nothing drawn before: one whose size is within a factor of two
    if there is any, the nearest in size otherwise. It may be the unit itself, and where it is
    the only one of its kind in the layer, as the MLP of a layer is, it stays. The random circuit is
    then more like the circuit, so that the circuit is harder to tell from chance, never easier.

    Sizes are made equal in leaves: a larger unit is cut to a random part, and what a smaller one
    lacks is made up by random leaves of the same kind, of the same layer if `fine`. Where no unit
    is left, as many leaves stand in for it. Single leaves are drawn last.

    Of a circuit that is split by span a whole unit is replaced by a whole one, and a unit at a span
    by one at the same span.

    Attributes:
        frame: The tree; without clusters if the circuit's is not at hand, and then random leaves of
            the same block stand in for them.
        units: The circuit's units of several leaves, the largest first.
        held: (P,) where the circuit has nodes.
        single: (K, L) how many single leaves it has of each kind and layer.
        kind: (P,) 0 for heads, 1 for features, and so on for each span, see `units.split.kinds`.
        layer: (P,) layers.
        block: (U,) 0 for attention, 1 for MLPs, of the tree's whole units.
    """

    frame: UnitTree
    units: tuple[Unit, ...]
    held: np.ndarray
    single: np.ndarray
    kind: np.ndarray
    layer: np.ndarray
    block: np.ndarray

    __repr__ = one_line

    @classmethod
    def of(cls, circuit: Any) -> Alike | None:
        """Prepare the draws for a circuit; None if all its units are single nodes or edges."""
        if not isinstance(circuit, Circuit) or circuit.grouping is None:
            return None
        own, space = circuit.grouping, circuit.space
        if not own.units:
            return None
        frame = own.frame(space, circuit.dictionary)
        places, kind = circuit.places(), kinds(space, len(circuit.spans))
        held = np.zeros(space.nodes, bool)
        held[places] = True
        alone = places[own.owners(places) < 0]
        single = _counted(alone, kind, space.layer, (2 * max(len(circuit.spans), 1), space.layers))
        units = tuple(sorted(own.units, key=lambda unit: -len(unit)))
        whole = _whole(frame)
        block = kinds(whole.space)[whole.layout.order[whole.layout.start]]
        return cls(frame, units, held, single, kind, space.layer, block)

    def drawn(self, rng: np.random.Generator, *, fine: bool, outside: bool = False) -> np.ndarray:
        """Draw units like the circuit's.

        Args:
            rng: Where random numbers come from.
            fine: Whether they are of the same layers; else of any.
            outside: Whether they share no leaf with the circuit. Where too few leaves of a kind are
                outside, others stand in for them.

        Returns:
            (n,) their places, ascending: as many as the circuit has nodes, or all outside it.
        """
        busy = self.held.copy() if outside else np.zeros_like(self.held)
        found: list[np.ndarray] = []
        owed = self.single.copy()
        for unit in self.units:
            wanted, places = self._counts(unit.places()), self._unit(unit, busy, rng, fine)
            parts = [rng.permutation(places[self.kind[places] == k])[: wanted[k].sum()]
                     for k in range(len(wanted))]  # fmt: skip
            chosen = np.concatenate(parts)
            owed += wanted - self._counts(chosen)
            busy[chosen] = True
            found.append(chosen)
        found.append(self._leaves(owed, busy, rng, fine))
        return np.sort(np.concatenate(found))

    def _counts(self, places: np.ndarray) -> np.ndarray:
        return _counted(places, self.kind, self.layer, self.single.shape)

    def _unit(
        self, unit: Unit, busy: np.ndarray, rng: np.random.Generator, fine: bool
    ) -> np.ndarray:
        """The places of a free unit of the same kind; none if there is no such unit."""
        whole = _whole(self.frame)
        own = whole.layout
        if unit.kind not in INNER:
            return self._leaf(unit, busy, rng, fine)
        same = own.kind == INNER.index(unit.kind)
        if unit.kind == CLUSTER:
            same &= self.block == (unit.block != ATTENTION)
        if fine:
            same &= own.first == unit.layers[0]
        numbers = rng.permutation(np.flatnonzero(same))
        size = len(unit) / self._spans(unit)
        ratio = np.abs(np.log((own.stop - own.start)[numbers] / size))
        near = ratio <= np.log(NEAR) + 1e-9
        for some in (numbers[near], numbers[~near][np.argsort(ratio[~near], kind="stable")]):
            for number in some.tolist():
                places = self._at(own.order[own.start[number] : own.stop[number]], unit)
                if not busy[places].any():
                    return places
        return np.zeros(0, int)

    def _leaf(
        self, unit: Unit, busy: np.ndarray, rng: np.random.Generator, fine: bool
    ) -> np.ndarray:
        """The places of a free head, neuron or feature, at all spans."""
        space = _whole(self.frame).space
        same = kinds(space) == (unit.block != ATTENTION)
        if fine:
            same &= space.layer == unit.layers[0]
        for place in rng.permutation(np.flatnonzero(same)).tolist():
            places = self._at(np.array([place]), unit)
            if not busy[places].any():
                return places
        return np.zeros(0, int)

    def _spans(self, unit: Unit) -> int:
        """How many leaves of a unit stand for a whole one."""
        return len(self._at(np.zeros(1, int), unit))

    def _at(self, places: np.ndarray, unit: Unit) -> np.ndarray:
        """Where some whole leaves are at the spans of a unit."""
        if not isinstance(self.frame, SpannedTree):
            return places
        names = self.frame.names
        numbers = [names.index(unit.span)] if unit.span else range(len(names))
        return spread(self.frame.whole.space, len(names), places, numbers)

    def _leaves(
        self, owed: np.ndarray, busy: np.ndarray, rng: np.random.Generator, fine: bool
    ) -> np.ndarray:
        """Free leaves: of the kind and layer that they are owed in, then of the kind, then any."""
        free, found = rng.permutation(np.flatnonzero(~busy)), np.zeros(0, int)
        labels = [self.kind * owed.shape[1] + self.layer, self.kind, 0 * self.kind]
        counts = [owed.ravel(), owed.sum(1), owed.sum(keepdims=True).ravel()]
        for label, count in list(zip(labels, counts, strict=True))[0 if fine else 1 :]:
            lacking = count - np.bincount(label[found], minlength=len(count))
            chosen = _first_of_each(label[free], lacking)
            found, free = np.concatenate([found, free[chosen]]), free[~chosen]
        return found


def drawing(circuit: Any, universe: int) -> Draw:
    """Return what draws random circuits of a circuit's make-up, in any layers.

    Args:
        circuit: Of units, whose like are drawn; or of single nodes or edges.
        universe: Number of nodes or edges of the model.

    Returns:
        A function from a random generator to the places of as many nodes or edges.

    Example:
        >>> from hagd_jax.causal import Circuit, Node
        >>> from hagd_jax.units import Space
        >>> nodes = (Node("head", 0, 1), Node("neuron", 1, 2))
        >>> circuit = Circuit(nodes, (1.0, 0.5), Space(2, 2, 4), model="m", task="t")
        >>> len(drawing(circuit, 12)(np.random.default_rng(0)))
        2
    """
    alike, size = Alike.of(circuit), len(circuit.places())
    if alike is None:
        return lambda rng: rng.choice(universe, size, replace=False).tolist()
    return lambda rng: alike.drawn(rng, fine=False).tolist()


def _first_of_each(label: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mark the first entries of each label, as many as are counted."""
    order = np.argsort(label, kind="stable")
    begins = np.searchsorted(label[order], np.arange(len(count)))
    chosen = np.zeros(len(label), bool)
    chosen[order] = np.arange(len(label)) - begins[label[order]] < count[label[order]]
    return chosen


def _whole(frame: UnitTree) -> UnitTree:
    """The tree of whole units."""
    return frame.whole if isinstance(frame, SpannedTree) else frame


def _counted(
    places: np.ndarray, kind: np.ndarray, layer: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """(K, L) how many of some places are of each kind and layer."""
    layers = shape[1]
    label = kind[places] * layers + layer[places]
    return np.bincount(label, minlength=shape[0] * layers).reshape(shape)
