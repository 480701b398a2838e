"""The layer graph: which layers' features write to which layers' MLP outputs."""

from __future__ import annotations

import functools
from typing import Any

import jraph
import numpy as np

from hagd_jax.errors import require_is
from hagd_jax.transcoders.config import TranscoderConfig


@functools.cache
def layer_graph(config: TranscoderConfig) -> jraph.GraphsTuple:
    """Build the graph of layers, in which an edge l → l' lets features of l write to l'.

    Edges are sorted by sender, then receiver, so those of one layer lie together, its own first.

    Args:
        config: The transcoder; its `window` decides: self-edges alone (0), a band, or all l ≤ l'.

    Returns:
        A graph of host arrays; edge e's decoder is `W_dec[e]`.

    Example:
        >>> config = TranscoderConfig(n_layers=3, d_model=4, n_features=8, k=1, window=1)
        >>> graph = layer_graph(config)
        >>> list(zip(graph.senders.tolist(), graph.receivers.tolist()))
        [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]
    """
    require_is("config", config, TranscoderConfig)
    layers = np.arange(config.n_layers, dtype=np.int32)
    distance = layers[None] - layers[:, None]
    senders, receivers = np.nonzero((distance >= 0) & (distance < config.width))
    arrays: Any = {
        "nodes": layers,
        "edges": (receivers - senders).astype(np.int32),
        "senders": senders.astype(np.int32),
        "receivers": receivers.astype(np.int32),
        "n_node": np.array([len(layers)], np.int32),
        "n_edge": np.array([len(senders)], np.int32),
    }
    # jraph's types ask for device arrays; on the host they are constants of a compiled program.
    return jraph.GraphsTuple(**arrays, globals=None)


def own_edges(config: TranscoderConfig) -> np.ndarray:
    """Return the (L,) edge from each layer to itself.

    Example:
        >>> own_edges(TranscoderConfig(n_layers=3, d_model=4, n_features=8, k=1, window=1)).tolist()
        [0, 2, 4]
    """
    graph = layer_graph(config)
    return np.flatnonzero(graph.senders == graph.receivers)
