"""Mixtures of experts on disk: configurations in both spellings, and tensors in both layouts."""

from __future__ import annotations

import contextlib
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from hagd_jax.errors import CheckpointError, ConfigError, HagdError
from hagd_jax.models import families, forward, load, save
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.families import table
from hagd_jax.parallel import make_mesh
from tests.models.test_families import JSON
from tests.models.test_family_options import KIN, plain
from tests.models.test_saving import assert_same, random_model

QWEN = KIN | {
    "model_type": "qwen3_moe", "moe_intermediate_size": 6, "num_experts": 4,
    "num_experts_per_tok": 2,
}  # fmt: skip
MIXTRAL = KIN | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
BASES = {"qwen3_moe": QWEN, "mixtral": MIXTRAL}
CHOICE = {"experts": 4, "experts_per_token": 2}
EXPECTED = {
    "qwen3_moe": plain(family="qwen3_moe", qk_norm="head", norm_eps=1e-5, **CHOICE),
    "mixtral": plain(family="mixtral", norm_eps=1e-5, rope_theta=1e6, normalise_routing=True,
                     **CHOICE | {"d_mlp": 96}),
}  # fmt: skip
EACH = pytest.mark.parametrize("name", BASES)
# A layer that fills two experts and half of the third.
STEPS = EXPECTED["qwen3_moe"].replace(dense_layers=(0, 2), d_dense=15, normalise_routing=True)
MODELS = [EXPECTED["mixtral"], EXPECTED["qwen3_moe"], STEPS]
ALL = pytest.mark.parametrize("config", MODELS, ids=["mixtral", "qwen3_moe", "steps"])


@EACH
def test_a_silent_file_means_what_transformers_takes_it_for(name):
    assert families.from_hf(BASES[name]) == EXPECTED[name]


