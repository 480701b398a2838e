"""Held-out text made up from random numbers, and what float64 NumPy makes of it."""

from typing import NamedTuple

import numpy as np

from hagd_jax.models import forward
from tests.models.test_decoder import LLAMA
from tests.transcoders.test_replace import Plain


class Batch(NamedTuple):
    tokens: np.ndarray
    weight: np.ndarray


def text(rows=6, length=7, seed=0):
    """Rows that begin with a token that weighs nothing and end in padding, some of them."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, LLAMA.vocab_size, (rows, length)).astype(np.int32)
    weight = np.ones((rows, length), np.float32)
    weight[:, 0] = 0
    weight[1, 4:] = 0
    weight[rows - 1, 2] = 0
    return Batch(tokens, weight)


def split(batch, sizes):
    """The same rows in batches of these sizes."""
    ends = np.cumsum(sizes)
    assert ends[-1] == len(batch.tokens)
    return [
        Batch(batch.tokens[end - size : end], batch.weight[end - size : end])
        for end, size in zip(ends, sizes, strict=True)
    ]


def plain_features(transcoder, model, batch):
    """(L, B, T, F) features, (L, B, T, D) reconstructions and MLP outputs, in float64."""
    out = forward(model, batch.tokens, capture=(transcoder.config.reads, "mlp_out")).trace
    x, y = (np.asarray(out[s], np.float64) for s in (transcoder.config.reads, "mlp_out"))
    plain = Plain(transcoder)
    found = [plain.features(layer, values) for layer, values in enumerate(x)]
    outputs = [plain.output(layer, found, values) for layer, values in enumerate(x)]
    return np.stack(found), np.stack(outputs), y
