"""Sequences of a corpus that can be had in any order: a long text in pieces, or a table."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import math

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.corpus.layout import Batch, Layout


class Rows(abc.ABC):
    """A sequence of rows; `rows[3]` is one of them, `rows[:8]` or `rows[array]` a batch."""

    layout: Layout

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many rows."""

    @abc.abstractmethod
    def __getitem__(self, index: int | slice | np.ndarray) -> Batch:
        """One row (T,) or several (B, T)."""

    @property
    @abc.abstractmethod
    def padded(self) -> bool:
        """Whether some row is filled up."""

    @abc.abstractmethod
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that it holds, for a fingerprint."""

    def fingerprint(self) -> str:
        """A name for the content: equal rows have equal names."""
        state = hashlib.blake2b(repr(self.layout).encode(), digest_size=8)
        for array in self.arrays():
            # Whatever the width they are kept in.
            state.update(np.asarray(array, "<u4").tobytes())
        return state.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Packed(Rows):
    """A long text cut into rows without a gap; the last one is filled up.

    Attributes:
        stream: (N,) ids of all documents, one after another.
        layout: How a row begins.

    Example:
        >>> rows = Packed(np.arange(5), Layout(length=4, begin=(9,)))
        >>> rows[:].tokens.tolist()
        [[9, 0, 1, 2], [9, 3, 4, 0]]
    """

    stream: np.ndarray = dataclasses.field(repr=False)
    layout: Layout

    __repr__ = one_line

    def __len__(self) -> int:
        return math.ceil(len(self.stream) / self.layout.body)

    def __getitem__(self, index: int | slice | np.ndarray) -> Batch:
        body = self.layout.body
        rows = index if isinstance(index, np.ndarray) else np.asarray(range(len(self))[index])
        at = rows[..., None] * body + np.arange(body)
        real = at < len(self.stream)
        return self.layout.rows(self.stream[np.where(real, at, 0)], real)

    @property
    def padded(self) -> bool:
        """Whether the last row is filled up."""
        return len(self.stream) % self.layout.body != 0

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The stream."""
        return (self.stream,)


@dataclasses.dataclass(frozen=True, eq=False)
class StoredRows(Rows):
    """Rows that are there already, such as prompts.

    Attributes:
        tokens: (N, T) ids.
        lengths: (N,) real tokens of each row; the rest is padding.
        layout: What weighs.

    Example:
        >>> rows = StoredRows(np.array([[5, 6], [7, 0]]), np.array([2, 1]), Layout(length=2))
        >>> rows[1].weight.tolist()
        [1.0, 0.0]
    """

    tokens: np.ndarray = dataclasses.field(repr=False)
    lengths: np.ndarray = dataclasses.field(repr=False)
    layout: Layout

    __repr__ = one_line

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int | slice | np.ndarray) -> Batch:
        real = np.arange(self.layout.length) < self.lengths[index, ..., None]
        return self.layout.weigh(self.tokens[index], real)

    @property
    def padded(self) -> bool:
        """Whether some row is shorter than the table is wide."""
        return bool((self.lengths < self.layout.length).any())

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Tokens and lengths."""
        return self.tokens, self.lengths
