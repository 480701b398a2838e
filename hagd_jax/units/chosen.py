"""Scores and selections of units, with the data that they were made from."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is
from hagd_jax.tasks.seen import Seen
from hagd_jax.units.edges import Edges
from hagd_jax.units.nodes import Nodes, Space


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Scores hold a number for each unit and the data that decided them.

    It is not a pytree: pass `values` to compiled functions, so that `seen` enters no cache key.

    Attributes:
        values: `Nodes` or `Edges` of float.
        seen: The data that decided them.

    Raises:
        InputError: If they are something else.

    Example:
        >>> from hagd_jax.tasks.seen import Seen
        >>> from hagd_jax.units import Nodes, Space
        >>> seen = Seen(ablations=["counterfactual"], prompts=["00c0ffee"])
        >>> scores = Scores(Nodes.full(Space(2, 2, 4), 1.0), seen)
        >>> scores
        Scores(12 values, Seen(ablations counterfactual; 1 prompt))
        >>> scores.after(Seen(ablations=["mean"], prompts=["00c0ffee"])).seen.ablations
        ('counterfactual', 'mean')
    """

    values: Any
    seen: Seen

    def __post_init__(self):
        require_is("values", self.values, Nodes, Edges)
        require_is("seen", self.seen, Seen)

    @property
    def space(self) -> Space | tuple[tuple[int, ...], ...]:
        """Return the sizes of the nodes scored; for edges, the shapes of their arrays."""
        return _space(self.values)

    def flat(self) -> np.ndarray:
        """Copy the (N,) values to the host, in the order of `Nodes.flat` or `Edges.flat`."""
        return np.asarray(self.values.flat())

    def like(self, flat: Any) -> Scores:
        """Make scores of other values for the same units, with the same `seen`."""
        return Scores(self.values.like(flat), self.seen)

    def after(self, seen: Seen) -> Scores:
        """Return the same values with more data added to `seen`."""
        require_is("seen", seen, Seen)
        return Scores(self.values, self.seen | seen)

    def __repr__(self) -> str:
        try:
            return f"Scores({self.flat().size:,} values, {self.seen})"
        except Exception:  # values that are traced, or no numbers: a message must show them too
            return one_line(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """A selection holds a mask over units and the data that decided it.

    It is not a pytree: pass `mask` to compiled functions, so that `seen` enters no cache key.

    Attributes:
        mask: `Nodes` or `Edges` of bool.
        seen: The data that decided it.

    Raises:
        InputError: If it is something else.

    Example:
        >>> from hagd_jax.tasks.seen import Seen
        >>> from hagd_jax.units import Nodes, Space
        >>> Selection(Nodes.full(Space(2, 2, 4), True), Seen.nothing())
        Selection(12 of 12, Seen(nothing))
    """

    mask: Any
    seen: Seen

    def __post_init__(self):
        require_is("mask", self.mask, Nodes, Edges)
        require_is("seen", self.seen, Seen)

    @property
    def space(self) -> Space | tuple[tuple[int, ...], ...]:
        """Return the sizes of the nodes selected from; for edges, the shapes of their arrays."""
        return _space(self.mask)

    def flat(self) -> np.ndarray:
        """Copy the (N,) bool mask to the host, in the order of `Nodes.flat` or `Edges.flat`."""
        return np.asarray(self.mask.flat(), bool)

    def like(self, flat: Any) -> Selection:
        """Make a selection of other members among the same units, with the same `seen`.

        What else decided the members must be added with `after`; `|`, `&` and `-` do so.
        """
        return Selection(self.mask.like(flat), self.seen)

    def __or__(self, other: Selection) -> Selection:
        """Return the members of either, which have seen what both have."""
        return self._with(other, np.logical_or)

    def __and__(self, other: Selection) -> Selection:
        """Return the members of both, which have seen what both have."""
        return self._with(other, np.logical_and)

    def __sub__(self, other: Selection) -> Selection:
        """Return the members that the other lacks, which have seen what both have."""
        return self._with(other, np.greater)

    def _with(self, other: Selection, how: Any) -> Selection:
        if not isinstance(other, Selection):
            return NotImplemented
        if self.space != other.space:
            raise InputError("a selection", got=f"units {other.space}", expected=f"{self.space}")
        return self.like(how(self.flat(), other.flat())).after(other.seen)

    def after(self, seen: Seen) -> Selection:
        """Return the same mask with more data added to `seen`."""
        require_is("seen", seen, Seen)
        return Selection(self.mask, self.seen | seen)

    def __len__(self) -> int:
        return int(self.flat().sum())

    def __repr__(self) -> str:
        try:
            return f"Selection({len(self):,} of {self.flat().size:,}, {self.seen})"
        except Exception:  # as for scores
            return one_line(self)


def _space(units: Nodes | Edges) -> Space | tuple[tuple[int, ...], ...]:
    if isinstance(units, Nodes):
        return units.space
    return tuple(np.shape(leaf) for leaf in jax.tree.leaves(units))
