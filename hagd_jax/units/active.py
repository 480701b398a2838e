"""The part of a dictionary on disk that one prompt needs: the features that are active in it.

Features that are active nowhere in a prompt write nothing and are no nodes, so a graph over the
others alone is the graph over all of them. Encoders are visited one layer at a time; of each, and
of the decoders, the rows of active features are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.formats.lazy import LazyTranscoder
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.kernels import dense as feat
from hagd_jax.transcoders.transcoder import Transcoder
from hagd_jax.units.features import Features
from hagd_jax.units.lazy import LazyFeatures
from hagd_jax.units.nodes import Space


class ActiveFeatures(Features):
    """This dictionary holds the features of a larger one that are active in a prompt.

    Attributes:
        width: Features of the larger one, a layer; this one has fewer rows, and calls them by
            their numbers among those.
    """

    width: int = struct.field(pytree_node=False, default=0)

    __repr__ = one_line

    @property
    def space(self) -> Space:
        """Return the numbers of layers, heads and features of the larger dictionary."""
        return Space(self.decoder.n_layers, self.decoder.n_heads, self.width)


def active_features(
    dictionary: LazyFeatures, read: jax.Array, counts: jax.Array, size: Callable[[int, int], int]
) -> tuple[Features, np.ndarray | None]:
    """Read the features of a dictionary on disk that are active in a prompt.

    Args:
        dictionary: On disk.
        read: (L, T, D) what its features read in the prompt.
        counts: (T,) bool: positions whose features are nodes.
        size: How many rows to hold in every layer, from the most features that are active at one
            position and the most that are active in one layer; prompts of one size share programs.

    Returns:
        A dictionary in memory, and which features its rows are: (L, rows) rising in each layer,
        then the number of all features where there are no more. None if it has all of them.

    Raises:
        InputError: If activations are not finite.
        CheckpointError: If weights are not finite, or a file has changed.
    """
    lazy, config = dictionary.stored, dictionary.stored.config
    found = [_active_rows(lazy, layer, x, counts) for layer, x in enumerate(read)]
    most = dictionary.most_active or max(layer.most for layer in found)
    rows = max(size(most, max(len(layer.numbers) for layer in found)), config.k)
    kept = None
    if rows >= config.n_features:
        rows, every = config.n_features, np.arange(config.n_features)
        found = [
            _Rows(every, {k: np.asarray(v) for k, v in lazy.encoder(layer).items()}, most)
            for layer in range(config.n_layers)
        ]
    else:
        kept = np.full((config.n_layers, rows), config.n_features)
        for layer, own in enumerate(found):
            kept[layer, : len(own.numbers)] = own.numbers
    small = Transcoder(_params(lazy, found, rows), config.replace(n_features=rows), None)
    made = ActiveFeatures(dictionary.decoder, "", small, True, width=config.n_features)
    return made.bare(), kept


class _Rows(NamedTuple):
    """Some features of a layer, rising, with their rows; and the most active at a position."""

    numbers: np.ndarray
    params: dict[str, np.ndarray]
    most: int


def _active_rows(lazy: LazyTranscoder, layer: int, x: jax.Array, counts: jax.Array) -> _Rows:
    own = lazy.encoder(layer)
    anywhere, most, finite = _activity(own, x, counts, lazy.config)
    if not finite:
        raise InputError(
            "activations",
            got="NaN or infinity",
            expected="finite numbers",
            mend="Compute in float32, or check the weights.",
        )
    index = np.flatnonzero(np.asarray(anywhere))
    return _Rows(index, {name: np.asarray(leaf)[index] for name, leaf in own.items()}, int(most))


@functools.partial(jax.jit, static_argnames="config")
def _activity(
    own: dict[str, jax.Array], x: jax.Array, counts: jax.Array, config: TranscoderConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(F,) which features are needed, the most nodes at a position, and if all is finite."""
    pre = feat.pre_activations(own, x, config)
    values = feat.activate(pre, config, own.get("threshold"))
    active = values != 0
    nodes = active & counts[:, None]
    # Features that are no nodes compete with those that are, if all positions do.
    kept = active if config.activation == "batch_topk" else nodes
    return kept.any(0), nodes.sum(-1).max(), jnp.isfinite(pre).all()


def _params(lazy: LazyTranscoder, found: list[_Rows], rows: int) -> dict[str, Any]:
    """The parameters of some features, with rows of nothing behind them."""
    dtype = np.dtype(lazy.config.dtype)
    # A row that is there to fill up reads nothing, and is above no threshold.
    fill = {"threshold": float(jnp.finfo(dtype).max)}
    params: dict[str, Any] = {}
    for name, leaf in found[0].params.items():
        whole = np.full((len(found), rows, *leaf.shape[1:]), fill.get(name, 0), dtype)
        for layer, own in enumerate(found):
            whole[layer, : len(own.numbers)] = own.params[name]
        params[name] = jnp.asarray(whole)
    senders = np.asarray(layer_graph(lazy.config).senders)
    decoders = np.zeros((len(senders), rows, lazy.config.d_model), dtype)
    for edge, sender in enumerate(senders):
        index = found[sender].numbers
        decoders[edge, : len(index)] = lazy.decoder_rows(edge, index)
    skip = {} if lazy.W_skip is None else {"W_skip": lazy.W_skip}
    return params | {"W_dec": jnp.asarray(decoders), "b_dec": lazy.b_dec} | skip
