"""Transcoders that write before the norm after the MLP, against float64 NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.models import forward, mlp
from hagd_jax.transcoders import encode, errors, mask_features, replace_mlps
from hagd_jax.transcoders.training.activations import activations
from tests.models.noise import noisy
from tests.models.test_decoder import GEMMA, OLMO, TOKENS
from tests.transcoders.test_replace import BASE, CASES, DEEP, Plain, made

BEFORE_A_NORM = [(GEMMA, True), (OLMO, False)]


@pytest.mark.parametrize(("model", "offset"), BEFORE_A_NORM, ids=["gemma", "olmo"])
def test_what_is_written_before_a_norm_passes_it(model, offset):
    """Norm of the reconstruction in float64; with its errors, and masked with ones, the model."""
    config = BASE.replace(n_layers=3, window=1, writes="mlp_out_raw")
    model, dictionary = noisy(model), made(config)
    assert model.config.norm_offset == offset
    clean = forward(model, TOKENS, capture=("mlp_in", "mlp_out_raw", "mlp_out"))
    error = errors(dictionary, clean.trace)
    with pytest.raises(InputError, match="mlp_out_raw"):
        errors(dictionary, {site: clean.trace[site] for site in ("mlp_in", "mlp_out")})
    held = forward(model, TOKENS, replace_mlps(dictionary, error=error)).logits
    np.testing.assert_allclose(held, clean.logits, atol=1e-4)
    alone = forward(model, TOKENS, replace_mlps(dictionary), capture=("mlp_in", "mlp_out"))
    x = np.asarray(alone.trace["mlp_in"], np.float64)
    plain, seen = Plain(dictionary), []
    for layer in range(3):
        seen.append(plain.features(layer, x[layer]))
        out = plain.output(layer, seen, x[layer])
        weight = np.asarray(model.params["blocks"]["norm_mlp_out"]["scale"], np.float64)[layer]
        mean = (out**2).mean(-1, keepdims=True) + model.config.norm_eps
        expected = out / np.sqrt(mean) * (weight + offset)
        # Sums of 24 features of size one.
        np.testing.assert_allclose(alone.trace["mlp_out"][layer], expected, atol=5e-5)
    assert np.abs(np.asarray(alone.logits - clean.logits)).max() > 0.1
    found = encode(dictionary, clean.trace["mlp_in"])
    for mask, same in ((1.0, True), (0.0, False)):
        masks = jnp.full((3, 24), mask)
        masked = forward(model, TOKENS, mask_features(dictionary, masks, 0 * found)).logits
        assert bool(np.array_equal(masked, clean.logits)) == same


def test_without_a_norm_behind_the_mlp_both_are_the_same():
    model = noisy(DEEP)
    raw = CASES["window"].replace(writes="mlp_out_raw")
    trace = forward(model, TOKENS, capture=("mlp_in", "mlp_out_raw", "mlp_out")).trace
    np.testing.assert_array_equal(trace["mlp_out_raw"], trace["mlp_out"])
    np.testing.assert_array_equal(errors(made(raw), trace), errors(made(CASES["window"]), trace))
    one, two = (
        forward(model, TOKENS, replace_mlps(made(config))).logits
        for config in (raw, CASES["window"])
    )
    np.testing.assert_array_equal(one, two)


def test_it_is_trained_on_and_measured_against_what_mlps_put_out():
    model, config = noisy(GEMMA), BASE.replace(n_layers=3, writes="mlp_out_raw")
    trace = forward(model, TOKENS, capture=("mlp_in", "mlp_out_raw", "mlp_out")).trace
    assert np.abs(np.asarray(trace["mlp_out_raw"] - trace["mlp_out"])).max() > 0.1
    x, y = activations(model, TOKENS, config)
    np.testing.assert_allclose(x, trace["mlp_in"].reshape(x.shape), atol=1e-6)
    np.testing.assert_allclose(y, trace["mlp_out_raw"].reshape(y.shape), atol=1e-6)
    alone = mlp(model, trace["mlp_in"], writes="mlp_out_raw")
    np.testing.assert_allclose(alone, trace["mlp_out_raw"], atol=1e-6)
