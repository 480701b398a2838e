"""Options beyond Llama's: who refuses them, by name, and what norms after sublayers multiply by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax import testbeds, transcoders
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import forward, norm_weight, require_supported, write_gain
from hagd_jax.models.support import OPTIONS
from tests.models.noise import noisy
from tests.models.test_decoder import LLAMA

ON = {
    "norm_offset": True,
    "norm_placement": "both",
    "qk_norm": "head",
    "window": 2,
    "rope_local_theta": 50.0,
    "query_scalar": 3.0,
    "attn_softcap": 1.5,
    "scale_embed": True,
    "logit_softcap": 2.0,
    "experts": 4,
}
TOKENS = np.array([[1, 2, 3, 4]])


def switched_on(name):
    change = {name: ON[name]}
    if name == "rope_local_theta":
        change["window"] = 2
    if name == "experts":
        change["experts_per_token"] = 2
    return LLAMA.replace(**change)


@pytest.mark.parametrize("option", OPTIONS)
def test_cases_are_hidden_in_plain_models_only(option):
    # A base for layers with a window needs one, which stands before it.
    named = "window" if option == "rope_local_theta" else option
    with pytest.raises(ConfigError, match=rf"{named} of the model: got .* for hidden_in"):
        testbeds.hidden_in(testbeds.hand_built()[0], switched_on(option), seed=0)


def test_every_option_can_be_switched_on():
    assert ON.keys() == OPTIONS.keys()
    require_supported(LLAMA, "nobody", ())
    for name in OPTIONS:
        require_supported(switched_on(name), "all", OPTIONS)
        with pytest.raises(ConfigError, match="for nobody"):
            require_supported(switched_on(name), "nobody", ())


BOTH = LLAMA.replace(norm_placement="both", norm_offset=True, attn_out_bias=True, mlp_bias=True)


@pytest.mark.parametrize("config", [BOTH, BOTH.replace(norm_placement="after"), LLAMA])
def test_what_sublayers_put_out_is_linear_in_the_stream_with_norms_held(config):
    """attn_out = gain · (Σ_h head_write + b_O), and the same for neurons; against float64."""
    model = noisy(config)
    sites = ("head_write", "attn_out", "attn_out_scale", "neuron", "mlp_out", "mlp_out_scale")
    trace = forward(model, TOKENS, capture=sites).trace
    t = {site: np.asarray(value, np.float64) for site, value in trace.items()}
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), model.params["blocks"])
    raw = t["head_write"].sum(3)
    out = np.einsum("lbtm,lmd->lbtd", t["neuron"], p["mlp"]["out"]["kernel"])
    if config.attn_out_bias:
        raw = raw + p["attn"]["o"]["bias"][:, None, None]
        out = out + p["mlp"]["out"]["bias"][:, None, None]
    for site, value in (("attn_out", raw), ("mlp_out", out)):
        gain = np.asarray(write_gain(model, trace, site), np.float64)
        assert np.abs(t[site]).max() > 0.1
        # Products of float32 values of size one, some thirty to a sum.
        np.testing.assert_allclose(gain * value, t[site], atol=1e-5)
        scale = np.sqrt((value**2).mean(-1, keepdims=True) + config.norm_eps)
        own = scale if config.norm_placement != "before" else 1.0
        np.testing.assert_allclose(t[f"{site}_scale"], own * np.ones_like(scale), atol=1e-5)


def test_gains_of_other_sites_are_refused():
    model = noisy(LLAMA)
    with pytest.raises(InputError, match="site: got 'neuron'"):
        write_gain(model, {}, "neuron")
    with pytest.raises(InputError, match="no attn_out_scale"):
        write_gain(model, {}, "attn_out")


def test_a_norms_weight_is_what_it_multiplies_by():
    stored = jnp.asarray([0.25, -1.5], jnp.bfloat16)
    assert norm_weight(stored, LLAMA).tolist() == [0.25, -1.5]
    assert norm_weight(stored, BOTH).tolist() == [1.25, -0.5]


def test_a_dictionary_that_writes_before_a_norm_loads_where_there_is_one(tmp_path):
    from tests.transcoders.formats import folders

    folders.per_layer(tmp_path / "tc", feature_input_hook="ln2.hook_normalized")
    width, layers = folders.D, folders.L
    config = LLAMA.replace(n_layers=layers, d_model=width, n_heads=1, n_kv_heads=1, d_head=4,
                           rotary_dim=4, norm_placement="both")  # fmt: skip
    loaded = transcoders.load(tmp_path / "tc", model=noisy(config))
    assert loaded.config.target(config) == "mlp_out_raw"
    assert loaded.config.target(config.replace(norm_placement="before")) == "mlp_out"
