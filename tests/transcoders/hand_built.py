"""Transcoders of known mechanism, built by hand."""

import itertools

import jax.numpy as jnp
import numpy as np

from hagd_jax.transcoders import Transcoder, TranscoderConfig, param_specs
from hagd_jax.transcoders.graph import layer_graph

SIGNS = np.array(list(itertools.product((-1, 1), repeat=3)))


def zeros(config):
    """A transcoder that writes nothing, as NumPy arrays to fill in."""
    return {name: np.zeros(spec.shape) for name, spec in param_specs(config).items()}


def made(params, config):
    return Transcoder({k: jnp.asarray(v, jnp.float32) for k, v in params.items()}, config)


def neuron_basis(model):
    """The neurons of ungated ReLU MLPs as features: the mechanism itself."""
    c, mlp = model.config, model.params["blocks"]["mlp"]
    config = TranscoderConfig(
        n_layers=c.n_layers, d_model=c.d_model, n_features=c.d_mlp, activation="relu"
    )
    params = {
        "W_enc": np.swapaxes(mlp["in"]["kernel"], 1, 2),
        "b_enc": mlp["in"]["bias"],
        "W_dec": mlp["out"]["kernel"],
        "b_dec": mlp["out"]["bias"],
    }
    return made(params, config)


def bypass(chains, *, across):
    """Exact reconstructions of two-hop models that never read B.

    Features fire on one assignment of a, b and c each, ReLU(±a ± b ± c − 2). They write B where
    the model does; with `across` the same ones write C over a cross-layer edge, otherwise copies
    of them in C's own layer do.
    """
    c, n = chains.model.config, len(chains.earlier)
    config = TranscoderConfig(
        n_layers=c.n_layers, d_model=c.d_model, n_features=16 * n, activation="relu",
        window=None if across else 0,
    )  # fmt: skip
    graph = layer_graph(config)
    edge = {pair: e for e, pair in enumerate(zip(graph.senders, graph.receivers, strict=True))}
    params = zeros(config)
    directions, values = np.asarray(chains.directions), np.asarray(chains.values)
    for j in range(n):
        first, second = int(chains.earlier[j]), int(chains.later[j])
        for i, signs in enumerate(SIGNS):
            token = np.flatnonzero((values[:, j, :3] == signs).all(-1))[0]
            writes = values[token, j, 3:, None] * directions[j, 3:]

            def feature(layer, slot, signs=signs, j=j):
                params["W_enc"][layer, slot] = signs @ directions[j, :3]
                params["b_enc"][layer, slot] = -2

            slot = 16 * j + i
            feature(first, slot)
            params["W_dec"][edge[first, first], slot] = writes[0]
            if across:
                params["W_dec"][edge[first, second], slot] = writes[1]
            else:
                feature(second, slot + 8)
                params["W_dec"][edge[second, second], slot + 8] = writes[1]
    return made(params, config)
