"""Skip share: 0 for the mechanism itself, 1 for transcoders that bypass B, loops in between."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.models import forward
from hagd_jax.testbeds.skipping import skip_share
from hagd_jax.testbeds.two_hop import TwoHopConfig, two_hop
from hagd_jax.transcoders import Transcoder, TranscoderConfig, decode, encode, param_specs
from hagd_jax.transcoders.graph import layer_graph
from tests.models.noise import noisy
from tests.models.test_decoder import BARE
from tests.transcoders.hand_built import bypass, neuron_basis

SMALL = TwoHopConfig(chains=3, n_layers=3, d_model=16)


def fvu(transcoder, chains):
    tokens = np.arange(chains.model.config.vocab_size)[:, None]
    trace = forward(chains.model, tokens, capture=["mlp_in", "mlp_out"]).trace
    x, y = trace["mlp_in"], trace["mlp_out"]
    error = y - decode(transcoder, encode(transcoder, x), x)
    return float(jnp.sum(error**2) / jnp.sum((y - y.mean((1, 2), keepdims=True)) ** 2))


@pytest.mark.parametrize("seed", [0, 1])
def test_neuron_basis_skips_nothing(seed):
    chains = two_hop(seed, SMALL)
    faithful = neuron_basis(chains.model)
    found = skip_share(faithful, chains)
    assert fvu(faithful, chains) < 1e-10
    assert np.all(np.asarray(found.share) < 1e-5)  # rotations are orthogonal to 1e-7
    np.testing.assert_allclose(found.response, 1, atol=1e-5)


@pytest.mark.parametrize("across", [True, False], ids=["across", "own layer"])
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_transcoders_that_never_read_the_middle_feature(seed, across):
    chains = two_hop(seed, SMALL)
    unfaithful = bypass(chains, across=across)
    found = skip_share(unfaithful, chains)
    assert fvu(unfaithful, chains) < 1e-10
    np.testing.assert_allclose(found.share, 1, atol=1e-5)
    np.testing.assert_allclose(found.across, float(across), atol=1e-5)
    np.testing.assert_allclose(found.response, 0, atol=1e-5)


def mixture(seed, skip=False):
    """A full cross-layer transcoder of noise, and chains to measure it on."""
    config = TranscoderConfig(
        n_layers=3, d_model=16, n_features=12, k=3, window=None, reads="resid_mid", skip=skip
    )
    rng = np.random.default_rng(seed)
    params = {n: rng.normal(0, 0.5, s.shape) for n, s in param_specs(config).items()}
    made = Transcoder({k: jnp.asarray(v, jnp.float32) for k, v in params.items()}, config)
    return made, two_hop(seed, SMALL)


@pytest.mark.parametrize("skip", [False, True])
def test_share_equals_loops_over_tokens_features_and_layers(skip):
    transcoder, chains = mixture(5, skip)
    tokens = np.arange(1, SMALL.vocab_size, 7)
    found = skip_share(transcoder, chains, tokens)
    p = {k: np.asarray(v, np.float64) for k, v in transcoder.params.items()}
    x = forward(chains.model, tokens[:, None], capture=["resid_mid"]).trace["resid_mid"]
    active = np.asarray(encode(transcoder, x[:, :, 0])) > 0
    graph = layer_graph(transcoder.config)
    edges = list(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True))
    values, present = (np.asarray(v)[tokens] for v in (chains.values, chains.present))
    d = np.asarray(chains.directions, np.float64)
    assert present.any(0).all()
    for j in range(SMALL.chains):
        first, second = int(chains.earlier[j]), int(chains.later[j])
        here = np.flatnonzero(present[:, j])
        apart = values[here, j] - values[here, j].mean(0)
        total = np.zeros(3)  # across, own, through
        for row, n in enumerate(here):
            paths = np.zeros(3)
            for v, layer in itertools.product((0, 1, 3), range(second + 1)):
                w_dec = p["W_dec"][edges.index((layer, second))]
                found_by = sum(
                    (w_dec[f] @ d[j, 4]) * (p["W_enc"][layer, f] @ d[j, v])
                    for f in np.flatnonzero(active[layer, n])
                )
                if skip and layer == second:
                    found_by += d[j, 4] @ p["W_skip"][second] @ d[j, v]
                if v == 3 and layer <= first:
                    continue
                paths[2 if v == 3 else int(layer == second)] += found_by * apart[row, v]
            total += abs(paths)
        across, own, through = total / total.sum()
        assert min(across, own, through) > 0.02
        np.testing.assert_allclose(found.share[j], across + own, rtol=1e-4)
        np.testing.assert_allclose(found.across[j], across, rtol=1e-4)


def test_response_equals_flipping_by_hand():
    transcoder, chains = mixture(6)
    found = skip_share(transcoder, chains)
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), chains.model.params["blocks"]["mlp"])
    tokens = np.arange(SMALL.vocab_size)
    trace = forward(chains.model, tokens[:, None], capture=["resid_mid"]).trace
    x = np.asarray(trace["resid_mid"][:, :, 0], np.float64)
    for j in range(SMALL.chains):
        first, second = int(chains.earlier[j]), int(chains.later[j])
        middle, last = np.asarray(chains.directions[j, 3:], np.float64)
        here = np.asarray(chains.present[:, j]) > 0
        flipped = x.copy()
        flipped[first + 1 :, here] += (1 - 2 * (x[second, here] @ middle))[:, None] * middle
        moved = [
            (np.maximum(a[second] @ p["in"]["kernel"][second] + p["in"]["bias"][second], 0))
            @ p["out"]["kernel"][second] @ last
            for a in (flipped, x)
        ]  # fmt: skip
        truth = moved[0] - moved[1]
        written = [
            np.asarray(decode(transcoder, encode(transcoder, jnp.float32(a))))[second] @ last
            for a in (flipped, x)
        ]
        expected = np.sum((written[0] - written[1]) * truth) / np.sum(truth**2)
        assert abs(expected) > 1e-3
        np.testing.assert_allclose(found.response[j], expected, rtol=1e-3, atol=1e-4)


def test_stacked_models_are_measured_at_once():
    pairs = [(neuron_basis(c.model), c) for c in (two_hop(seed, SMALL) for seed in (2, 3))]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *pairs)
    found = jax.vmap(skip_share)(*stacked)
    assert found.share.shape == (2, SMALL.chains)
    np.testing.assert_allclose(found.response, 1, atol=1e-5)


def test_what_does_not_fit_is_refused():
    chains = two_hop(0, SMALL)
    with pytest.raises(InputError, match="2 layers of d_model 8"):
        skip_share(neuron_basis(noisy(BARE)), chains)
    with pytest.raises(InputError, match=r"tokens: got shape \(0,\)"):
        skip_share(neuron_basis(chains.model), chains, np.zeros(0, int))
