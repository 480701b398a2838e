"""A tree of units: what each unit holds, and antichains of the tree."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError, require_index, require_is, require_list
from hagd_jax.files.digests import arrays_digest
from hagd_jax.tasks.seen import Seen
from hagd_jax.tasks.spans import span_names
from hagd_jax.units.dictionary import spanned_label, tail
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

    def by_span(self, names: Iterable[str]) -> UnitTree:
        """Split units by the spans of prompts, so that a circuit may have one at some spans only.

        Args:
            names: Names of the spans, such as `task.spans`.

        Returns:
            The tree with each unit whole, such as `mlp 0`, and at each span, `mlp 0 at end`.

        Raises:
            InputError: If there is no name, one comes twice, or units are split already.

        Example:
            >>> tree = hagd.units.tree(hagd.testbeds.hand_built()[0].model)
            >>> split = tree.by_span(["letters", "end", "rest"])
            >>> [unit.name for unit in split.children("head 0.1")]
            ['head 0.1 at letters', 'head 0.1 at end', 'head 0.1 at rest']
            >>> [unit.name for unit in split.rest(["attention 0", "mlp 0 at end"])]
            ['mlp 0 at letters', 'mlp 0 at rest']
        """
        from hagd_jax.units.spanned_tree import SpannedTree  # a tree itself

        names, (layers, heads, features) = span_names(names), self.space
        space = Space(layers, len(names) * heads, len(names) * features)
        label = spanned_label(self.dictionary, names)
        return SpannedTree(space, label, self.band, self.levels, self.seen)

    def counts(self) -> dict[str, int]:
        """Count the inner units of each kind."""
        return {kind: int((self.layout.kind == i).sum()) for i, kind in enumerate(INNER)}

    def unit(self, name: str | Unit) -> Unit:
        """Return the unit of a name.

        Args:
            name: Such as `layers 0-3`, `attention 2`, `mlp 0`, `cluster 5.2`, `head 3.1` or
                `neuron 7.12`; `heads 5.1,3` is the cluster of just those heads; or a unit, which is
                checked to be one of this tree.

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

    def inner(self, number: int) -> Unit:
        """Return the inner unit of a number of `layout`."""
        return self._made(require_index("number of a unit", number, len(self.layout.kind)))

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
            for unit in chain:
                if len(unit) > len(whole) and inside.issubset(unit.places().tolist()):
                    raise InputError("unit to close", got=f"{whole.name!r}, a part of "
                                     f"{unit.name!r}", expected="one that they fill")  # fmt: skip
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
        if number is None:
            number = self._heads_number(text)
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

    def _heads_number(self, text: str) -> int | None:
        """The number of the cluster that holds just the heads of a name such as `heads 5.1,3`."""
        layers, heads, _ = self.space
        found = re.fullmatch(r"heads (\d{1,10})\.(\d{1,10}(?:,\d{1,10})*)", text, re.ASCII)
        if found is None:
            return None
        layer, listed = int(found[1]), {int(head) for head in found[2].split(",")}
        if layer >= layers or max(listed) >= heads:
            return None
        wanted, own = np.array(sorted(listed)) + layer * heads, self.layout
        for number in np.flatnonzero(own.kind == INNER.index(CLUSTER)).tolist():
            places = own.order[own.start[number] : own.stop[number]]
            if np.array_equal(np.sort(places), wanted):
                return number
        return None

    def _made(self, number: int) -> Unit:
        if number < 0:
            return self.leaf(-1 - number)
        own = self.layout
        places = np.sort(own.order[own.start[number] : own.stop[number]])
        kind = INNER[own.kind[number]]
        block = own.block(number) if kind == CLUSTER else "" if kind == BAND else kind
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
