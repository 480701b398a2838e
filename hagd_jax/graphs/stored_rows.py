"""Rows as they stream in, kept whole or as their strongest entries, and the influence in them.

Columns are the sources of the padded prompt: feature slots, then errors, then embeddings. In both
forms a row's sums are those of all its entries.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.graphs.rows import TargetRows


class Columns(NamedTuple):
    """Columns are the sources in a prompt of T (padded) positions, in order.

    Attributes:
        layers: L.
        positions: T.
        slots: K.
    """

    layers: int
    positions: int
    slots: int

    @property
    def features(self) -> int:
        """Return the number of feature slots, L · T · K."""
        return self.layers * self.positions * self.slots

    @property
    def embeddings(self) -> int:
        """Return the first column of embeddings; errors (L, T) come before them."""
        return self.features + self.layers * self.positions

    @property
    def total(self) -> int:
        """Return the number of all columns."""
        return self.embeddings + self.positions


class RowEdges(NamedTuple):
    """Row edges are the edges of the finished graph, with sums of what is left out.

    Attributes:
        rows: (E,) which row each belongs to.
        columns: (E,) which of the chosen columns.
        weights: (E,) float32.
        folded: (R, 2) mass Σ|A| of a row from errors and from embeddings that are no edges.
        remainder: (R,) Σ A of a row over everything that is no edge.
    """

    rows: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    folded: np.ndarray
    remainder: np.ndarray

    __repr__ = one_line


class StoredRows(abc.ABC):
    """A store holds R rows over the columns; make it with `stored_rows`.

    Attributes:
        columns: What they are over.
        layer: (R,) layer of each row's target; L for logits.
        count: Rows so far.
    """

    def __init__(self, size: int, columns: Columns):
        self.columns, self.count = columns, 0
        self.layer = np.full(size, -1, np.int32)
        self.slot = np.full(size, -1, np.int64)
        self.total = np.zeros(size)
        self.mass = np.zeros((size, 3))

    def add(self, part: TargetRows, slot: np.ndarray, layer: np.ndarray) -> None:
        """Append rows.

        Args:
            part: The first `len(slot)` of its B rows.
            slot: (n,) the column of each target among features; −1 for a logit.
            layer: (n,) its layer.
        """
        n = len(slot)
        new = slice(self.count, self.count + n)
        self.slot[new], self.layer[new] = slot, layer
        self.total[new], self.mass[new] = np.asarray(part.total)[:n], np.asarray(part.mass)[:n]
        self._keep(new, np.asarray(part.values)[:n])
        self.count = new.stop

    def influence(self, weights: np.ndarray) -> np.ndarray:
        """Compute each column's influence so far: I = wM + wM² + …, M = |A| row-normed.

        Rows of one layer read from lower ones only, so one pass from the top is the whole sum.

        Args:
            weights: (logits,) of the rows that are logits, which come first.

        Returns:
            (columns,) float64.
        """
        found = np.zeros(self.columns.total)
        for layer in np.unique(self.layer[: self.count])[::-1]:
            chosen = np.flatnonzero(self.layer[: self.count] == layer)
            own = self.slot[chosen]
            flow = np.where(own < 0, weights[np.minimum(chosen, len(weights) - 1)], found[own])
            self._flow(found, chosen, flow / np.maximum(self.mass[chosen].sum(1), 1e-8))
        return found

    @abc.abstractmethod
    def _keep(self, new: slice, values: np.ndarray) -> None:
        """Keep what is to be kept of (n, C) values."""

    @abc.abstractmethod
    def _flow(self, found: np.ndarray, chosen: np.ndarray, flow: np.ndarray) -> None:
        """Add flow @ |A[chosen]| to what was found."""

    @abc.abstractmethod
    def edges(self, columns: np.ndarray, order: np.ndarray) -> RowEdges:
        """Read the edges from some columns in rising order, and sum the rest.

        Args:
            columns: Those that are nodes.
            order: (R,) the rows as they shall come.

        Returns:
            Edges by row, then by column.
        """


class WholeRows(StoredRows):
    """Whole rows keep every entry."""

    def __init__(self, size: int, columns: Columns):
        super().__init__(size, columns)
        # Pages that are never written are never in memory.
        self.matrix = np.zeros((size, columns.total), np.float32)

    def _keep(self, new: slice, values: np.ndarray) -> None:
        self.matrix[new] = values

    def _flow(self, found: np.ndarray, chosen: np.ndarray, flow: np.ndarray) -> None:
        for start in range(0, len(chosen), 256):
            part = slice(start, start + 256)
            found += flow[part].astype(np.float32) @ np.abs(self.matrix[chosen[part]])

    def edges(self, columns: np.ndarray, order: np.ndarray) -> RowEdges:
        """Read the edges from some columns; entries of other columns are dropped, not summed."""
        chosen = self.matrix[np.ix_(order, columns)]
        rows, places = np.nonzero(chosen)
        remainder = self.total[order] - chosen.sum(1, dtype=np.float64)
        return RowEdges(rows, places, chosen[rows, places], np.zeros((len(order), 2)), remainder)


class StrongestRows(StoredRows):
    """Strongest rows keep their largest entries and the mass of the others."""

    def __init__(self, size: int, columns: Columns, most: int):
        super().__init__(size, columns)
        most = min(most, columns.total)
        self.index = np.zeros((size, most), np.int64)
        self.value = np.zeros((size, most), np.float32)
        self.folded = np.zeros((size, 2), np.float64)

    def _keep(self, new: slice, values: np.ndarray) -> None:
        c, most = self.columns, self.index.shape[1]
        for row, own in enumerate(values, start=new.start):
            size = np.abs(own)
            best = _strongest(size, most)
            self.index[row, : len(best)] = best
            self.value[row, : len(best)] = own[best]
            kinds = np.searchsorted([c.features, c.embeddings], best, side="right")
            kept = np.bincount(kinds, size[best], 3)
            self.folded[row] = np.maximum(self.mass[row] - kept, 0)[1:]

    def _flow(self, found: np.ndarray, chosen: np.ndarray, flow: np.ndarray) -> None:
        weights = flow[:, None] * np.abs(self.value[chosen])
        found += np.bincount(self.index[chosen].ravel(), weights.ravel(), len(found))

    def edges(self, columns: np.ndarray, order: np.ndarray) -> RowEdges:
        """Read the edges from some columns, and sum entries not kept or not among them."""
        place = np.full(self.columns.total, len(columns), np.int64)
        place[columns] = np.arange(len(columns))
        found, value = place[self.index[order]], self.value[order]
        inside = np.argsort(found, 1)
        found, value = (np.take_along_axis(x, inside, 1) for x in (found, value))
        rows, entries = np.nonzero((found < len(columns)) & (value != 0))
        weights = value[rows, entries]
        remainder = self.total[order] - np.bincount(rows, weights, len(order))
        return RowEdges(rows, found[rows, entries], weights, self.folded[order], remainder)


def stored_rows(size: int, columns: Columns, edges_per_node: int | None) -> StoredRows:
    """Make an empty store.

    Args:
        size: Rows that will come.
        columns: What they are over.
        edges_per_node: Entries of a row to keep; None for all.

    Returns:
        The store.
    """
    if edges_per_node is None:
        return WholeRows(size, columns)
    return StrongestRows(size, columns, edges_per_node)


def _strongest(size: np.ndarray, most: int) -> np.ndarray:
    """Indices of the largest values, fewer if there are fewer above zero."""
    some = np.flatnonzero(size)
    if len(some) > 4 * most:
        # Most are too small by far: a sample says where to cut, and twice too many are left.
        sample = np.sort(size[some[:: max(1, len(some) // 4096)]])
        cut = sample[max(0, len(sample) - 1 - 2 * most * len(sample) // len(some))]
        near = some[size[some] > cut]
        some = near if len(near) >= most else some
    if len(some) <= most:
        return some
    return some[np.argpartition(size[some], len(some) - most)[len(some) - most :]]
