"""Batches without end, from any position: what was given after a state is given again from it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hagd_jax.corpus.config import require_seed, require_whole
from hagd_jax.corpus.layout import Batch
from hagd_jax.corpus.order import Order
from hagd_jax.corpus.rows import Rows
from hagd_jax.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import grain


@dataclasses.dataclass(frozen=True)
class Share:
    """A share is the part of every batch that one process takes: the `index`-th of `count`."""

    index: int = 0
    count: int = 1


class Batches(Iterator[Batch]):
    """Batches iterate over a corpus endlessly, epoch after epoch.

    Args:
        dataset: The batches, as Grain makes them.
        identity: What a state must agree on to be of this sequence of batches.
    """

    def __init__(self, dataset: grain.IterDataset[Batch], identity: Mapping[str, Any]):
        self._dataset = dataset
        self._identity = dict(identity)
        self._iterator = iter(dataset)

    def __next__(self) -> Batch:
        return next(self._iterator)

    def state(self) -> dict[str, Any]:
        """Return the position as JSON values, the same in every process."""
        return self._identity | {"position": self._iterator.get_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after the batch at which `state` was taken.

        Args:
            state: From `state()`, of this or another process or run.

        Raises:
            CheckpointError: If it is no such state, or of other data, seed or batch size.
        """
        if not isinstance(state, Mapping):
            raise CheckpointError("data position", got=repr(state), expected="a dict from state()")
        for field, here in self._identity.items():
            if state.get(field) != here:
                raise CheckpointError(
                    f"data position, {field}",
                    got=repr(state.get(field)),
                    expected=repr(here),
                    mend="Resume with the corpus and settings that the run began with.",
                )
        iterator = iter(self._dataset)
        try:
            iterator.set_state(state["position"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(
                "data position", got=repr(state.get("position")), expected="one from state()"
            ) from error
        self._iterator = iterator


def shuffled(rows: Rows, batch_size: int, seed: int, share: Share) -> grain.IterDataset[Batch]:
    """Iterate over batches in a new random order each epoch.

    They run across epochs, so that no row is left out.

    Args:
        rows: The rows.
        batch_size: Rows of a batch, of all processes together.
        seed: Of the order.
        share: This process's part; the parts in order are the batch of one process.

    Returns:
        Batches of `batch_size / share.count` rows; their position is one integer.

    Raises:
        ConfigError: If there are not as many rows.
    """
    import grain  # most of the package never needs it

    if batch_size > len(rows):
        raise ConfigError(
            "batch_size",
            got=batch_size,
            expected=f"at most the {len(rows)} sequences there are",
            mend="Use more text, shorter sequences or smaller batches.",
        )
    order = Order(len(rows), seed)
    size = batch_size // share.count
    parts = grain.MapDataset.range(sys.maxsize // size)[share.index :: share.count]
    mine = parts.map(lambda part: rows[order[np.arange(part * size, (part + 1) * size)]])
    # Rows are in memory: threads that fetch ahead would gain nothing.
    return mine.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))


def in_order(
    rows: grain.IterDataset[Batch], batch_size: int, share: Share
) -> grain.IterDataset[Batch]:
    """Iterate over batches of rows in their order.

    Args:
        rows: The rows, without end.
        batch_size: Rows of a batch, of all processes together.
        share: This process's part. Every process reads all rows.

    Returns:
        Batches of `batch_size / share.count` rows.
    """
    size = batch_size // share.count
    mine = slice(share.index * size, (share.index + 1) * size)
    return rows.batch(batch_size).map(lambda batch: Batch(*(array[mine] for array in batch)))


def check(batch_size: Any, seed: Any, share: tuple[int, int]) -> Share:
    """Refuse sizes, seeds and shares that make no batches.

    Raises:
        ConfigError: If a number is impossible, or the batch cannot be shared out evenly.
    """
    require_whole("batch_size", batch_size, 1)
    require_seed(seed)
    index, count = share
    require_whole("count of share", count, 1)
    require_whole("index of share", index, 0)
    if index >= count:
        raise ConfigError("index of share", got=index, expected=f"below the count, {count}")
    if batch_size % count:
        raise ConfigError("batch_size", got=batch_size, expected=f"a multiple of {count} processes")
    return Share(index, count)
