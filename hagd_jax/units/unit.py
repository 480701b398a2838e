"""A unit: a head, a neuron or a feature, or any larger part of the model that is named as one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.units.dictionary import MLPS, NEURONS, whole_label
from hagd_jax.units.nodes import Space

BAND, ATTENTION, MLP, CLUSTER, HEAD = "band", "attention", "mlp", "cluster", "head"
# Kinds of units that hold several leaves, coarsest first.
Inner = Literal["band", "attention", "mlp", "cluster"]
INNER: tuple[Inner, ...] = (BAND, ATTENTION, MLP, CLUSTER)
Ranges = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit is a named set of leaves: attention heads, and neurons or features.

    Attributes:
        kind: `band` (all of some adjacent layers), `attention` or `mlp` (a whole block), `cluster`
            (a supernode inside a block); of a single leaf `head`, `neuron`, `feature` or `mlp`.
        layers: Its first and its last layer.
        index: Of a leaf its index in the layer, of a cluster its number in the layer, of a band its
            number; 0 of a block.
        block: `attention` or `mlp`; empty for a band, which holds both.
        ranges: Its leaves as ranges [start, stop) of places in `Nodes.flat`, ascending.
        span: Name of the only span at which it is, in circuits whose units are split by span.

    Example:
        >>> Unit("cluster", (5, 5), 2, "mlp", ((40, 43), (47, 48))).name
        'cluster 5.2'
    """

    kind: str
    layers: tuple[int, int]
    index: int
    block: str
    ranges: Ranges
    span: str = ""

    def __len__(self) -> int:
        """Return the number of leaves."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def leaf(self) -> bool:
        """Tell whether the unit is a single leaf."""
        return len(self) == 1

    @property
    def name(self) -> str:
        """Return the name, such as `layers 0-3`, `mlp 0`, `cluster 5.2` or `head 3.1 at end`."""
        first, last = self.layers
        if self.kind == BAND:
            own = f"layers {first}-{last}"
        elif self.leaf or self.kind not in (ATTENTION, MLP):
            own = f"{self.kind} {first}.{self.index}"
        else:
            own = f"{self.kind} {first}"
        return f"{own} at {self.span}" if self.span else own

    def places(self) -> np.ndarray:
        """Return the (n,) places of its leaves in `Nodes.flat`, ascending."""
        return expanded(self.ranges)


def leaf_kind(dictionary: str) -> str:
    """Return the kind of the leaves of MLPs.

    Args:
        dictionary: Label of the dictionary.

    Example:
        >>> leaf_kind("neurons"), leaf_kind("runs/transcoder#1a2b3c4d@end,rest")
        ('neuron', 'feature')
    """
    return {NEURONS: "neuron", MLPS: MLP}.get(whole_label(dictionary), "feature")


def leaf(space: Space, kind: str, place: int) -> Unit:
    """Return the leaf at a place of `Nodes.flat`.

    Args:
        space: Numbers of layers, heads and features.
        kind: Kind of the leaves that are not heads.
        place: From 0 to `space.nodes` - 1.

    Example:
        >>> leaf(Space(2, 3, 5), "neuron", 7).name
        'neuron 0.1'
    """
    layers, heads, features = space
    after = place - layers * heads
    layer, index = divmod(place, heads) if after < 0 else divmod(after, features)
    own, block = (HEAD, ATTENTION) if after < 0 else (kind, MLP)
    return Unit(own, (layer, layer), index, block, ((place, place + 1),))


def block_ranges(space: Space, kind: str, first: int, last: int) -> Ranges:
    """Return the leaves of whole blocks: one kind of them, or both, in adjacent layers.

    Args:
        space: Numbers of layers, heads and features.
        kind: `attention`, `mlp` or `band`.
        first: First layer.
        last: Last layer.

    Example:
        >>> block_ranges(Space(2, 3, 5), "band", 1, 1)
        ((3, 6), (11, 16))
    """
    layers, heads, features = space
    of_heads = first * heads, (last + 1) * heads
    start = layers * heads
    of_features = start + first * features, start + (last + 1) * features
    chosen = {ATTENTION: (of_heads,), MLP: (of_features,)}.get(kind, (of_heads, of_features))
    joined: list[tuple[int, int]] = []
    for begin, end in chosen:
        if joined and joined[-1][1] == begin:
            joined[-1] = joined[-1][0], end
        elif end > begin:
            joined.append((begin, end))
    return tuple(joined)


def ranges_of(places: np.ndarray) -> Ranges:
    """Describe ascending places as the fewest ranges [start, stop).

    Example:
        >>> ranges_of(np.array([4, 5, 6, 9]))
        ((4, 7), (9, 10))
    """
    if not len(places):
        return ()
    cuts = np.flatnonzero(np.diff(places) != 1) + 1
    starts, stops = places[[0, *cuts]], places[[*(cuts - 1), len(places) - 1]] + 1
    return tuple(zip(starts.tolist(), stops.tolist(), strict=True))


def expanded(ranges: Iterable[tuple[int, int]]) -> np.ndarray:
    """List the places that ranges hold.

    Example:
        >>> expanded([(4, 7), (9, 10)]).tolist()
        [4, 5, 6, 9]
    """
    parts = [np.arange(start, stop) for start, stop in ranges]
    return np.concatenate(parts) if parts else np.zeros(0, int)


def require_antichain(what: str, units: Sequence[Unit]) -> None:
    """Refuse units of which two share a leaf.

    Args:
        what: Name of the argument.
        units: The units.

    Raises:
        InputError: If two overlap, naming both.
    """
    owned = sorted((*held, unit.name) for unit in units for held in unit.ranges)
    for (_, stop, one), (start, _, other) in itertools.pairwise(owned):
        if start < stop:
            got = f"{one!r} twice" if one == other else f"{one!r} and {other!r}, which overlap"
            raise InputError(what, got=got, expected="units without a leaf in common")
