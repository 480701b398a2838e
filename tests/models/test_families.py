"""Configuration files in every spelling, and weight tables that miss nothing."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import ConfigError, HagdError
from hagd_jax.models import families
from hagd_jax.models.config import DecoderConfig, RopeScaling
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.families import options, table

GPT2 = {
    "model_type": "gpt2", "vocab_size": 50, "n_positions": 16, "n_embd": 8, "n_layer": 2,
    "n_head": 2,
}  # fmt: skip
NEOX = {
    "model_type": "gpt_neox", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16,
}  # fmt: skip
LLAMA = {**NEOX, "model_type": "llama", "num_key_value_heads": 1, "rms_norm_eps": 1e-5}
BASES = {"gpt2": GPT2, "gpt_neox": NEOX, "llama": LLAMA}

# What transformers adds to every file and what decides nothing.
BOOKKEEPING = {
    "architectures": ["X"], "bos_token_id": 1, "initializer_range": 0.02, "use_cache": True,
    "torch_dtype": "float16", "dtype": "bfloat16", "transformers_version": "4.57.3",
    "_name_or_path": "x", "attention_dropout": 0.1, "is_decoder": True, "pretraining_tp": 2,
    "sliding_window": None, "quantization_config": None, "summary_type": "cls_index",
    "reorder_and_upcast_attn": True, "an_option_of_the_future": None,
}  # fmt: skip


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_bookkeeping_changes_nothing(base):
    assert families.from_hf({**base, **BOOKKEEPING}) == families.from_hf(base)


def test_gpt2_options():
    config = families.from_hf(
        GPT2 | {"activation_function": "relu", "n_inner": 20, "scale_attn_weights": False,
                "scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-6}
    )  # fmt: skip
    assert config == DecoderConfig(
        vocab_size=50, n_layers=2, d_model=8, n_heads=2, d_mlp=20, max_positions=16, family="gpt2",
        norm_eps=1e-6, activation="relu", scale_attn=False, scale_attn_by_layer=True, tied=True,
    )  # fmt: skip
    assert families.from_hf(GPT2 | {"n_inner": None}).d_mlp == 32
    assert families.from_hf(GPT2).activation == "gelu_tanh"


@pytest.mark.parametrize(
    ("given", "dim", "theta"),
    [
        ({}, 2, 10000.0),
        ({"rotary_pct": 0.5, "rotary_emb_base": 500}, 4, 500.0),
        ({"partial_rotary_factor": 1.0, "rope_theta": 7}, 8, 7.0),
        (
            {"rope_parameters": {"rope_theta": 9.0, "partial_rotary_factor": 0.5}},
            4,
            9.0,
        ),
        (
            {
                "rotary_pct": 0.5,
                "partial_rotary_factor": 0.5,
                "rotary_emb_base": 9,
                "rope_theta": 9.0,
            },
            4,
            9.0,
        ),
    ],
)
def test_neox_rotary_in_every_spelling(given, dim, theta):
    config = families.from_hf(NEOX | given)
    assert (config.rotary_dim, config.rope_theta) == (dim, theta)


def test_neox_options():
    config = families.from_hf(
        NEOX | {"use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_new"}
    )
    assert not any((config.parallel_residual, config.qkv_bias, config.attn_out_bias))
    assert config.mlp_bias
    assert config.activation == "gelu_tanh"
    assert families.from_hf(NEOX).parallel_residual


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 12,
}  # fmt: skip
SCALINGS = {
    "default": ({"rope_type": "default"}, None),
    "linear": ({"rope_type": "linear", "factor": 2}, RopeScaling("linear", 2.0)),
    "dynamic": (
        {"rope_type": "dynamic", "factor": 2.0},
        RopeScaling("dynamic", 2.0, original_max_positions=16),
    ),
    "llama3": (LLAMA3, RopeScaling("llama3", 8.0, 1.0, 4.0, 12)),
}


@pytest.mark.parametrize(("entry", "scaling"), SCALINGS.values(), ids=SCALINGS)
@pytest.mark.parametrize("base", [NEOX | {"rotary_pct": 0.5}, LLAMA], ids=["gpt_neox", "llama"])
def test_rope_scaling_reads_alike_in_version_4_and_5(base, entry, scaling):
    v4 = families.from_hf(base | {"rope_theta": 5e5, "rope_scaling": entry})
    old = {"type" if key == "rope_type" else key: value for key, value in entry.items()}
    assert v4 == families.from_hf(base | {"rope_theta": 5e5, "rope_scaling": old})
    assert v4 == families.from_hf(base | {"rope_parameters": entry | {"rope_theta": 5e5}})
    assert (v4.rope_scaling, v4.rope_theta) == (scaling, 5e5)


def test_llama_options():
    config = families.from_hf(
        LLAMA | {"attention_bias": True, "mlp_bias": True, "head_dim": 6, "hidden_act": "gelu",
                 "tie_word_embeddings": True}
    )  # fmt: skip
    assert all((config.qkv_bias, config.attn_out_bias, config.mlp_bias, config.tied))
    assert (config.d_head, config.rotary_dim, config.n_kv_heads) == (6, 6, 1)
    plain = families.from_hf({k: v for k, v in LLAMA.items() if k != "num_key_value_heads"})
    assert (plain.n_kv_heads, plain.d_head, plain.qkv_bias) == (2, 8, False)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("sliding_window", 4096),
        ("quantization_config", {"bits": 4}),
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("pruned_heads", {"0": [1]}),
        ("attn_logit_softcapping", 30.0),
        ("num_local_experts", 8),
        ("auto_map", {"AutoModel": "x.py"}),
    ],
)
def test_options_that_change_the_mathematics_are_refused_by_name(base, option, value):
    for strict in (True, False):
        with pytest.raises(ConfigError, match=option):
            families.from_hf(base | {option: value}, strict)


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        (LLAMA, {"model_type": "qwen2_moe"}, "model_type: got 'qwen2_moe'"),
        (LLAMA, {"model_type": None}, "model_type"),
        (LLAMA, {"rope_scaling": {"rope_type": "yarn"}}, "factor: got nothing"),
        (LLAMA, {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "long_factor: got nothing"),
        (LLAMA, {"rope_scaling": {"type": "proportional", "factor": 2.0}}, "'proportional'"),
        (LLAMA, {"rope_scaling": {"rope_type": "linear"}}, "factor: got nothing"),
        (LLAMA, {"rope_scaling": {"rope_type": "linear", "factor": 0.0}}, "rope factor"),
        (LLAMA, {"rope_scaling": LLAMA3 | {"mscale": 1.0}}, "rope_scaling: mscale"),
        (LLAMA, {"rope_scaling": "linear"}, "rope_scaling: got 'linear'; expected dict"),
        (LLAMA, {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 2e4}}, "synonyms"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (LLAMA, {"hidden_act": "xielu"}, "hidden_act: got 'xielu'"),
        (LLAMA, {"hidden_size": "16"}, "hidden_size: got '16'; expected int"),
        (LLAMA, {"hidden_size": True}, "hidden_size"),
        (LLAMA, {"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        (LLAMA, {"rms_norm_eps": 10**400}, "rms_norm_eps"),
        (LLAMA, {"num_key_value_heads": 3}, "n_kv_heads"),
        (NEOX, {"rotary_pct": 0.2}, "rotary_pct"),
        (NEOX, {"rotary_pct": 0.0}, "rotary_pct"),
        (NEOX, {"rotary_pct": 1.5}, "rotary_pct"),
        (NEOX, {"rotary_pct": 0.5, "partial_rotary_factor": 0.25}, "synonyms"),
        (NEOX, {"num_attention_heads": 0}, "n_heads|d_model"),
        (GPT2, {"n_head": 3}, "d_model"),
        (GPT2, {"vocab_size": None}, "vocab_size: got nothing"),
        (GPT2, {"activation_function": "gelu_10"}, "gelu_10"),
        (GPT2, {"scale_attn_weights": "yes"}, "scale_attn_weights"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_is_refused_by_name(base, change, words):
    with pytest.raises(ConfigError, match=words):
        families.from_hf(base | change)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_an_option_nobody_has_heard_of_is_refused_unless_told_not_to(base):
    given = base | {"attention_multiplier": 3.0}
    with pytest.raises(ConfigError, match=r"attention_multiplier: got 3\.0.*strict=False"):
        families.from_hf(given)
    assert families.from_hf(given, strict=False) == families.from_hf(base)


def test_no_option_is_both_harmless_and_read():
    own = [getattr(families, name) for name in families.FAMILIES if name != "custom"]
    for module in own:
        assert not module.UNDERSTOOD & options.HARMLESS
        # Every option that is understood is also asked for.
        asked = [module, families.rope, families.kin, families.windows]
        asked += [families.gemma, families.gemma2, families.qwen2, families.mixtures]
        text = "".join(m.__loader__.get_source(m.__name__) for m in asked)
        assert all(f'"{name}"' in text for name in module.UNDERSTOOD)


def any_config(family):
    """Configurations that a family can express."""
    small = st.integers(1, 4)
    rope = st.sampled_from([scaling for _, scaling in SCALINGS.values()])
    act, flag = st.sampled_from(sorted(options.ACTIVATION_NAMES)), st.booleans()

    def build(sizes, common, bias, other):
        kv, groups, dim, third = sizes
        heads = kv * groups
        common |= {"family": family, "vocab_size": 11, "n_heads": heads, "max_positions": 16}
        if family == "gpt2":
            common["rope_scaling"] = None
            return DecoderConfig(
                **common, d_model=heads * dim, scale_attn=bias, scale_attn_by_layer=other
            )
        common |= {"positions": "rotary", "rope_theta": 5e3}
        if family == "gpt_neox":
            return DecoderConfig(
                **common, d_model=heads * 2 * dim, rotary_dim=2 * min(third, dim),
                qkv_bias=bias, attn_out_bias=bias, parallel_residual=other,
            )  # fmt: skip
        return DecoderConfig(
            **common, d_model=heads * 3, n_kv_heads=kv, d_head=2 * dim, norm="rms", gated_mlp=True,
            qkv_bias=bias, attn_out_bias=bias, mlp_bias=other,
        )  # fmt: skip

    common = st.fixed_dictionaries({
        "n_layers": small, "d_mlp": st.integers(1, 9), "activation": act, "tied": flag,
        "norm_eps": st.sampled_from([1e-5, 1e-6]), "rope_scaling": rope,
    })  # fmt: skip
    sizes = st.tuples(small, small, st.integers(2, 50), st.integers(2, 50))
    return st.builds(build, sizes, common, flag, flag)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
@settings(max_examples=60)
@given(data=st.data())
def test_configurations_survive_being_written(family, data):
    config = data.draw(any_config(family))
    given = json.loads(json.dumps(families.to_hf(config)))
    assert families.from_hf(given) == config


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_tables_name_every_parameter_once_in_its_shape(family):
    for flag in (True, False):
        config = DecoderConfig(
            family=family, vocab_size=11, n_layers=2, d_model=12, n_heads=2, n_kv_heads=1, d_mlp=5,
            norm="rms" if family == "llama" else "layer", gated_mlp=family == "llama", tied=flag,
            positions="learned" if family == "gpt2" else "rotary",
            qkv_bias=flag, attn_out_bias=flag, mlp_bias=flag,
        )  # fmt: skip
        specs, sizes = param_specs(config), table.axis_sizes(config)
        weights = families.family_of(config).table(config)
        assert sorted(weight.leaf for weight in weights) == sorted(specs)
        if family == "llama":  # The others have as many key heads as query heads.
            for weight in weights:
                shape = table.shape(weight.ours or weight.stored, sizes)
                stack = (config.n_layers,) if weight.per_layer else ()
                assert stack + shape == specs[weight.leaf].shape


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"causal": False}, "causal of a gpt2 model: got False"),
        ({"norm": "none"}, "norm"),
        ({"qkv_bias": False}, "qkv_bias"),
        ({"family": "bert"}, "family: got 'bert'"),
    ],
)
def test_what_a_family_cannot_express_is_refused(change, words):
    config = families.from_hf(GPT2).replace(**change)
    with pytest.raises(ConfigError, match=words):
        families.to_hf(config)


def test_custom_models_can_be_anything():
    config = DecoderConfig(
        vocab_size=7, n_layers=1, d_model=6, n_heads=3, n_kv_heads=1, d_mlp=5, norm="none",
        positions="rotary", causal=False, unembed_bias=True,
        rope_scaling=RopeScaling("factors", factors=(1.0, 2.5)), d_head=4,
    )  # fmt: skip
    given = json.loads(json.dumps(families.to_hf(config)))
    assert given["model_type"] == "hagd_custom"
    assert families.from_hf(given) == config
    specs = param_specs(config)
    sizes = table.axis_sizes(config)
    for weight in families.family_of(config).table(config):
        assert table.shape(weight.stored, sizes) == specs[weight.leaf].shape
    for change, words in [
        ({"norms": "none"}, "norms"),
        ({"n_layers": None}, "n_layers"),
        ({"n_layers": "1"}, "n_layers"),
        ({"norm": "batch"}, "norm"),
        ({"rope_scaling": {"kind": "ntk"}}, "kind: got 'ntk'; expected one of linear"),
        ({"rope_scaling": {"factor": 2.0}}, "kind: got nothing"),
        ({"rope_scaling": {"kind": "factors", "factors": [1.0, "x"]}}, r"factors\[1\]: got 'x'"),
        ({"rope_scaling": {"kind": "factors", "factors": 3}}, "factors"),
    ]:
        with pytest.raises(ConfigError, match=words):
            families.from_hf(given | change)


def test_custom_models_keep_every_option():
    config = DecoderConfig(
        vocab_size=7, n_layers=3, d_model=6, n_heads=3, d_mlp=5, norm="rms", positions="rotary",
        norm_offset=True, norm_placement="both", qk_norm="all", window=2, window_layers=(0, 2),
        rope_local_theta=50.0, query_scalar=5.0, attn_softcap=3.0, scale_embed=True,
        logit_softcap=4.0, rope_scaling=RopeScaling(
            "longrope", 2.0, original_max_positions=8, factors=(1.5,), short_factors=(1.0,)
        ),
    )  # fmt: skip
    given = json.loads(json.dumps(families.to_hf(config)))
    assert families.from_hf(given) == config
    for change, words in [
        ({"window_layers": [0, "x"]}, r"window_layers\[1\]: got 'x'"),
        ({"window_layers": [2, 0]}, "window_layers: got .* rising"),
        ({"window_layers": [3]}, "from 0 to 2"),
        ({"window": 0}, "window: got 0"),
        ({"norm": "layer"}, "norm_offset: got True; expected False unless norm is 'rms'"),
        ({"causal": False}, "window: got 2; expected 0 where causal is off"),
        ({"attn_softcap": -1.0}, "attn_softcap: got -1.0"),
        ({"qk_norm": "each"}, "qk_norm: got 'each'; expected one of none, head, all"),
        ({"positions": "learned", "rotary_dim": 0}, "rope_local_theta: got 50.0"),
    ]:
        with pytest.raises(ConfigError, match=words):
            families.from_hf(given | change)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_configuration_is_read_or_refused_never_a_crash(base, data):
    module = getattr(families, base["model_type"])
    names = st.sampled_from(sorted(module.UNDERSTOOD | base.keys()))
    change = data.draw(st.dictionaries(names, JSON, max_size=3))
    with contextlib.suppress(HagdError):
        assert isinstance(families.from_hf(base | change), DecoderConfig)
