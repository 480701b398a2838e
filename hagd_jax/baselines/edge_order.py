"""Edges from the output back, and which components are still heard."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.models import DecoderConfig
from hagd_jax.units import Edges


class EdgeOrder(NamedTuple):
    """An order lists the E edges of a model so that each comes before all that feed its writer.

    Attributes:
        places: (E,) of each edge in `Edges.flat()`.
        writer: (E,) which of the W writers it comes from.
        listeners: (E, G) the writers that carry on what it brings, such as all heads that share a
            key; filled up with copies. W stands for the logits, which are always heard.
        writers: W.
    """

    places: np.ndarray
    writer: np.ndarray
    listeners: np.ndarray
    writers: int

    __repr__ = one_line


def edges_backwards(config: DecoderConfig) -> EdgeOrder:
    """List the edges of a model in reverse topological order.

    The logits come first, then the layers from the last to the first: the MLP, then values, keys
    and queries of its heads, each from the last head to the first. The writers of one reader are
    listed from the last to the first.

    Args:
        config: The decoder's.

    Returns:
        The order.

    Example:
        >>> config = DecoderConfig(vocab_size=9, n_layers=1, d_model=4, n_heads=2, d_mlp=4)
        >>> order = edges_backwards(config)
        >>> len(order.places), order.writer[:5].tolist()  # MLP, heads and embedding; then the MLP's
        (13, [3, 2, 1, 0, 2])
    """
    there = Edges.existing(config)
    writers, heads, group = len(there.final), config.n_heads, config.n_heads // config.n_kv_heads
    wrote = np.concatenate([
        [-1], 2 * np.repeat(np.arange(config.n_layers), heads) + 1,
        2 * np.arange(config.n_layers) + 2,
    ])  # fmt: skip
    # The last to write first; among heads of one layer, the last head first.
    late = np.lexsort((-np.arange(writers), -wrote))
    numbers = there.like(np.arange(len(there.flat())))
    places, senders, listeners = [], [], []

    def add(rows: np.ndarray, exists: np.ndarray, own: list[int]) -> None:
        found = late[exists[late]]
        places.append(rows[found])
        senders.append(found)
        listeners.append(np.repeat(np.resize(own, group)[None], len(found), 0))

    add(numbers.final, there.final, [writers])
    for layer in reversed(range(config.n_layers)):
        add(numbers.mlp[layer], there.mlp[layer], [1 + config.n_layers * heads + layer])
        first = 1 + layer * heads
        for name in "vkq":
            rows, exists = getattr(numbers, name)[layer], getattr(there, name)[layer]
            width = 1 if name == "q" else group
            for head in reversed(range(len(rows))):
                own = [first + head * width + i for i in range(width)]
                add(rows[head], exists[head], own)
    return EdgeOrder(
        np.concatenate(places), np.concatenate(senders), np.concatenate(listeners), writers
    )
