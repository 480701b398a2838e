"""Every layer's MLP by itself: against the forward pass, and against its own algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import forward, mlp
from hagd_jax.parallel import make_mesh
from tests.models.noise import noisy, on_mesh
from tests.models.test_decoder import BARE, GEMMA, LLAMA, NEOX, OLMO, TOKENS


@pytest.mark.parametrize("site", ["mlp_in", "resid_mid"])
@pytest.mark.parametrize(
    "config",
    [LLAMA, NEOX, BARE, LLAMA.replace(dtype="bfloat16"), GEMMA, OLMO],
    ids=["llama", "neox", "bare", "bfloat16", "gemma", "olmo"],
)
def test_a_traces_inputs_give_its_outputs(config, site):
    model = noisy(config)
    trace = forward(model, TOKENS, capture=["mlp_in", "resid_mid", "mlp_out"]).trace
    found = mlp(model, trace[site], site=site)
    assert found.dtype == trace["mlp_out"].dtype
    expected = np.asarray(trace["mlp_out"], np.float32)
    assert np.all(np.abs(expected).max((1, 2, 3)) > 0.1)
    # The same operations on other shapes: the order of sums may differ.
    tolerance = 2e-6 if config.dtype == "float32" else 0.02
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=tolerance)


def test_jacobian_of_a_gated_mlp_equals_its_derivation():
    """d/dx W_o (silu(W_g x) ∘ W_i x) = W_o (diag(silu' ∘ W_i x) W_g + diag(silu) W_i)."""
    model = noisy(LLAMA)
    x, v = jax.random.normal(jax.random.key(5), (2, 3, 7, 16))
    _, found = jax.jvp(lambda x: mlp(model, x), (x,), (v,))
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), model.params["blocks"]["mlp"])
    x, v = np.asarray(x, np.float64), np.asarray(v, np.float64)
    gate, into, moved, driven = (
        np.einsum("lnd,ldm->lnm", a, p[name]["kernel"])
        for a, name in ((x, "gate"), (x, "in"), (v, "gate"), (v, "in"))
    )
    sigma = 1 / (1 + np.exp(-gate))
    slope = sigma * (1 + gate * (1 - sigma))
    hidden = slope * moved * into + gate * sigma * driven
    expected = np.einsum("lnm,lmd->lnd", hidden, p["out"]["kernel"])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-5)  # float32 sums over 32 neurons


def test_any_axes_between_and_no_other_layer_or_token_matters():
    config = LLAMA
    model = noisy(config)
    x = jax.random.normal(jax.random.key(1), (config.n_layers, 2, 3, 4, config.d_model))
    found = mlp(model, x, site="resid_mid")
    flat = mlp(model, x.reshape(config.n_layers, 24, -1), site="resid_mid")
    np.testing.assert_array_equal(found.reshape(flat.shape), flat)
    moved = mlp(model, x.at[1, 0, 0, 0].add(1.0), site="resid_mid")
    changed = np.any(moved != found, axis=-1)
    assert changed[1, 0, 0, 0]
    assert changed.sum() == 1


def test_gradients_reach_the_weights():
    model = noisy(NEOX)
    x = jnp.ones((2, 3, 16))
    grads = jax.grad(lambda p: mlp(model.replace(params=p), x, site="resid_mid").sum())(
        model.params
    )
    blocks = grads["blocks"]
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(blocks["mlp"]))
    assert np.abs(blocks["norm2"]["bias"]).max() > 0
    assert all(np.abs(g).max() == 0 for g in jax.tree.leaves(blocks["attn"]))


def test_a_mesh_changes_nothing():
    one = noisy(LLAMA)
    x = jax.random.normal(jax.random.key(2), (3, 8, 16))
    found = mlp(on_mesh(one, make_mesh("data=4,model=2")), x, site="resid_mid")
    np.testing.assert_allclose(found, mlp(one, x, site="resid_mid"), atol=1e-5)
    assert len(found.sharding.device_set) == 8


def test_bad_inputs_are_refused_before_tracing():
    model = noisy(BARE)
    with pytest.raises(InputError, match=r"got shape \(3, 4, 8\); expected \(2 layers"):
        mlp(model, jnp.ones((3, 4, 8)))
    with pytest.raises(InputError, match="d_model 8"):
        mlp(model, jnp.ones((2, 4, 9)))
    with pytest.raises(InputError, match="got dtype int32"):
        mlp(model, jnp.ones((2, 4, 8), int))
    with pytest.raises(ConfigError, match="'mlp_out'; expected one of"):
        mlp(model, jnp.ones((2, 4, 8)), site="mlp_out")
