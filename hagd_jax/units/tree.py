"""One tree over the whole model: bands of layers, blocks, clusters, and heads and neurons."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError, require_index, require_is, require_list
from hagd_jax.files.digests import arrays_digest
from hagd_jax.models import LanguageModel
from hagd_jax.models.arrays import read_array
from hagd_jax.tasks.seen import Seen
from hagd_jax.units.dictionary import tail
from hagd_jax.units.features import Source, as_dictionary
from hagd_jax.units.layout import Layout, layout
from hagd_jax.units.nodes import Space
from hagd_jax.units.unit import (
    ATTENTION,
    BAND,
    CLUSTER,
    HEAD,
    INNER,
    MLP,
    Unit,
    leaf,
    leaf_kind,
    ranges_of,
    require_antichain,
)

# Layers of a band, where the number is left open.
BANDWIDTH = 4


@dataclasses.dataclass(frozen=True, eq=False)
class UnitTree:
    """A tree of units has every head, neuron and feature of a model as its leaves.

    Its inner units are bands of layers, the attention and MLP blocks in them, and clusters inside
    blocks, each within one of the level above. No two units hold the same leaves: a cluster of a
    whole block is the block, and a unit of one leaf is the leaf. Make it with `tree`.

    Attributes:
        space: Numbers of layers, heads and features.
        dictionary: Label of the dictionary whose nodes the leaves are.
        band: Layers of a band.
        levels: (N,) int32 cluster of every leaf, one array for each level of clusters, coarsest
            first, already cut at the blocks.
        seen: The data that decided the clusters.
    """

    space: Space
    dictionary: str
    band: int
    levels: tuple[np.ndarray, ...] = ()
    seen: Seen = dataclasses.field(default_factory=Seen.nothing)

    def __repr__(self) -> str:
        words = {BAND: "bands", ATTENTION: "attention blocks", MLP: "MLPs", CLUSTER: "clusters"}
        kinds = [f"{n:,} {words[kind]}" for kind, n in self.counts().items() if n]
        return f"UnitTree({', '.join([*kinds, f'{self.space.nodes:,} leaves'])})"

    @functools.cached_property
    def layout(self) -> Layout:
        """Return the inner units as intervals of one order of the leaves."""
        return layout(self.space, self.band, self.levels)

    @functools.cached_property
    def digest(self) -> str:
        """Return the hexadecimal digits of a hash of the units, whatever they have seen."""
        sizes = np.array([*self.space, self.band], np.int64)
        arrays = {f"level{i}": level for i, level in enumerate(self.levels)}
        return arrays_digest({"sizes": sizes, **arrays}, {"dictionary": tail(self.dictionary)})

    def counts(self) -> dict[str, int]:
        """Count the inner units of each kind."""
        return {kind: int((self.layout.kind == i).sum()) for i, kind in enumerate(INNER)}

    def unit(self, name: str | Unit) -> Unit:
        """Return the unit of a name.

        Args:
            name: Such as `layers 0-3`, `attention 2`, `mlp 0`, `cluster 5.2`, `head 3.1` or
                `neuron 7.12`; or a unit, which is checked to be one of this tree.

        Raises:
            InputError: If there is no such unit.
        """
        return self._made(self._number(name))

    def children(self, name: str | Unit) -> tuple[Unit, ...]:
        """Return the units that a unit consists of, in the order of the tree.

        Raises:
            InputError: If there is no such unit.
        """
        number = self._number(name)
        return () if number < 0 else self._below(number)

    def parent(self, name: str | Unit) -> Unit | None:
        """Return the smallest unit that holds a unit; None for a band."""
        number, own = self._number(name), self.layout
        above = own.leaf_parent[-1 - number] if number < 0 else own.parent[number]
        return None if above < 0 else self._made(int(above))

    def leaves(self, name: str | Unit) -> tuple[Unit, ...]:
        """Return the leaves of a unit, heads first."""
        return tuple(self.leaf(place) for place in self.unit(name).places().tolist())

    def leaf(self, place: int) -> Unit:
        """Return the leaf at a place of `Nodes.flat`."""
        place = require_index("place of a leaf", place, self.space.nodes)
        return leaf(self.space, leaf_kind(self.dictionary), place)

    @property
    def roots(self) -> tuple[Unit, ...]:
        """Return the units that no other holds."""
        return self._below(-1)

    def of_kind(self, kind: str) -> tuple[Unit, ...]:
        """Return all inner units of a kind, in the order of the layers."""
        found = np.flatnonzero(self.layout.kind == INNER.index(kind)) if kind in INNER else []
        return tuple(self._made(int(number)) for number in found)

    def antichain(self, names: Iterable[str | Unit]) -> tuple[Unit, ...]:
        """Return the units of some names, which have no leaf in common.

        Args:
            names: Names or units.

        Returns:
            The units, in the order of the names.

        Raises:
            InputError: If there is no such unit, or two overlap.
        """
        units = tuple(self.unit(name) for name in require_list("units", names, "names of units"))
        require_antichain("units", units)
        return units

    def opened(self, units: Iterable[str | Unit], name: str | Unit) -> tuple[Unit, ...]:
        """Replace a unit by its children, in place.

        Args:
            units: An antichain.
            name: One of its units.

        Raises:
            InputError: If the unit is not one of them, or is a leaf.
        """
        chain, opened = self.antichain(units), self.unit(name)
        if opened not in chain or opened.leaf:
            raise InputError("unit to open", got=quoted(opened.name),
                             expected="one of the units, of several leaves")  # fmt: skip
        at, below = chain.index(opened), self.children(opened)
        return (*chain[:at], *below, *chain[at + 1 :])

    def closed(self, units: Iterable[str | Unit], name: str | Unit) -> tuple[Unit, ...]:
        """Replace the units that fill a larger one by that one, at the place of the first.

        Args:
            units: An antichain.
            name: The larger unit.

        Raises:
            InputError: If the units do not hold all of its leaves, or one reaches beyond it.
        """
        chain, whole = self.antichain(units), self.unit(name)
        inside = set(whole.places().tolist())
        parts = [unit for unit in chain if inside.issuperset(unit.places().tolist())]
        held = sum(map(len, parts))
        if held < len(whole):
            raise InputError("unit to close", got=f"{whole.name!r}, of which the units hold "
                             f"{held:,} of {len(whole):,} leaves",
                             expected="one that they fill")  # fmt: skip
        at = chain.index(parts[0])
        return (*chain[:at], whole, *(unit for unit in chain[at:] if unit not in parts))

    def rest(self, units: Iterable[str | Unit]) -> tuple[Unit, ...]:
        """Return the fewest units that hold all leaves that no given unit holds: the complement.

        Args:
            units: An antichain.

        Returns:
            The largest units without a leaf in common with the given ones.
        """
        taken = np.zeros(self.space.nodes, bool)
        for unit in self.antichain(units):
            taken[unit.places()] = True
        found: list[Unit] = []
        waiting = list(self.roots[::-1])
        while waiting:
            unit = waiting.pop()
            held = taken[unit.places()]
            if not held.any():
                found.append(unit)
            elif not held.all():
                waiting += self.children(unit)[::-1]
        return tuple(found)

    def depths(self) -> tuple[np.ndarray, ...]:
        """Return the (N,) int32 inner unit of every leaf at each depth, as `search.Tree.of` takes.

        A leaf with fewer units above it than others stays in the last of them.
        """
        own = self.layout
        chain, rows = own.leaf_parent.copy(), []
        while (chain >= 0).any():
            rows.append(chain)
            up = np.where(chain >= 0, own.parent[np.maximum(chain, 0)], -1)
            chain = up
        depth = np.sum([row >= 0 for row in rows], axis=0) if rows else np.zeros(0, int)
        found = []
        for level in range(len(rows)):
            # The ancestor so many below the root, or the lowest.
            above = np.maximum(depth - 1 - level, 0)
            row = np.stack(rows)[above, np.arange(len(depth))]
            row = np.where(row >= 0, row, len(own.kind) + np.arange(len(depth)))
            found.append(np.unique(row, return_inverse=True)[1].astype(np.int32))
        return tuple(found)

    def _number(self, name: str | Unit) -> int:
        """The number of an inner unit, or -1 - place of a leaf."""
        require_is("unit", name, str, Unit)
        text = name.name if isinstance(name, Unit) else name
        number = self.layout.names.get(text)
        if number is None:
            number = self._leaf_number(text)
        if number is None or (isinstance(name, Unit) and self._made(number) != name):
            raise InputError("unit", got=quoted(text), expected=f"one of {self!r}")
        return number

    def _leaf_number(self, text: str) -> int | None:
        layers, heads, features = self.space
        found = re.fullmatch(r"(\w+) (0|[1-9]\d{0,9})\.(0|[1-9]\d{0,9})", text, re.ASCII)
        if found is None:
            return None
        kind, layer, index = found[1], int(found[2]), int(found[3])
        own = {HEAD: (0, heads), leaf_kind(self.dictionary): (layers * heads, features)}
        start, width = own.get(kind, (0, 0))
        if layer >= layers or index >= width:
            return None
        return -1 - (start + layer * width + index)

    def _made(self, number: int) -> Unit:
        if number < 0:
            return self.leaf(-1 - number)
        own = self.layout
        places = np.sort(own.order[own.start[number] : own.stop[number]])
        kind = INNER[own.kind[number]]
        block = kind if kind not in (BAND, CLUSTER) else own.block(number)
        layers = int(own.first[number]), int(own.last[number])
        return Unit(kind, layers, int(own.number[number]), block, ranges_of(places))

    def _below(self, number: int) -> tuple[Unit, ...]:
        own = self.layout
        # What a unit holds lies in its interval, and comes after it.
        begin, end = (0, len(own.order)) if number < 0 else (own.start[number], own.stop[number])
        first, last = number + 1, int(np.searchsorted(own.start, end))
        inner = (first + np.flatnonzero(own.parent[first:last] == number)).tolist()
        held = own.order[begin:end]
        leaves = held[own.leaf_parent[held] == number].tolist()
        begins = [(int(own.start[n]), n) for n in inner]
        begins += [(int(own.at[place]), -1 - place) for place in leaves]
        return tuple(self._made(n) for _, n in sorted(begins))


def tree(
    model: LanguageModel,
    dictionary: Source | None = None,
    *,
    clusters: Sequence[np.ndarray] = (),
    band: int = BANDWIDTH,
    seen: Seen | None = None,
) -> UnitTree:
    """Make the tree of a model's units.

    Args:
        model: The model.
        dictionary: Whose nodes are the leaves; neurons by default.
        clusters: (N,) cluster of every leaf, one array for each level, coarsest first, such as
            `hierarchy.clusters_of` returns; clusters that reach over several blocks are cut there.
        band: Layers of a band; the last band may have fewer.
        seen: The data that decided the clusters, where they do not record it themselves. Clusters
            that no data decided have seen `Seen.nothing()`.

    Returns:
        The tree. Clusters of unrecorded history make its own unknown.

    Raises:
        InputError: If levels are of another length, do not nest, or hold anything but whole
            numbers of 0 or more.

    Example:
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=4)
        >>> found = tree(init(config, jax.random.key(0)), clusters=[np.arange(12) // 2])
        >>> [unit.name for unit in found.children("mlp 1")]
        ['cluster 1.0', 'cluster 1.1']
        >>> [unit.name for unit in found.rest(["attention 0", "cluster 1.0", "neuron 1.3"])]
        ['mlp 0', 'attention 1', 'neuron 1.2']
    """
    nodes = as_dictionary(model, dictionary)
    own = getattr(clusters, "seen", None)
    levels = require_list("clusters", clusters, "clusters of all leaves, one array for each level")
    told = [record for record in (own, seen) if record is not None]
    if not told:
        told = [Seen.unknown() if levels else Seen.nothing()]
    for record in told:
        require_is("seen", record, Seen)
    return tree_of(nodes.space, nodes.label, levels, band, functools.reduce(Seen.__or__, told))


def tree_of(
    space: Space, dictionary: str, levels: Sequence[Any], band: int, seen: Seen
) -> UnitTree:
    """Make a tree from sizes alone, see `tree`.

    Args:
        space: Numbers of layers, heads and features.
        dictionary: Label of the dictionary.
        levels: (N,) clusters of each level, coarsest first.
        band: Layers of a band.
        seen: The data that decided the clusters.

    Raises:
        InputError: As `tree`.
    """
    require_is("space", space, Space)
    require_is("dictionary", dictionary, str)
    if require_index("band", band) < 1:
        raise InputError("band", got=band, expected="1 layer or more")
    rows = [_level(level, space) for level in levels]
    labels = block_of(space).astype(np.int64)
    cut: list[np.ndarray] = []
    for row in rows:
        pairs = np.stack([labels, row])
        # A cluster is known by its first leaf, so that numbers given at will make no other tree.
        _, first, place = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
        place = place.ravel()
        if cut and len(np.unique(np.stack([cut[-1], place]), axis=1)[0]) != len(first):
            raise InputError("clusters", got="a cluster in two of the level above",
                             expected="levels that nest, coarsest first")  # fmt: skip
        cut.append(np.argsort(np.argsort(first))[place].astype(np.int32))
    return UnitTree(space, dictionary, band, tuple(cut), seen)


def block_of(space: Space) -> np.ndarray:
    """Return the (N,) int32 block of every leaf: twice its layer, and one more inside MLPs."""
    layers, heads, features = space
    inside = np.repeat([0, 1], [layers * heads, layers * features])
    return (2 * space.layer + inside).astype(np.int32)


def _level(level: Any, space: Space) -> np.ndarray:
    row = np.asarray(read_array("a level of the clusters", level))
    if row.shape != (space.nodes,):
        raise InputError("clusters", got=f"a level of shape {row.shape}",
                         expected=f"one number for each of {space.nodes} leaves")  # fmt: skip
    if not np.issubdtype(row.dtype, np.integer) or (len(row) and int(row.min()) < 0):
        raise InputError("clusters", got="clusters that are no numbers", expected="0 or more")
    return row.astype(np.int64)
