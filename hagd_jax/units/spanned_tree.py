"""The tree of units that are split by span: any unit of a tree, whole or at one span."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NoReturn

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError, require_index, require_is
from hagd_jax.units.dictionary import spans_of, whole_label
from hagd_jax.units.layout import Layout
from hagd_jax.units.split import split_leaf, split_unit, whole_space
from hagd_jax.units.unit import Unit, leaf_kind
from hagd_jax.units.unit_tree import UnitTree


class SpannedTree(UnitTree):
    """A tree of units split by span has each unit of a tree whole, and at each span.

    `head 9.6` holds `head 9.6 at end`, a leaf; `mlp 0` holds `mlp 0 at end`, which holds
    `neuron 0.3 at end`. Whole units open into whole ones, as in the tree that was split, and whole
    heads and neurons into their spans; a unit at a span opens into units at that span. `space` and
    `dictionary` are those of the split, `levels` have the clusters of whole leaves, and the digest
    is that of the tree that was split. Make it with `UnitTree.by_span`.
    """

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Return the names of the spans."""
        return spans_of(self.dictionary)

    @functools.cached_property
    def whole(self) -> UnitTree:
        """Return the tree that was split."""
        space = whole_space(self.space, len(self.names))
        return UnitTree(space, whole_label(self.dictionary), self.band, self.levels, self.seen)

    @property
    def layout(self) -> Layout:  # type: ignore[override]
        """Refuse: units at one span are no intervals of an order that whole ones are, too."""
        self._refuse("its layout")

    @functools.cached_property
    def digest(self) -> str:
        """Return the digest of the tree that was split: spans make no other clusters."""
        return self.whole.digest

    def __repr__(self) -> str:
        return f"{self.whole!r} at {len(self.names)} spans"

    def counts(self) -> dict[str, int]:
        """Count the inner units of each kind, whole."""
        return self.whole.counts()

    def by_span(self, names: Iterable[str]) -> UnitTree:
        """Refuse: units are split already."""
        self._refuse("a second split")

    def unit(self, name: str | Unit) -> Unit:
        """Return the unit of a name, such as `mlp 0`, `head 9.6 at end` or `cluster 5.2 at s2`.

        Args:
            name: The name; or a unit, which is checked to be one of this tree.

        Raises:
            InputError: If there is no such unit.
        """
        require_is("unit", name, str, Unit)
        text = name.name if isinstance(name, Unit) else name
        own, span = self._parts(text)
        try:
            found = self._at(self.whole.unit(own), span)
        except InputError:
            found = None
        if found is None or (isinstance(name, Unit) and found != name):
            raise InputError("unit", got=quoted(text), expected=f"one of {self!r}")
        return found

    def children(self, name: str | Unit) -> tuple[Unit, ...]:
        """Return the units that a unit consists of: of a whole leaf its spans.

        Raises:
            InputError: If there is no such unit.
        """
        own, span = self._parts(self.unit(name).name)
        if not self.whole.unit(own).leaf:
            return tuple(self._at(unit, span) for unit in self.whole.children(own))
        return () if span else self.at_spans(name)

    def at_spans(self, name: str | Unit) -> tuple[Unit, ...]:
        """Return a unit at each span, in the order of the spans; a unit at one span is alone.

        Raises:
            InputError: If there is no such unit.
        """
        own, span = self._parts(self.unit(name).name)
        each = (span,) if span else self.names
        return tuple(self._at(self.whole.unit(own), name) for name in each)

    def parent(self, name: str | Unit) -> Unit | None:
        """Return the smallest unit above a unit at the same spans, or the whole of a leaf."""
        own, span = self._parts(self.unit(name).name)
        above = self.whole.parent(own)
        if span and (above is None or self.whole.unit(own).leaf):
            return self._at(self.whole.unit(own), "")
        return None if above is None else self._at(above, span)

    def leaf(self, place: int) -> Unit:
        """Return the leaf at a place of `Nodes.flat`."""
        place = require_index("place of a leaf", place, self.space.nodes)
        return split_leaf(self.space, leaf_kind(self.dictionary), place, self.names)

    def inner(self, number: int) -> Unit:
        """Refuse: numbers are those of a layout."""
        self._refuse("a number of its layout")

    @property
    def roots(self) -> tuple[Unit, ...]:
        """Return the units that no other holds."""
        return tuple(self._at(unit, "") for unit in self.whole.roots)

    def of_kind(self, kind: str) -> tuple[Unit, ...]:
        """Return all inner units of a kind, whole, in the order of the layers."""
        return tuple(self._at(unit, "") for unit in self.whole.of_kind(kind))

    def rest(self, units: Iterable[str | Unit]) -> tuple[Unit, ...]:
        """Return few units that hold all leaves that no given unit holds: the complement.

        A unit of which some span is all free or all taken is opened by span, others are opened as
        the tree does.

        Args:
            units: An antichain.
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
                parts = () if unit.span else self.at_spans(unit)
                shares = [taken[part.places()] for part in parts]
                apart = any(share.all() or not share.any() for share in shares)
                waiting += (parts if apart else self.children(unit))[::-1]
        return tuple(found)

    def depths(self) -> NoReturn:  # type: ignore[override]
        """Refuse: a search opens whole units."""
        self._refuse("its depths")

    def _parts(self, text: str) -> tuple[str, str]:
        """The name of the whole unit, and the span; empty for all spans."""
        own, _, span = text.rpartition(" at ")
        return (own, span) if own and span in self.names else (text, "")

    def _at(self, unit: Unit, span: str) -> Unit:
        return split_unit(unit, self.whole.space, self.names, span)

    def _refuse(self, what: str) -> NoReturn:
        raise InputError("tree of units", got=f"one split by span, asked for {what}",
                         expected="a tree of whole units",
                         mend="Search with the tree that was split, then use "
                         "search.split_spans.")  # fmt: skip
