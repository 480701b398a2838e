"""Scores and selections of units, with the data that they were made from."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from hagd_jax.tasks.seen import Seen
from hagd_jax.units.edges import Edges
from hagd_jax.units.nodes import Nodes, Space


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """A number for each unit, and what it was found by looking at.

    It is not a pytree: pass `values` to compiled functions, so that `seen` enters no cache key.

    Attributes:
        values: `Nodes` or `Edges` of float.
        seen: The data that decided them.

    Example:
        >>> from hagd_jax.tasks.seen import look
        >>> from hagd_jax.units import Nodes, Space
        >>> scores = Scores(Nodes.full(Space(2, 2, 4), 1.0), look(ablation="counterfactual"))
        >>> scores
        Scores(12 values, Seen(ablations counterfactual))
        >>> scores.after(look(ablation="mean")).seen.ablations
        ('counterfactual', 'mean')
    """

    values: Any
    seen: Seen

    @property
    def space(self) -> Space | tuple[tuple[int, ...], ...]:
        """Which units these are values of; of edges, the shapes of their arrays."""
        return _space(self.values)

    def flat(self) -> np.ndarray:
        """(N,) the values on the host, in the order of `Nodes.flat` or `Edges.flat`."""
        return np.asarray(self.values.flat())

    def like(self, flat: Any) -> Scores:
        """Other values for the same units, made from these, so with the same `seen`."""
        return Scores(self.values.like(flat), self.seen)

    def after(self, seen: Seen) -> Scores:
        """The same values, which more data have decided."""
        return Scores(self.values, self.seen | seen)

    def __repr__(self) -> str:
        return f"Scores({self.flat().size:,} values, {self.seen})"


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """Which units were chosen, and what they were chosen by looking at.

    It is not a pytree: pass `mask` to compiled functions, so that `seen` enters no cache key.

    Attributes:
        mask: `Nodes` or `Edges` of bool.
        seen: The data that decided it.

    Example:
        >>> from hagd_jax.tasks.seen import Seen
        >>> from hagd_jax.units import Nodes, Space
        >>> Selection(Nodes.full(Space(2, 2, 4), True), Seen.nothing())
        Selection(12 of 12, Seen(nothing))
    """

    mask: Any
    seen: Seen

    @property
    def space(self) -> Space | tuple[tuple[int, ...], ...]:
        """Which units there are; of edges, the shapes of their arrays."""
        return _space(self.mask)

    def flat(self) -> np.ndarray:
        """(N,) bool on the host, in the order of `Nodes.flat` or `Edges.flat`."""
        return np.asarray(self.mask.flat(), bool)

    def like(self, flat: Any) -> Selection:
        """Another choice among the same units, made from this one, so with the same `seen`."""
        return Selection(self.mask.like(flat), self.seen)

    def after(self, seen: Seen) -> Selection:
        """The same choice, which more data have decided."""
        return Selection(self.mask, self.seen | seen)

    def __len__(self) -> int:
        return int(self.flat().sum())

    def __repr__(self) -> str:
        return f"Selection({len(self):,} of {self.flat().size:,}, {self.seen})"


def _space(units: Nodes | Edges) -> Space | tuple[tuple[int, ...], ...]:
    if isinstance(units, Nodes):
        return units.space
    return tuple(np.shape(leaf) for leaf in jax.tree.leaves(units))
