"""A small model and a corpus for it; shared by the tests of training and by a worker."""

import jax
import numpy as np

from hagd_jax.corpus import CorpusConfig, corpus_of_tokens
from hagd_jax.models import DecoderConfig, init
from hagd_jax.transcoders import TrainConfig

CONFIG = DecoderConfig(vocab_size=32, n_layers=2, d_model=16, n_heads=4, d_mlp=32, max_positions=8)
TRAIN = TrainConfig(
    features="4x", k=4, tokens=50 * 8 * 8, batch_size=8, estimate=2, learning_rate=3e-3
)


def make_model(mesh=None):
    """Random weights, large enough that MLPs write something."""
    model = init(CONFIG, jax.random.key(0), mesh=mesh, name="small")
    return model.replace(params=jax.tree.map(lambda x: 2 * x, model.params))


def make_corpus(model):
    """Random tokens."""
    rows = np.random.default_rng(0).integers(1, 32, (300, 8))
    return corpus_of_tokens("random", rows, model, CorpusConfig(held_out=0.1))
