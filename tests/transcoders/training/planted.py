"""A model whose MLPs are a dictionary that is known: what each neuron reads and writes."""

import jax
import numpy as np

from hagd_jax.corpus import CorpusConfig, corpus_of_tokens
from hagd_jax.models import DecoderConfig, init
from hagd_jax.transcoders import encode
from hagd_jax.transcoders.graph import layer_graph

LAYERS, NEURONS, WRITTEN = 2, 8, 8
CONFIG = DecoderConfig(
    vocab_size=256, n_layers=LAYERS, d_model=LAYERS * NEURONS + WRITTEN, n_heads=2, d_mlp=NEURONS,
    max_positions=8, norm="none", positions="none", activation="relu", mlp_bias=False,
)  # fmt: skip


def planted():
    """The model, and (L, N, D) what its neurons read and write.

    For each layer a token has two of the eight directions that neurons read with a positive
    coefficient, two with a large negative one, which no linear map can leave out, and the others
    below zero, where no rounding switches a neuron on. What the neurons of a layer write overlaps;
    attention writes nothing.
    """
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(CONFIG.d_model, CONFIG.d_model)))[0]
    reads = basis[: LAYERS * NEURONS].reshape(LAYERS, NEURONS, -1)
    writes = rng.normal(size=(LAYERS, NEURONS, WRITTEN))
    writes = writes / np.linalg.norm(writes, axis=-1, keepdims=True) @ basis[LAYERS * NEURONS :]
    tokens = np.full((CONFIG.vocab_size, LAYERS * NEURONS), -0.2)
    for row in tokens.reshape(-1, NEURONS):
        row[rng.permutation(NEURONS)[:4]] = rng.uniform(0.5, 1.5, 4) * [1, 1, -1, -1]
    params = jax.tree.map(np.array, init(CONFIG, jax.random.key(0)).params)
    params["embed"]["embedding"] = (tokens @ basis[: LAYERS * NEURONS]).astype(np.float32)
    params["blocks"]["attn"]["o"] = jax.tree.map(np.zeros_like, params["blocks"]["attn"]["o"])
    params["blocks"]["mlp"] = {
        "in": {"kernel": reads.swapaxes(1, 2).astype(np.float32)},
        "out": {"kernel": writes.astype(np.float32)},
    }
    model = init(CONFIG, jax.random.key(0), name="planted")
    return model.replace(params=jax.tree.map(jax.numpy.asarray, params)), reads, writes


def corpus(model):
    rows = np.random.default_rng(1).integers(0, CONFIG.vocab_size, (400, 8))
    return corpus_of_tokens("planted", rows, model, CorpusConfig(held_out=0.1, bos=False))


def recovered(transcoder, x, reads, writes):
    """(L, N) how well each neuron's best feature is it: 1 is the same, 0 nothing in common.

    The lesser of two numbers: the correlation of the feature with the neuron over tokens, and the
    cosine of what both write. A feature of an earlier layer counts where it writes to the neuron's.
    """
    graph = layer_graph(transcoder.config)
    features = np.asarray(encode(transcoder, x), np.float64)
    neurons = np.maximum(np.einsum("lnd,lmd->lnm", x, reads), 0)
    w_dec = np.asarray(transcoder.params["W_dec"], np.float64)
    found = np.zeros(writes.shape[:2])
    for edge, (sender, layer) in enumerate(zip(graph.senders, graph.receivers, strict=True)):
        alike = unit(features[sender] - features[sender].mean(0)).T @ unit(
            neurons[layer] - neurons[layer].mean(0)
        )
        along = unit(w_dec[edge].T).T @ unit(writes[layer].T)
        found[layer] = np.maximum(found[layer], np.minimum(alike, along).max(0))
    return found


def unit(columns):
    """Columns of length one, or zero."""
    return columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-9)
