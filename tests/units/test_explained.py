"""A dictionary that explains nothing is warned of; one that explains something is not."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.graphs import attribute
from hagd_jax.models import forward
from hagd_jax.transcoders import TranscoderConfig, errors
from hagd_jax.units import as_dictionary, doubt, unexplained, warn_of_nothing
from tests.models.noise import noisy
from tests.models.test_decoder import LLAMA
from tests.transcoders.test_replace import made

PROMPT = [3, 7, 1, 12, 5, 9]
BASE = TranscoderConfig(n_layers=LLAMA.n_layers, d_model=LLAMA.d_model, n_features=24, k=3)


def test_fvu_is_that_of_float64():
    rng = np.random.default_rng(0)
    out, error = rng.normal(size=(2, 3, 9, 5))
    counts = np.arange(9) > 1
    y, e = out[:, counts], error[:, counts]
    want = (e**2).sum((1, 2)) / ((y - y.mean(1, keepdims=True)) ** 2).sum((1, 2))
    np.testing.assert_allclose(unexplained(out, error, counts), want, rtol=1e-5)
    assert want.max() > 0.5
    assert np.isnan(unexplained(out, error, np.arange(9) < 3)).all()


class Letters:
    """A tokenizer of letters."""

    def encode(self, text, begin=True, end=False):
        return [ord(letter) % 20 for letter in text[:12]]


def explaining(model):
    """Reconstructs by a skip connection what the MLPs of a linear model write."""
    transcoder = made(BASE.replace(skip=True, reads="mlp_in"))
    trace = forward(model, [PROMPT], capture=("mlp_in", "mlp_out")).trace
    skip = [
        np.linalg.lstsq(np.asarray(x[0]), np.asarray(y[0]), rcond=None)[0].T
        for x, y in zip(trace["mlp_in"], trace["mlp_out"], strict=True)
    ]
    none = {leaf: jnp.zeros_like(transcoder.params[leaf]) for leaf in ("W_dec", "b_dec")}
    return transcoder.replace(params=transcoder.params | none | {"W_skip": jnp.asarray(skip)})


@pytest.mark.parametrize("good", [False, True])
def test_a_graph_says_what_is_not_explained(caplog, good):
    model = noisy(LLAMA)
    transcoder = explaining(model) if good else made(BASE).replace(name="odd")
    error = errors(transcoder, forward(model, [PROMPT], capture=("mlp_in", "mlp_out")).trace)
    assert np.isfinite(error).all()
    said = []
    with caplog.at_level(logging.WARNING, "hagd_jax"):
        attribute(model, transcoder, PROMPT, targets=5, tell=said.append)
    assert ("features of odd explain nothing" in caplog.text) == (not good)
    assert "unexplained by the features here: " in said[-1]
    share = float(said[-1].split(":")[1].split()[0])
    assert share < 0.01 if good else share > 0.95


def test_two_sentences_tell_as_well(caplog):
    model = noisy(LLAMA).replace(tokenizer=Letters())
    nodes = as_dictionary(model, made(BASE).replace(name="odd"))
    with caplog.at_level(logging.WARNING, "hagd_jax"):
        fvu = warn_of_nothing(model, nodes)
    assert doubt(fvu, "odd") in caplog.text
    assert warn_of_nothing(noisy(LLAMA), nodes) is None
