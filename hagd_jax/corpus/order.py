"""The order of rows: another permutation each epoch, any part of it without what came before."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Order:
    """An order is an endless sequence of shuffled rows, epoch after epoch.

    A permutation is kept as 8 bytes a row. Grain's own shuffle keeps nothing, but encrypts in a
    domain of at least 2^16: that is up to 2^16 / N ciphers for each of N rows, milliseconds a row
    for a task's prompts.

    Attributes:
        rows: Rows of an epoch.
        seed: Other seeds, other orders.

    Example:
        >>> sorted(Order(rows=4, seed=0)[np.arange(4, 8)].tolist())
        [0, 1, 2, 3]
    """

    rows: int
    seed: int

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """The rows at some positions, counted from the first epoch on."""
        epochs, places = np.divmod(positions, self.rows)
        found = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            found[here] = _permutation(self.rows, self.seed, epoch)[places[here]]
        return found


# Training and held-out rows may take turns, each with batches across two epochs.
@functools.lru_cache(maxsize=4)
def _permutation(rows: int, seed: int, epoch: int) -> np.ndarray:
    # NumPy promises these bits for ever; its own shuffles may change between versions.
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(rows)
    return np.argsort(bits, kind="stable")