@pytest.mark.parametrize(
    ("base", "change", "fields"),
    [
        (QWEN, {"norm_topk_prob": True}, {"normalise_routing": True}),
        (QWEN, {"num_experts": None, "num_local_experts": 4}, {}),
        (QWEN, {"decoder_sparse_step": 2}, {"dense_layers": (0, 2), "d_dense": 24}),
        (QWEN, {"mlp_only_layers": [3, 0]}, {"dense_layers": (0, 3), "d_dense": 24}),
        (
            QWEN,
            {"mlp_only_layers": [1], "decoder_sparse_step": 2, "intermediate_size": 7},
            {"dense_layers": (0, 1, 2), "d_dense": 7},
        ),
        # Nobody reads it where every layer is a mixture.
        (QWEN, {"intermediate_size": 999}, {}),
        (QWEN, {"sliding_window": 3}, {}),
        (QWEN, {"sliding_window": 3, "use_sliding_window": True}, {"window": 3}),
        (QWEN, {"attention_bias": True}, {"qkv_bias": True, "attn_out_bias": True}),
        (QWEN, {"output_router_logits": True, "router_aux_loss_coef": 0.1}, {}),
        (MIXTRAL, {"sliding_window": 5}, {"window": 5}),
        (MIXTRAL, {"sliding_window": None, "router_jitter_noise": 0.1}, {}),
        (MIXTRAL, {"num_experts": 4}, {}),
        (MIXTRAL, {"head_dim": 8}, {"d_head": 8, "rotary_dim": 8}),
        (MIXTRAL, {"rope_parameters": {"rope_theta": 9.0}}, {"rope_theta": 9.0}),
        (QWEN, {"rope_parameters": {"rope_theta": 9.0}}, {"rope_theta": 9.0}),
    ],
)  # fmt: skip
def test_options_are_read(base, change, fields):
    expected = EXPECTED[base["model_type"]].replace(**fields)
    assert families.from_hf(base | change) == expected


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        (QWEN, {"num_experts": 0}, "number of experts: got 0; expected 1 or more"),
        (QWEN, {"num_experts": None}, "num_experts: got nothing"),
        (QWEN, {"num_experts": 4.5}, "num_experts: got 4.5; expected int"),
        (QWEN, {"num_local_experts": 5}, "synonyms"),
        (QWEN, {"num_experts_per_tok": 5}, "experts_per_token: got 5; expected 1 to experts = 4"),
        (QWEN, {"num_experts_per_tok": 0}, "experts_per_token: got 0"),
        (QWEN, {"moe_intermediate_size": -6}, "moe_intermediate_size: got -6; expected 1 or more"),
        (QWEN, {"moe_intermediate_size": None}, "moe_intermediate_size: got nothing"),
        (QWEN, {"num_experts": 2**40}, "d_mlp: got"),
        (QWEN, {"norm_topk_prob": 1}, "norm_topk_prob: got 1; expected bool"),
        (QWEN, {"decoder_sparse_step": 0}, "decoder_sparse_step: got 0"),
        (QWEN, {"decoder_sparse_step": 5}, "dense_layers: .*at least one layer that is a mixture"),
        (QWEN, {"mlp_only_layers": [4]}, r"mlp_only_layers\[0\]: got 4; expected the number"),
        (QWEN, {"mlp_only_layers": [0, -1]}, r"mlp_only_layers\[1\]: got -1"),
        (QWEN, {"mlp_only_layers": [True]}, r"mlp_only_layers\[0\]: got True"),
        (QWEN, {"mlp_only_layers": 3}, "mlp_only_layers: got 3; expected list"),
        (QWEN, {"mlp_only_layers": [0], "intermediate_size": 25}, "d_dense: got 25; .* 1 to 24"),
        (QWEN, {"num_hidden_layers": 2**60}, "n_layers: got"),
        (QWEN, {"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size: got 8"),
        (QWEN, {"use_sliding_window": True, "max_window_layers": 2}, "max_window_layers: got 2"),
        (QWEN, {"layer_types": ["full_attention"] * 4}, "layer_types"),
        (QWEN, {"hidden_act": "gelu_10"}, "hidden_act: got 'gelu_10'"),
        (QWEN, {"num_key_value_heads": None}, "num_key_value_heads: got nothing"),
        (MIXTRAL, {"num_local_experts": None}, "num_local_experts: got nothing"),
        (MIXTRAL, {"sliding_window": 0}, "sliding_window: got 0"),
        (MIXTRAL, {"attention_bias": True}, "attention_bias"),
        (MIXTRAL, {"norm_topk_prob": False}, "norm_topk_prob"),
        (MIXTRAL, {"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_what_cannot_be_is_refused_by_name(base, change, words):
    with pytest.raises(ConfigError, match=words):
        families.from_hf(base | change)


def any_config(name):
    """Configurations that a family can express."""
    small, flag = st.integers(1, 4), st.booleans()

    def build(sizes, experts, flags, window, dense, width):
        (layers, kv, dim), (count, each, used), (bias, tied, third) = sizes, experts, flags
        fields = {
            "n_layers": layers, "n_kv_heads": kv, "n_heads": 2 * kv, "d_head": 2 * dim,
            "rotary_dim": 2 * dim, "tied": tied, "experts": count, "d_mlp": count * each,
            "experts_per_token": min(count, used), "window": window * third,
        }  # fmt: skip
        if name == "qwen3_moe":
            layers = tuple(sorted({i for i in dense if i < layers - 1}))
            own = min(width, count * each) if layers else 0
            fields |= {"qkv_bias": bias, "attn_out_bias": bias, "normalise_routing": third,
                       "dense_layers": layers, "d_dense": own}  # fmt: skip
        return EXPECTED[name].replace(**fields)

    return st.builds(
        build, st.tuples(small, small, st.integers(1, 9)), st.tuples(small, small, small),
        st.tuples(flag, flag, flag), st.integers(1, 9), st.sets(st.integers(0, 3)),
        st.integers(1, 20),
    )  # fmt: skip


@EACH
@settings(max_examples=40)
@given(data=st.data())
def test_configurations_survive_being_written(name, data):
    config = data.draw(any_config(name))
    for family in (name, "custom"):
        own = config.replace(family=family)
        written = json.loads(json.dumps(families.to_hf(own)))
        assert families.from_hf(written) == own


@EACH
@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_configuration_is_read_or_refused_never_a_crash(name, data):
    names = st.sampled_from(sorted(getattr(families, name).UNDERSTOOD | BASES[name].keys()))
    layers = st.lists(st.integers(-1, 5) | st.booleans(), max_size=3)
    change = data.draw(st.dictionaries(names, JSON | layers | st.integers(0, 9), max_size=3))
    with contextlib.suppress(HagdError):
        assert isinstance(families.from_hf(BASES[name] | change), DecoderConfig)


def fused_names(config):
    """Names of tensors as transformers 5 has them while it computes."""
    layers = [i for i in range(config.n_layers) if i not in config.dense_layers]
    return {f"model.layers.{i}.mlp.experts.gate_up_proj" for i in layers}


@ALL
@pytest.mark.parametrize("layout", ["apart", "fused"])
def test_a_table_fills_every_parameter_once(config, layout):
    """Each entry that the model uses comes from one tensor; what it does not use from none."""
    names = fused_names(config) if layout == "fused" else ()
    sizes, specs = table.axis_sizes(config), param_specs(config)
    filled = {leaf: np.zeros(spec.shape, int) for leaf, spec in specs.items()}
    for weight in families.family_of(config).table(config, names):
        everything = tuple(slice(0, n) for n in specs[weight.leaf].shape)
        for where, _, part in table.pieces(weight, sizes, everything):
            block = filled[weight.leaf][where]
            assert block.shape == tuple(at.stop - at.start for at in part)
            block += 1
    for leaf, count in filled.items():
        expected = np.ones_like(count)
        for layer in config.dense_layers:
            if leaf.endswith("router/kernel"):
                expected[layer] = 0
            elif leaf.startswith("blocks/mlp/out"):
                expected[layer, config.d_dense :] = 0
            elif leaf.startswith("blocks/mlp"):
                expected[layer, :, config.d_dense :] = 0
        np.testing.assert_array_equal(count, expected, err_msg=leaf)


def zeroed(model):
    """The model without the parameters that it does not use, which files do not hold."""
    from hagd_jax.models.experts import without_unused

    blocks = model.params["blocks"]
    mlp = without_unused(blocks["mlp"], model.config)
    return model.replace(params=model.params | {"blocks": blocks | {"mlp": mlp}})


@ALL
def test_a_model_comes_back_as_it_was_saved(config, tmp_path):
    model = zeroed(random_model(config))
    save(model, tmp_path / "m")
    back = load(tmp_path / "m")
    assert back.config == config
    assert_same(model, back)
    stored = load_file(tmp_path / "m" / "model.safetensors")
    expert, dense = (15, 16), "model.layers.0.mlp.down_proj.weight"
    if config.family == "mixtral":
        name, row = "model.layers.3.block_sparse_moe.experts.2.w1.weight", (24, 16)
    else:
        name, row = "model.layers.3.mlp.experts.2.gate_proj.weight", (6, 16)
    assert stored[name].shape == row
    first = 2 * row[0]
    kernel = model.params["blocks"]["mlp"]["gate"]["kernel"]
    np.testing.assert_array_equal(stored[name], kernel[3, :, first : first + row[0]].T)
    assert (dense in stored) == bool(config.dense_layers)
    if config.dense_layers:
        assert stored[dense].shape == expert[::-1]
        assert "model.layers.0.mlp.gate.weight" not in stored


def fuse(stored, config):
    """Rewrite the tensors of a folder in the layout that transformers 5 computes with."""
    gate, up, down = ("w1", "w3", "w2") if config.family == "mixtral" else (
        "gate_proj", "up_proj", "down_proj"
    )  # fmt: skip
    room = "block_sparse_moe" if config.family == "mixtral" else "mlp"
    found = {n.replace(f"{room}.gate.", "mlp.gate."): v for n, v in stored.items()
             if ".experts." not in n}  # fmt: skip
    for layer in range(config.n_layers):
        if layer in config.dense_layers:
            continue
        start, own = f"model.layers.{layer}.mlp.experts.", f"model.layers.{layer}.{room}.experts."

        def every(name, own=own):
            return np.stack([stored[f"{own}{e}.{name}.weight"] for e in range(config.experts)])

        found[start + "gate_up_proj"] = np.concatenate([every(gate), every(up)], axis=1)
        found[start + "down_proj"] = every(down)
    return found


@ALL
def test_experts_in_one_tensor_are_read_alike_and_by_slices(config, tmp_path):
    model = zeroed(random_model(config))
    save(model, tmp_path / "apart")
    stored = load_file(tmp_path / "apart" / "model.safetensors")
    (tmp_path / "fused").mkdir()
    save_file(fuse(stored, config), tmp_path / "fused" / "model.safetensors")
    text = (tmp_path / "apart" / "config.json").read_text()
    (tmp_path / "fused" / "config.json").write_text(text)
    mesh = make_mesh("data=2,model=2", devices=jax.devices()[:4])
    for folder in ("apart", "fused"):
        assert_same(model, load(tmp_path / folder))
        spread = load(tmp_path / folder, mesh=mesh)
        assert_same(model, spread)
        kernel = spread.params["blocks"]["mlp"]["gate"]["kernel"]
        shape = (config.n_layers, config.d_model // 2, config.d_mlp // 2)
        assert kernel.addressable_shards[0].data.shape == shape
    expected = forward(model, [[1, 2, 3]]).logits
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(forward(load(tmp_path / "fused"), [[1, 2, 3]]).logits, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, n: t.pop(n), "experts.3.up_proj.weight: got no such tensor"),
        (lambda t, n: t.update({n: t[n][:5]}), r"experts.3.up_proj.weight: got shape \(5, 16\)"),
        (
            lambda t, n: t.update({n.replace("3.up", "4.up"): t[n]}),
            "experts.4.up_proj.weight: got 1 that the model has no place for",
        ),
        (
            lambda t, n: t.update({n: np.full_like(t[n], np.nan)}),
            "experts.3.up_proj.weight: got 96 NaN or infinite weights",
        ),
        (
            lambda t, n: t.update({n.split("experts")[0] + "gate.weight": np.full((4, 16), np.nan,
                                                                               np.float32)}),
            "mlp.gate.weight: got 64 NaN or infinite weights",
        ),
    ],
)  # fmt: skip
def test_damaged_experts_are_refused_by_name(change, words, tmp_path):
    config = STEPS
    save(random_model(config), tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    stored = load_file(path)
    change(stored, "model.layers.3.mlp.experts.3.up_proj.weight")
    save_file(stored, path)
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / "m")
