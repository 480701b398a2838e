"""How a tree of units lies in memory: every inner unit is an interval of one order of leaves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.units.nodes import Space
from hagd_jax.units.unit import ATTENTION, BAND, CLUSTER, INNER, MLP


class Layout(NamedTuple):
    """A layout lists U inner units, each after the one that holds it.

    Attributes:
        order: (N,) places of leaves in `Nodes.flat`, in the tree's order.
        at: (N,) where in `order` each place is.
        start: (U,) first entry of `order` in each unit.
        stop: (U,) entry after its last.
        kind: (U,) index into `INNER`.
        first: (U,) first layer.
        last: (U,) last layer.
        number: (U,) number among units of its kind: in its layer for clusters, in all for bands.
        parent: (U,) the smallest unit that holds it, -1 for none.
        leaf_parent: (N,) the smallest unit that holds the leaf at each place, -1 for none.
        names: Name → number of an inner unit, or -1 - place of a leaf; units that hold the leaves
            of another one are known by both names.
        heads: How many leaves are heads: those of the lowest places.
    """

    order: np.ndarray
    at: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    kind: np.ndarray
    first: np.ndarray
    last: np.ndarray
    number: np.ndarray
    parent: np.ndarray
    leaf_parent: np.ndarray
    names: dict[str, int]
    heads: int

    __repr__ = one_line

    def block(self, number: int) -> str:
        """Return the block that holds a cluster."""
        return ATTENTION if self.order[self.start[number]] < self.heads else MLP


class _Interval(NamedTuple):
    """Leaves order[start:stop] as a unit; sorted, a unit comes before what it holds."""

    start: int
    below: int  # minus the entry after the last
    kind: int
    layer: int  # of a band its number


def layout(space: Space, band: int, levels: Sequence[np.ndarray]) -> Layout:
    """Lay out the units of a tree.

    Args:
        space: Numbers of layers, heads and features.
        band: Layers of a band.
        levels: (N,) clusters of every leaf, coarsest first, which nest and lie inside blocks.

    Returns:
        The layout.
    """
    layers, heads, features = space
    place = np.arange(space.nodes)
    inside = np.repeat([0, 1], [layers * heads, layers * features])
    layer = space.layer
    keys = [layer // band, 2 * layer + inside, *levels]
    order = np.lexsort([place, *keys[::-1]])
    kinds = [BAND, "", *[CLUSTER] * len(levels)]
    spans: dict[tuple[int, int], list[_Interval]] = {}
    for kind, key in zip(kinds, keys, strict=True):
        for one in _intervals(kind, key[order], order, layer):
            spans.setdefault((one.start, -one.below), []).append(one)
    # Of units with the same leaves a block is kept before a band, and both before clusters.
    kept = sorted(
        min(several, key=lambda one: (_KEPT.index(one.kind), one))
        for (start, stop), several in spans.items()
        if stop - start > 1
    )
    return _made(kept, spans, order, space, band)


# Numbers of kinds in `INNER`, in the order in which one is kept of units with the same leaves.
_KEPT = tuple(INNER.index(kind) for kind in (ATTENTION, MLP, BAND, CLUSTER))


def _intervals(kind: str, key: np.ndarray, order: np.ndarray, layer: np.ndarray) -> list[_Interval]:
    """The runs of equal keys along the order; the layer of a leaf tells that of its unit."""
    if not len(key):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(key)) + 1).tolist(), len(key)]
    found = []
    for start, stop in itertools.pairwise(cuts):
        number = INNER.index(kind) if kind else INNER.index((ATTENTION, MLP)[key[start] % 2])
        own = int(key[start] if kind == BAND else layer[order[start]])
        found.append(_Interval(start, -stop, number, own))
    return found


def _made(
    kept: list[_Interval],
    spans: dict[tuple[int, int], list[_Interval]],
    order: np.ndarray,
    space: Space,
    band: int,
) -> Layout:
    """Number the units, and find what holds each."""
    start = np.array([one.start for one in kept], int)
    stop = np.array([-one.below for one in kept], int)
    kind = np.array([one.kind for one in kept], int)
    bands = kind == INNER.index(BAND)
    own = np.array([one.layer for one in kept], int)
    first = np.where(bands, own * band, own)
    last = np.where(bands, np.minimum((own + 1) * band, space.layers) - 1, own)
    parent, leaf_parent = np.full(len(kept), -1), np.full(len(order), -1)
    index, numbered, names = np.where(bands, own, 0), {}, {}
    for number, one in enumerate(kept):
        parent[number] = leaf_parent[order[one.start]]
        leaf_parent[order[one.start : -one.below]] = number
        if INNER[one.kind] == CLUSTER:
            index[number] = numbered[one.layer] = numbered.get(one.layer, -1) + 1
            names[f"{CLUSTER} {one.layer}.{index[number]}"] = number
        for twin in spans[one.start, -one.below]:
            if INNER[twin.kind] != CLUSTER:
                names[_name(twin, space, band)] = number
    for (begin, end), several in spans.items():
        if end - begin == 1:
            leaf = {_name(one, space, band): -1 - int(order[begin])
                    for one in several if INNER[one.kind] != CLUSTER}  # fmt: skip
            names |= leaf
    at = np.empty(len(order), int)
    at[order] = np.arange(len(order))
    heads = space.layers * space.heads
    return Layout(order, at, start, stop, kind, first, last, index, parent, leaf_parent, names,
                  heads)  # fmt: skip


def _name(one: _Interval, space: Space, band: int) -> str:
    """The name of a band or a block."""
    if INNER[one.kind] != BAND:
        return f"{INNER[one.kind]} {one.layer}"
    return f"layers {one.layer * band}-{min((one.layer + 1) * band, space.layers) - 1}"
