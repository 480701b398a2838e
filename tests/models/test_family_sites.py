"""Sites of models with norms after sublayers, norms of heads, windows and soft caps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.interventions import chain, freeze, replace
from hagd_jax.models import SITES, Identity, abstract, forward
from hagd_jax.models.model import _forward
from hagd_jax.models.sites import ON_REQUEST_SITES
from hagd_jax.models.tap import Options
from hagd_jax.units import Nodes, Space, mask_nodes
from tests.models.noise import noisy
from tests.models.test_decoder import GEMMA, OLMO, TOKENS

BOTH = pytest.mark.parametrize("config", [GEMMA, OLMO], ids=["gemma", "olmo"])


@BOTH
def test_norms_divide_by_their_sites(config):
    """Every norm of the block against NumPy in float64, from what its neighbours hold."""
    model = noisy(config)
    trace = forward(model, TOKENS, capture=SITES).trace
    t = {site: np.asarray(value, np.float64) for site, value in trace.items()}
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), model.params["blocks"])
    one = 1 if config.norm_offset else 0
    before = config.norm_placement == "both"
    x = t["resid_pre"]
    normed = (one + p["norm1"]["scale"])[:, None, None] * x / t["norm1_scale"] if before else x
    np.testing.assert_allclose(
        t["norm1_scale"],
        np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) if before else 1.0,
        rtol=1e-5,
    )
    for name in "qk":
        raw = np.einsum("lbtd,ldhk->lbthk", normed, p["attn"][name]["kernel"])
        if config.qkv_bias:
            raw = raw + p["attn"][name]["bias"][:, None, None]
        over = (-2, -1) if config.qk_norm == "all" else -1
        scale = np.sqrt((raw**2).mean(over, keepdims=True) + config.norm_eps)
        np.testing.assert_allclose(
            t[f"{name}_scale"], np.broadcast_to(scale, t[f"{name}_scale"].shape), rtol=1e-4
        )
        weight = one + p["attn"][f"{name}_norm"]["scale"]
        weight = weight[:, None, None, None] if config.qk_norm == "head" else weight[:, None, None]
        np.testing.assert_allclose(t[name], weight * raw / scale, atol=2e-4)
    # What is added to the stream is what these two sites hold, and W_O's bias is nobody's.
    bias = p["attn"]["o"]["bias"][:, None, None] if config.attn_out_bias else 0
    bias = (one + p["norm_attn_out"]["scale"])[:, None, None] * bias / t["attn_out_scale"]
    np.testing.assert_allclose(t["head_added"].sum(3) + bias, t["attn_out"], atol=1e-5)
    middle = x + t["attn_out"]
    np.testing.assert_allclose(t["resid_mid"], middle, atol=2e-5)
    np.testing.assert_allclose(t["resid_post"], middle + t["mlp_out"], atol=2e-5)


def test_windows_hide_what_lies_before_them():
    pattern = np.asarray(
        forward(noisy(GEMMA), TOKENS, capture=["attn_pattern"]).trace["attn_pattern"]
    )
    seen = (pattern > 0).sum(-1)
    rows = np.arange(1, TOKENS.shape[1] + 1)
    for layer, window in enumerate(GEMMA.windows):
        assert window == (2, 0, 2)[layer]
        expected = np.minimum(rows, window) if window else rows
        assert np.all(seen[layer] == expected)


def test_a_window_as_long_as_the_prompt_is_no_window():
    """The program is that of a model without windows, to the letter, and so at no cost."""
    config = GEMMA.replace(rope_local_theta=0.0)
    plain = config.replace(window=0, window_layers=())
    params, tokens = abstract(config).params, jax.ShapeDtypeStruct(TOKENS.shape, jnp.int32)

    def program(own):
        return _forward.lower(params, tokens, Identity(), None, own, Options()).as_text()

    assert program(config.replace(window=TOKENS.shape[1])) == program(plain)
    assert program(config) != program(plain)


@BOTH
def test_a_models_own_values_change_nothing(config):
    """Bit for bit: every site frozen at its own value, and a mask of ones."""
    model = noisy(config)
    plain = forward(model, TOKENS).logits
    ordinary = sorted(set(SITES) - ON_REQUEST_SITES)
    trace = forward(model, TOKENS, capture=ordinary).trace
    np.testing.assert_array_equal(forward(model, TOKENS, freeze(trace)).logits, plain)
    other = forward(model, TOKENS[:, ::-1], capture=("head_out", "neuron")).trace
    space = Space(config.n_layers, config.n_heads, config.d_mlp)
    ones = mask_nodes(Nodes.full(space, 1.0), other)
    np.testing.assert_array_equal(forward(model, TOKENS, ones).logits, plain)


@BOTH
def test_a_head_is_ablated_alike_before_and_after_its_output_matrix(config):
    """Both come before the norm after attention, whose denominator then is another; held, what
    the head adds may as well be taken away behind it."""
    model = noisy(config)
    plain = forward(model, TOKENS).logits
    head = jnp.zeros((config.n_heads, 1)).at[1].set(1)
    sites = ("head_out", "head_write", "head_added", "attn_out_scale")
    trace = forward(model, TOKENS, capture=sites).trace
    out, write = (
        forward(model, TOKENS, replace(site, jnp.asarray(trace[site][1] * (1 - head)), layer=1))
        for site in ("head_out", "head_write")
    )
    assert np.abs(out.logits - plain).max() > 0.01
    np.testing.assert_allclose(out.logits, write.logits, atol=1e-5)
    held, added = freeze(trace, "attn_out_scale"), jnp.asarray(trace["head_added"][1] * (1 - head))
    before, behind = (
        forward(model, TOKENS, chain(held, replace(site, value, layer=1))).logits
        for site, value in (("head_out", trace["head_out"][1] * (1 - head)), ("head_added", added))
    )
    assert np.abs(before - out.logits).max() > 1e-3
    np.testing.assert_allclose(before, behind, atol=1e-5)


@BOTH
def test_with_norms_and_patterns_held_the_stream_is_linear_in_the_embedding(config):
    """f(x + y) − f(y) = f(x) − f(0), MLP outputs held too: what attribution relies on."""
    model = noisy(config)
    sites = [site for site in SITES if site.endswith("_scale")]
    held = freeze(forward(model, TOKENS, capture=[*sites, "attn_pattern", "mlp_out"]).trace)
    shape = (*TOKENS.shape, config.d_model)
    x, y = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)

    def final(value):
        do = chain(held, replace("embed", jnp.asarray(value)))
        return np.asarray(
            forward(model, TOKENS, do, capture=["normed_final"]).trace["normed_final"]
        )

    moved = final(x + y) - final(y)
    assert np.abs(moved).max() > 0.1
    np.testing.assert_allclose(moved, final(x) - final(0 * x), atol=2e-5)


@BOTH
def test_half_precision_stays_near(config):
    tokens = TOKENS[:1]
    model = noisy(config)
    expected = np.asarray(forward(model, tokens).logits)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.params)
    found = forward(model.replace(params=half, config=config.replace(dtype="bfloat16")), tokens)
    # Eight bits of mantissa through three layers; logits have a spread of one.
    assert (
        np.abs(np.asarray(found.logits, np.float32) - expected).mean() < 0.1 * expected.std() + 0.05
    )
