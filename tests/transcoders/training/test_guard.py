"""One bad batch leaves what a training carries from step to step as it was, bit for bit."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.models import DecoderConfig, init
from hagd_jax.transcoders import LossConfig, TrainConfig, TrainingError, training
from hagd_jax.transcoders.training.normalise import Normalisation
from hagd_jax.transcoders.training.step import THRESHOLD_MEMORY

SIZES = DecoderConfig(vocab_size=16, n_layers=2, d_model=8, n_heads=2, d_mlp=8, max_positions=4)
BAD = 15  # a token of which good batches are free
BASE = TrainConfig(features="2x", k=3, batch_size=2, loss=LossConfig(jacobian=0, dead_after=8))
CASES = {
    "topk": BASE,
    "batch_topk": dataclasses.replace(BASE, activation="batch_topk", accumulate=2),
    "jump_relu": dataclasses.replace(
        BASE,
        activation="jump_relu",
        window=1,
        skip=True,
        loss=LossConfig(sparsity=1e-3, predict=0.01, jacobian=0.1, jacobian_every=2, dead_after=8),
    ),
    "through": dataclasses.replace(BASE, activation="relu", through=1.0),
}
FOUR = [np.random.default_rng(i).integers(1, BAD, (2, 4)).astype(np.int32) for i in range(4)]


@functools.cache
def model():
    made = init(SIZES, jax.random.key(0))
    return made.replace(params=jax.tree.map(lambda x: 2 * x, made.params)).bare()


def broken(place, value):
    """A model and weights that make one batch bad, and what the batch's last token is."""
    params, weight, last = jax.tree.map(lambda x: x, model().params), np.ones((2, 4), "f"), BAD
    if place == "token":
        params["embed"]["embedding"] = params["embed"]["embedding"].at[BAD, 3].set(value)
    elif place == "weight":
        weight[1, 2], last = value, 1
    else:
        out = params["blocks"]["mlp"]["out"]
        out["kernel"], last = out["kernel"].at[1, 0, 0].set(value), 1
    return model().replace(params=params), weight, last


def run(name, batches, bad=None):
    """The state after these batches; `bad` is (its place among them, what is bad, its value)."""
    train = CASES[name]
    config = train.transcoder(SIZES)
    state = training.init_state(config, train, Normalisation.identity(config))
    finite = []
    for i, tokens in enumerate(batches):
        lm, weight = model(), np.ones((2, 4), np.float32)
        if bad is not None and i == bad[0]:
            lm, weight, last = broken(*bad[1:])
            tokens = np.concatenate([tokens[:, :-1], np.full((2, 1), last, np.int32)], 1)
        state, metrics = training.step(
            state, lm, jnp.asarray(tokens), jnp.asarray(weight),
            config=config, train=train, steps=20, through=train.through > 0,
        )  # fmt: skip
        finite.append(bool(metrics.finite))
    return state.replace(key=jax.random.key_data(state.key)), finite


@functools.cache
def clean(name):
    return run(name, FOUR)[0]


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12)
@given(
    at=st.integers(0, 4),
    place=st.sampled_from(["token", "weight", "mlp"]),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_a_bad_batch_anywhere_leaves_no_trace(name, at, place, value):
    batches = [*FOUR[:at], FOUR[0], *FOUR[at:]]
    state, finite = run(name, batches, (at, place, value))
    assert finite == [i != at for i in range(5)]
    chex.assert_trees_all_equal(state, clean(name))
    assert int(state.step) == 4
    assert int(state.unfired.max()) > 0
    assert (float(state.threshold.min()) > 0) == (float(state.threshold.max()) > 0)


def test_a_batch_in_which_nothing_fires_leaves_the_threshold_alone():
    """The smallest activation of none is infinite, and a mean that took it would stay so."""
    train = CASES["batch_topk"]
    config = train.transcoder(SIZES)
    state = training.init_state(config, train, Normalisation.identity(config))
    expected, biases = np.zeros(2), np.array(state.params["b_enc"])
    for i, silent in enumerate([(0, 1), (1,), (), (0,), (), (0, 1)]):
        bias = np.where(np.isin([[0], [1]], silent), np.float32(-1e3), biases)
        state = state.replace(params=state.params | {"b_enc": jnp.asarray(bias)})
        state, metrics = training.step(
            state, model(), jnp.asarray(FOUR[i % 4]), jnp.ones((2, 4)),
            config=config, train=train, steps=20,
        )  # fmt: skip
        smallest = np.asarray(metrics.terms.smallest, np.float64)
        assert bool(metrics.finite)
        assert np.isinf(smallest).tolist() == [layer in silent for layer in (0, 1)]
        for layer in {0, 1} - set(silent):
            memory = THRESHOLD_MEMORY if expected[layer] else 0
            expected[layer] = memory * expected[layer] + (1 - memory) * smallest[layer]
        np.testing.assert_allclose(state.threshold, expected, rtol=1e-5)
    assert expected.min() > 0.01
    finished = training.finish(state, config)
    np.testing.assert_allclose(finished.params["threshold"][:, 0], expected, rtol=1e-5)


def test_a_count_of_tokens_does_not_overflow():
    train = CASES["topk"]
    config = train.transcoder(SIZES)
    state = training.init_state(config, train, Normalisation.identity(config))
    most = np.iinfo(np.int32).max
    state = state.replace(unfired=jnp.full_like(state.unfired, most - 3))
    state, metrics = training.step(
        state, model(), jnp.asarray(FOUR[0]), jnp.ones((2, 4)), config=config, train=train, steps=20
    )
    fired = np.asarray(metrics.terms.fired) > 0
    assert 0 < fired.mean() < 1
    np.testing.assert_array_equal(state.unfired, np.where(fired, 0, most))


def test_scales_of_activations_that_are_not_finite_are_refused():
    lm, weight, _ = broken("mlp", np.nan)
    config = BASE.transcoder(SIZES)
    good = (FOUR[0], np.ones((2, 4), np.float32))
    with pytest.raises(TrainingError, match="layer 1"):
        training.estimate(lm, [good, (FOUR[1], weight)], config)
    with pytest.raises(ValueError, match="no token of positive weight"):
        training.estimate(model(), [(FOUR[0], 0 * weight)], config)
