"""Jacobian match: identities, and the same ratio from explicit matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import forward, mlp
from hagd_jax.transcoders import Transcoder, TranscoderConfig, init, param_specs
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.kernels import dense as feat
from hagd_jax.transcoders.measures.faithfulness import jacobian_match, own_tangent
from tests.models.noise import noisy
from tests.models.test_decoder import BARE, LLAMA, TOKENS
from tests.transcoders.hand_built import made, neuron_basis, zeros

KEY = jax.random.key(7)
SMALL = TranscoderConfig(n_layers=2, d_model=8, n_features=20, k=5)


def inputs(model, site="mlp_in"):
    return forward(model, TOKENS, capture=[site]).trace[site]


def noise(config, seed=3):
    rng = np.random.default_rng(seed)
    params = {n: rng.normal(0, 0.4, s.shape) for n, s in param_specs(config).items()}
    return Transcoder({k: jnp.asarray(v, jnp.float32) for k, v in params.items()}, config)


def test_neuron_basis_matches_exactly():
    model = noisy(BARE)
    found = jacobian_match(neuron_basis(model), model, inputs(model), KEY)
    # Squared float32 rounding.
    assert np.all(np.asarray(found.random) < 1e-11)
    assert np.all(np.asarray(found.active) < 1e-11)


def test_a_transcoder_that_writes_nothing_misses_everything():
    model = noisy(BARE)
    found = jacobian_match(init(SMALL, KEY), model, inputs(model), KEY)
    np.testing.assert_allclose(found.random, 1, atol=1e-6)
    np.testing.assert_allclose(found.active, 1, atol=1e-6)


def test_the_skip_alone_matches_a_linear_mlp():
    model = noisy(BARE.replace(activation="linear"))
    config = SMALL.replace(skip=True)
    p = model.params["blocks"]["mlp"]
    params = zeros(config)
    params["W_skip"] = np.einsum("ldm,lme->led", p["in"]["kernel"], p["out"]["kernel"])
    found = jacobian_match(made(params, config), model, inputs(model), KEY)
    assert np.all(np.asarray(found.random) < 1e-11)
    assert np.all(np.asarray(found.active) < 1e-11)
    transposed = made(params | {"W_skip": np.swapaxes(params["W_skip"], 1, 2)}, config)
    assert np.all(np.asarray(jacobian_match(transposed, model, inputs(model), KEY).random) > 0.1)


def test_features_of_other_layers_do_not_count():
    """Cross-layer writes, however large, are constants to the layer they arrive at."""
    model = noisy(BARE)
    own = noise(SMALL)
    config = SMALL.replace(window=1)
    across = noise(config, seed=4)
    graph = layer_graph(config)
    w_dec = across.params["W_dec"].at[np.flatnonzero(graph.senders == graph.receivers)]
    both = across.replace(params=own.params | {"W_dec": w_dec.set(own.params["W_dec"])})
    expected = jacobian_match(own, model, inputs(model), KEY)
    found = jacobian_match(both, model, inputs(model), KEY)
    assert np.all(np.asarray(expected.random) > 0.1)
    np.testing.assert_allclose(found.random, expected.random, rtol=1e-5)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ["topk", "relu", "jump_relu", "batch_topk"])
def test_tangent_equals_finite_differences(activation, skip):
    """The reconstruction itself, moved by little enough that no feature switches."""
    k = 5 if "topk" in activation else 0
    config = SMALL.replace(activation=activation, k=k, skip=skip)
    params = noise(config).params
    x, v = jax.random.normal(KEY, (2, 2, 30, 8))
    found = own_tangent(params, x, v, config)

    def outputs(x):
        active = feat.encode(params, x, config)
        decoded = feat.decode(params, active, x, config)
        return np.asarray(active) != 0, np.asarray(decoded, np.float64)

    step = 1e-2
    (on, up), (here, _), (off, down) = (outputs(x + s * step * v) for s in (1, 0, -1))
    same = np.all((on == here) & (here == off), -1)
    assert same.mean() > 0.3
    change = (up - down) / (2 * step)
    assert np.abs(change[same]).max() > 1
    # Float32 outputs of about 5, over a step of 0.02.
    np.testing.assert_allclose(np.asarray(found)[same], change[same], atol=2e-4)


def test_random_directions_estimate_the_frobenius_norms():
    """E‖A v‖² = ‖A‖² for Gaussian v: the ratio from whole Jacobians, through the norm."""
    model = noisy(LLAMA)
    config = TranscoderConfig(
        n_layers=3, d_model=16, n_features=40, k=6, reads="resid_mid", skip=True
    )
    transcoder = noise(config)
    x = inputs(model, "resid_mid").reshape(3, -1, 16)
    basis = jnp.broadcast_to(jnp.eye(16)[:, None, None], (16, 3, 1, 16))
    per_direction = jnp.broadcast_to(basis, (16, *x.shape))
    truth, tangent = (
        np.asarray(jax.lax.map(f, per_direction), np.float64)
        for f in (
            lambda v: jax.jvp(lambda x: mlp(model, x, site="resid_mid"), (x,), (v,))[1],
            lambda v: own_tangent(transcoder.params, x, v, config),
        )
    )
    expected = ((tangent - truth) ** 2).sum((0, 2, 3)) / (truth**2).sum((0, 2, 3))
    found = jacobian_match(transcoder, model, x, KEY, directions=200)
    assert np.all(expected > 0.1)
    # 20 tokens × 200 directions of 16 entries.
    np.testing.assert_allclose(found.random, expected, rtol=0.05)


def test_active_directions_are_differences_of_tokens():
    """With two tokens there is one direction, up to its sign."""
    model = noisy(BARE)
    x = inputs(model).reshape(2, -1, 8)[:, :2]
    transcoder = noise(SMALL)
    v = x[:, ::-1] - x
    _, truth = jax.jvp(lambda x: mlp(model, x), (x,), (v,))
    missed = own_tangent(transcoder.params, x, v, SMALL) - truth
    expected = np.sum(missed**2, (1, 2)) / np.sum(truth**2, (1, 2))
    found = jacobian_match(transcoder, model, x, KEY, directions=1)
    assert np.all(expected > 0.1)
    np.testing.assert_allclose(found.active, expected, rtol=1e-5)


def test_mean_and_spread_do_not_depend_on_how_tokens_are_shaped():
    model, transcoder = noisy(BARE), noise(SMALL)
    x = inputs(model)
    found = jacobian_match(transcoder, model, x, KEY)
    flat = jacobian_match(transcoder, model, x.reshape(2, -1, 8), KEY)
    np.testing.assert_array_equal(found.random, flat.random)
    np.testing.assert_array_equal(found.active, flat.active)


def test_what_does_not_fit_is_refused():
    model, transcoder = noisy(BARE), noise(SMALL)
    with pytest.raises(InputError, match="3 layers of d_model 16"):
        jacobian_match(transcoder, noisy(LLAMA), inputs(model), KEY)
    with pytest.raises(InputError, match="activations at 'mlp_in'"):
        jacobian_match(transcoder, model, inputs(model)[:1], KEY)
    with pytest.raises(InputError, match="x: got 1 tokens; expected 2 or more"):
        jacobian_match(transcoder, model, inputs(model)[:, :1, :1], KEY)
    with pytest.raises(ConfigError, match="directions: got 0"):
        jacobian_match(transcoder, model, inputs(model), KEY, directions=0)
