"""Configuration files of Qwen, Gemma, Mistral, OLMo 2 and Phi-3, in both spellings and damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import ConfigError, HagdError
from hagd_jax.models import families
from hagd_jax.models.config import DecoderConfig, RopeScaling
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.families import table
from tests.models.test_families import JSON, LLAMA

KIN = LLAMA | {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}
BASES = {
    name: KIN | {"model_type": families.FAMILIES[name].model_type}
    for name in ("mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo2", "phi3")
}
QWEN2, GEMMA2, GEMMA3, PHI3 = (BASES[name] for name in ("qwen2", "gemma2", "gemma3", "phi3"))
EVERY = pytest.mark.parametrize("base", BASES.values(), ids=BASES)
SLIDING, FULL = "sliding_attention", "full_attention"


def plain(**fields):
    """What all of them compute."""
    return DecoderConfig(
        vocab_size=50, n_layers=4, d_model=16, n_heads=4, n_kv_heads=2, d_mlp=24, max_positions=16,
        norm="rms", positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False,
        attn_out_bias=False, mlp_bias=False,
    ).replace(**fields)  # fmt: skip


GEMMA = {"d_head": 256, "rotary_dim": 256, "activation": "gelu_tanh", "tied": True,
         "norm_offset": True, "scale_embed": True}  # fmt: skip
BOTH = GEMMA | {"norm_placement": "both", "window": 4096}
EXPECTED = {
    "mistral": plain(family="mistral", window=4096),
    "qwen2": plain(family="qwen2", qkv_bias=True),
    "qwen3": plain(family="qwen3", qk_norm="head", d_head=128, rotary_dim=128),
    "gemma": plain(family="gemma", **GEMMA),
    "gemma2": plain(
        family="gemma2", attn_softcap=50.0, logit_softcap=30.0, window_layers=(0, 2), **BOTH
    ),
    "gemma3": plain(
        family="gemma3", qk_norm="head", rope_theta=1e6, rope_local_theta=1e4, **BOTH
    ),
    "olmo2": plain(family="olmo2", norm_placement="after", qk_norm="all"),
    "phi3": plain(family="phi3"),
}  # fmt: skip


@pytest.mark.parametrize("name", BASES)
def test_a_silent_file_means_what_transformers_takes_it_for(name):
    found = families.from_hf(BASES[name])
    assert found == EXPECTED[name].replace(norm_eps=found.norm_eps)
    assert found.norm_eps == 1e-5  # The file says so.


@pytest.mark.parametrize(
    ("base", "change", "fields"),
    [
        (BASES["mistral"], {"sliding_window": None}, {"window": 0}),
        (BASES["mistral"], {"sliding_window": 3}, {"window": 3}),
        (QWEN2, {"sliding_window": 9, "max_window_layers": 1}, {"window": 0}),
        (
            QWEN2,
            {"sliding_window": 9, "max_window_layers": 1, "use_sliding_window": True},
            {"window": 9, "window_layers": (1, 2, 3)},
        ),
        (
            QWEN2,
            {"sliding_window": 9, "use_sliding_window": True,
             "layer_types": [SLIDING, FULL, FULL, SLIDING]},
            {"window": 9, "window_layers": (0, 3)},
        ),
        (GEMMA2, {"query_pre_attn_scalar": 8}, {"query_scalar": 8.0}),
        (
            GEMMA2,
            {"attn_logit_softcapping": None, "final_logit_softcapping": 5},
            {"attn_softcap": 0.0, "logit_softcap": 5.0},
        ),
        (GEMMA2, {"layer_types": [FULL] * 4}, {"window": 0}),
        (GEMMA3, {"sliding_window_pattern": 2}, {"window_layers": (0, 2)}),
        (GEMMA3, {"_sliding_window_pattern": 2}, {"window_layers": ()}),
        (GEMMA3, {"final_logit_softcapping": 3.0}, {"logit_softcap": 3.0}),
        (BASES["gemma"], {"hidden_act": "gelu"}, {"activation": "gelu_tanh"}),
        (BASES["gemma"], {"attention_bias": True}, {"qkv_bias": True, "attn_out_bias": True}),
        (PHI3, {"partial_rotary_factor": 0.5}, {"rotary_dim": 2}),
        (PHI3, {"rope_parameters": {"partial_rotary_factor": 0.5}}, {"rotary_dim": 2}),
        (PHI3, {"attention_bias": False, "sliding_window": 7}, {"window": 7}),
    ],
)  # fmt: skip
def test_options_are_read(base, change, fields):
    found = dataclasses.asdict(families.from_hf(base | change))
    assert {name: found[name] for name in fields} == fields


def test_gemma3_rotates_alike_in_version_4_and_5():
    stretch = {"rope_type": "linear", "factor": 8.0}
    v4 = families.from_hf(
        GEMMA3 | {"rope_theta": 5e5, "rope_local_base_freq": 7.0, "rope_scaling": stretch}
    )
    nested = {
        FULL: stretch | {"rope_theta": 5e5},
        SLIDING: {"rope_type": "default", "rope_theta": 7.0},
    }
    assert v4 == families.from_hf(GEMMA3 | {"rope_parameters": nested})
    assert (v4.rope_theta, v4.rope_local_theta) == (5e5, 7.0)
    assert v4.rope_scaling == RopeScaling("linear", 8.0)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
LONG = {"rope_type": "longrope", "long_factor": [2.0, 3.0], "short_factor": [1.0, 1.5]}


@pytest.mark.parametrize(
    ("change", "attention"),
    [
        ({}, 1.138629436),
        ({"attention_factor": 0.7}, 0.7),
        ({"mscale": 0.5}, 1.138629436),
        ({"mscale": 0.5, "mscale_all_dim": 2.0}, 1.069314718 / 1.277258872),
        ({"beta_fast": 20, "beta_slow": 2.0, "truncate": False}, 1.138629436),
    ],
)
def test_yarn_in_every_spelling(change, attention):
    base = BASES["qwen2"] | {"max_position_embeddings": 32}
    v4 = families.from_hf(base | {"rope_scaling": YARN | change}).rope_scaling
    inner = YARN | change | {"rope_theta": 10000.0}
    assert v4 == families.from_hf(base | {"rope_parameters": inner}).rope_scaling
    assert v4 is not None
    assert v4.attention_factor == pytest.approx(attention, abs=1e-8)  # ln 4 to nine digits
    assert (v4.factor, v4.original_max_positions) == (4.0, 8)
    assert (v4.beta_fast, v4.truncate) == (change.get("beta_fast", 32), "beta_fast" not in change)


def test_longrope_in_every_spelling():
    trained = {"original_max_position_embeddings": 8}
    v4 = families.from_hf(PHI3 | trained | {"rope_scaling": LONG})
    # √(1 + ln 2 / ln 8)
    expected = RopeScaling(
        "longrope", 2.0, original_max_positions=8, factors=(2.0, 3.0), short_factors=(1.0, 1.5),
    )  # fmt: skip
    assert v4.rope_scaling == expected
    assert expected.attention_factor == pytest.approx((4 / 3) ** 0.5, abs=1e-12)
    inner = LONG | trained | {"rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    assert v4 == families.from_hf(PHI3 | trained | {"rope_parameters": inner})
    for older in ("su", "yarn"):
        file = PHI3 | trained | {"rope_scaling": LONG | {"rope_type": older}}
        assert v4 == families.from_hf(file)


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        (BASES["mistral"], {"sliding_window": 0}, "sliding_window: got 0; expected .* 1 or more"),
        (BASES["mistral"], {"sliding_window": -3}, "sliding_window: got -3"),
        (BASES["mistral"], {"sliding_window": 2.5}, "sliding_window: got 2.5; expected int"),
        (BASES["mistral"], {"layer_types": [FULL] * 4}, "layer_types"),
        (BASES["mistral"], {"num_key_value_heads": None}, "num_key_value_heads: got nothing"),
        (QWEN2, {"layer_types": [FULL] * 3}, "layer_types: got 3 of them; expected one a layer, 4"),
        (QWEN2, {"layer_types": [FULL, "chunked_attention", FULL, FULL]}, r"layer_types\[1\]"),
        (QWEN2, {"layer_types": [FULL, 3, FULL, FULL]}, r"layer_types\[1\]: got 3"),
        (QWEN2, {"layer_types": FULL}, "layer_types: got 'full_attention'; expected list"),
        (QWEN2, {"layer_types": [SLIDING] * 4}, "sliding_window that is switched on"),
        (QWEN2, {"num_hidden_layers": 2**60}, "n_layers: got 1152921504606846976"),
        (GEMMA2, {"num_hidden_layers": 10**400}, "n_layers: got an integer of 1329 bits"),
        (QWEN2, {"use_mrope": True}, "use_mrope"),
        (QWEN2, {"num_key_value_heads": 3}, "n_heads: got 4; expected a multiple of n_kv_heads"),
        (QWEN2, {"head_dim": 3}, "rotary_dim: got 3; expected an even number"),
        (GEMMA2, {"attn_logit_softcapping": 0}, "attn_logit_softcapping: got 0.0"),
        (GEMMA2, {"final_logit_softcapping": -30.0}, "final_logit_softcapping: got -30.0"),
        (GEMMA2, {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar: got 0.0"),
        (GEMMA2, {"sliding_window": None}, "sliding_window that is switched on"),
        (GEMMA2, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA2, {"hidden_act": "relu", "hidden_activation": "silu"}, "synonyms"),
        (GEMMA3, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        (GEMMA3, {"sliding_window_pattern": 0}, "sliding_window_pattern: got 0"),
        (GEMMA3, {"rope_local_base_freq": -1.0}, "rope_local_theta: got -1.0"),
        (GEMMA3, {"rope_parameters": {FULL: {}, "linear": {}}}, "rope_parameters: linear"),
        (
            GEMMA3,
            {"rope_parameters": {SLIDING: {"rope_type": "linear", "factor": 2.0}}},
            "sliding_attention: got 'linear'",
        ),
        (PHI3, {"partial_rotary_factor": 0.3}, "partial_rotary_factor: got 0.3"),
        (PHI3, {"lm_head_bias": True}, "lm_head_bias"),
        (PHI3, {"auto_map": {"AutoModel": "x.py"}}, "auto_map"),
        (PHI3, {"rope_scaling": LONG | {"long_factor": [2.0]}}, "factors: got 1 of them"),
        (PHI3, {"rope_scaling": LONG | {"long_factor": [2.0, -1.0]}}, r"factors\[1\]: got -1.0"),
        (PHI3, {"rope_scaling": LONG | {"short_factor": [2.0, "x"]}}, r"short_factor\[1\]"),
        (QWEN2, {"rope_scaling": YARN | {"beta_slow": 64.0}}, "beta_slow: got 64.0"),
        (QWEN2, {"rope_scaling": YARN | {"truncate": 1}}, "truncate: got 1; expected bool"),
        (QWEN2, {"rope_scaling": YARN | {"long_factor": [1.0]}}, "rope_scaling: long_factor"),
        (QWEN2, {"rope_scaling": YARN, "rope_theta": 1.0}, "rope_theta: got 1.0"),
        (QWEN2, {"rope_scaling": LONG | {"original_max_position_embeddings": 8}}, "differently"),
    ],
)
def test_what_cannot_be_is_refused_by_name(base, change, words):
    with pytest.raises(ConfigError, match=words):
        families.from_hf(base | change)


def any_config(name):
    """Configurations that a family can express."""
    small, flag = st.integers(1, 4), st.booleans()
    base = EXPECTED[name]
    windowed = st.integers(1, 9)
    scalings = st.sampled_from(
        [
            None,
            RopeScaling("linear", 2.0),
            RopeScaling("dynamic", 3.0, original_max_positions=16),
            RopeScaling("yarn", 2.0, original_max_positions=8, truncate=False, beta_fast=9.0),
        ]
    )

    def build(sizes, flags, window, scaling, cap, data):
        (layers, kv, groups, dim), (bias, tied, third) = sizes, flags
        fields = {
            "n_layers": layers, "n_kv_heads": kv, "n_heads": kv * groups, "d_head": 2 * dim,
            "rotary_dim": 2 * dim, "tied": tied, "rope_scaling": scaling, "window": 0,
            "window_layers": (), "rope_local_theta": 0.0,
        }  # fmt: skip
        if name in ("qwen3", "gemma", "gemma2", "gemma3", "olmo2"):
            fields |= {"qkv_bias": bias, "attn_out_bias": bias}
        if name in ("mistral", "phi3"):
            fields["window"] = window * third
        if name in ("qwen2", "qwen3", "gemma2", "gemma3"):
            which = tuple(sorted({i % layers for i in data}))
            fields |= {"window": window, "window_layers": which} if which else {}
        if name == "gemma3" and fields["window"]:
            fields["rope_local_theta"] = 500.0
        if name in ("gemma2", "gemma3"):
            fields |= {"logit_softcap": cap, "query_scalar": float(dim)}
        if name == "gemma2":
            fields["attn_softcap"] = cap
        if name == "phi3":
            lists = (1.5,) * dim
            long = RopeScaling("longrope", 2.0, original_max_positions=8, factors=lists,
                               short_factors=lists)  # fmt: skip
            fields["rope_scaling"] = long if third else None
            fields["rotary_dim"] = 2 * dim
        return base.replace(**fields)

    return st.builds(
        build, st.tuples(small, small, small, st.integers(2, 40)), st.tuples(flag, flag, flag),
        windowed, scalings, st.sampled_from([0.0, 2.5]), st.sets(st.integers(0, 3)),
    )  # fmt: skip


@pytest.mark.parametrize("name", BASES)
@settings(max_examples=40)
@given(data=st.data())
def test_configurations_survive_being_written(name, data):
    config = data.draw(any_config(name))
    written = json.loads(json.dumps(families.to_hf(config)))
    assert families.from_hf(written) == config


@pytest.mark.parametrize("name", BASES)
def test_tables_name_every_parameter_once_in_its_shape(name):
    for flag in (True, False):
        config = EXPECTED[name].replace(tied=flag, qkv_bias=name != "phi3", attn_out_bias=False)
        specs, sizes = param_specs(config), table.axis_sizes(config)
        weights = families.family_of(config).table(config)
        assert sorted(weight.leaf for weight in weights) == sorted(specs)
        for weight in weights:
            shape = table.shape(weight.ours or weight.stored, sizes)
            stack = (config.n_layers,) if weight.per_layer else ()
            assert stack + shape == specs[weight.leaf].shape


@EVERY
@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_configuration_is_read_or_refused_never_a_crash(base, data):
    family = next(
        f for f in families.FAMILIES if families.FAMILIES[f].model_type == base["model_type"]
    )
    names = st.sampled_from(sorted(getattr(families, family).UNDERSTOOD | base.keys()))
    kinds = st.lists(st.sampled_from([FULL, SLIDING, None]), min_size=3, max_size=5)
    inner = st.fixed_dictionaries(
        {"rope_type": st.sampled_from(["yarn", "longrope", "llama3"])},
        optional=dict.fromkeys(("factor", "beta_fast", "long_factor"), JSON),
    )
    change = data.draw(st.dictionaries(names, JSON | kinds | inner, max_size=3))
    with contextlib.suppress(HagdError):
        assert isinstance(families.from_hf(base | change), DecoderConfig)
