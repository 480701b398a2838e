"""Every architecture from GGUF files gives the logits that `transformers` gave for its folder."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax import models
from hagd_jax.errors import CheckpointError, ConfigError, HagdError
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.families.table import select
from hagd_jax.models.gguf import families as gguf_families
from hagd_jax.models.gguf.config import gguf_config
from hagd_jax.models.gguf.source import GgufFile, GgufSource, open_gguf
from tests.models import gguf_tiny
from tests.models.gguf_converted import convert

FOLDERS = Path(__file__).parent / "goldens" / "hf"
# The norms' 1 + w and sums in another order; logits spread by about 1.
TOLERANCE = 1e-4
CASES = [
    *("llama_gqa_shards", "llama_mha", "llama_head_dim", "llama_linear", "llama_llama3"),
    *("llama_biases", "mistral_full", "qwen2_shards", "gemma2", "gemma3"),
    *("gpt2", "gpt2_hub", "neox_parallel", "neox_hub"),
    *("qwen3_moe_normalised", "mixtral"),
]


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path):
    model = models.load(convert(FOLDERS / name, tmp_path / "m.gguf"), dtype=jnp.float32)
    with np.load(FOLDERS / name / "expected.npz") as expected:
        assert expected["logits"].std() > 0.1
        logits = models.forward(model, expected["tokens"]).logits
        np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=TOLERANCE)


def edited(name: str, path: Path, **options: Any) -> Path:
    """A copy of a folder with some options changed."""
    shutil.copytree(FOLDERS / name, path)
    config = json.loads((path / "config.json").read_text("utf-8")) | options
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    return path


YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
    "beta_fast": 2.0, "beta_slow": 0.25,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # The folders' own outputs are with options that GGUF files cannot say.
        ("qwen3_yarn", {"rope_scaling": None}),
        ("qwen3_yarn", {"rope_scaling": YARN}),
        ("llama_yarn", {"rope_scaling": YARN}),
        ("gpt2_untied", {"activation_function": "gelu_new"}),
        ("neox_parallel", {"use_parallel_residual": False}),
        ("neox_linear", {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
    ],
    ids=["qwen3", "qwen3_yarn", "llama_yarn", "gpt2_untied", "neox_sequential", "neox_tied"],
)
def test_the_same_logits_as_the_folder(name: str, options: dict[str, Any], tmp_path: Path):
    folder = edited(name, tmp_path / "folder", **options)
    ours = models.load(convert(folder, tmp_path / "m.gguf"), dtype=jnp.float32)
    theirs = models.load(folder, dtype=jnp.float32)
    tokens = np.random.default_rng(0).integers(0, ours.config.vocab_size, (2, 14))
    found, want = (models.forward(model, tokens).logits for model in (ours, theirs))
    assert np.std(want) > 0.1
    np.testing.assert_allclose(found, want, rtol=0, atol=TOLERANCE)


def test_every_parameter_has_a_tensor(tmp_path: Path):
    seen = set()
    for name in (*CASES, "qwen3_yarn"):
        options = {"rope__scaling__type": "none"} if name == "qwen3_yarn" else {}
        file = open_gguf(convert(FOLDERS / name, tmp_path / f"{name}.gguf", **options))
        seen.add(file.header.metadata["general.architecture"])
        chosen = select(file.table, param_specs(file.config))
        assert {w.leaf for w in chosen} == set(param_specs(file.config))
        names = {w.tensor(i) for w in chosen for i in range(file.config.n_layers)}
        assert names == file.source.names() - file.architecture.ignored
    assert seen == set(gguf_families.ARCHITECTURES)


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_gemmas_norms_are_those_of_the_folder_to_the_bit(name: str, tmp_path: Path):
    """So a model that is saved from a file is the one that the file was made from."""
    ours = models.load(convert(FOLDERS / name, tmp_path / "m.gguf"), dtype=jnp.float32)
    theirs = models.load(FOLDERS / name, dtype=jnp.float32)
    assert (ours.config.norm_offset, ours.config.scale_embed) == (True, True)
    for norm in ("norm1", "norm2", "norm_attn_out", "norm_mlp_out"):
        found, want = (np.asarray(m.params["blocks"][norm]["scale"]) for m in (ours, theirs))
        # What adding one rounded off; where nothing was, there is no difference.
        np.testing.assert_allclose(found, want, rtol=0, atol=2**-23)
        exact = (want + np.float32(1)) - np.float32(1) == want
        np.testing.assert_array_equal(found[exact], want[exact])
    models.save(ours, tmp_path / "saved")
    again = models.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.params["norm_f"]["scale"], ours.params["norm_f"]["scale"])


def test_a_mixture_is_read_with_the_choice_that_llama_cpp_makes(tmp_path: Path):
    """Weights of a token's experts are divided by their sum, and files before the setting of an
    expert's width have the width of all experts that a token uses."""
    file = open_gguf(convert(FOLDERS / "qwen3_moe_normalised", tmp_path / "m.gguf"))
    c = file.config
    assert (c.family, c.experts, c.d_expert, c.experts_per_token) == ("qwen3_moe", 6, 10, 3)
    assert c.normalise_routing
    assert not c.dense_layers
    old = {"expert_feed_forward_length": None, "feed_forward_length": 30}
    said = {"expert_weights_norm": True, "expert_gating_func": 1, "expert_weights_scale": 1.0}
    for given_ in (old, said):
        assert config_of("qwen3_moe_normalised", tmp_path, **given_) == c
    mixtral = config_of("mixtral", tmp_path)
    assert (mixtral.family, mixtral.experts, mixtral.d_expert) == ("mixtral", 4, 12)
    model = models.load(convert(FOLDERS / "mixtral", tmp_path / "mixtral.gguf"))
    models.save(model, tmp_path / "saved")
    again = models.load(tmp_path / "saved")
    np.testing.assert_array_equal(
        again.params["blocks"]["mlp"]["out"]["kernel"],
        model.params["blocks"]["mlp"]["out"]["kernel"],
    )


def test_a_head_of_its_own_is_used_and_a_tied_one_shared(tmp_path: Path):
    folder = FOLDERS / "qwen2_shards"
    with_head = models.load(convert(folder, tmp_path / "head.gguf"), dtype=jnp.float32)
    tied = edited("qwen2_shards", tmp_path / "tied", tie_word_embeddings=True)
    without = models.load(convert(tied, tmp_path / "tied.gguf"), dtype=jnp.float32)
    assert (with_head.config.tied, without.config.tied) == (False, True)
    head = np.asarray(with_head.params["unembed"]["kernel"])
    assert np.abs(head.T - with_head.params["embed"]["embedding"]).max() > 0.1


def test_a_separately_quantized_head(tmp_path: Path):
    """Qwen's small models tie the head, and files store it again in another type."""
    tensors: dict[str, gguf_tiny.Stored] = {**gguf_tiny.tensors()}
    values = np.random.default_rng(3).normal(size=(gguf_tiny.VOCAB, 32)).astype(np.float32)
    kind = GGMLQuantizationType.Q8_0
    tensors = {
        "token_embd.weight": values,
        "output.weight": (gguf.quants.quantize(values, kind), kind),
        "output_norm.weight": np.ones(32, np.float32),
    }
    for part, shape in {
        "attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32), "attn_output": (32, 32),
        "ffn_gate": (8, 32), "ffn_up": (8, 32), "ffn_down": (32, 8),
    }.items():  # fmt: skip
        tensors[f"blk.0.{part}.weight"] = np.ones(shape, np.float32)
        if part in ("attn_q", "attn_k", "attn_v"):
            tensors[f"blk.0.{part}.bias"] = np.ones(32, np.float32)
    for norm in ("attn_norm", "ffn_norm"):
        tensors[f"blk.0.{norm}.weight"] = np.ones(32, np.float32)
    settings = {
        "qwen2.block_count": 1, "qwen2.context_length": 8, "qwen2.embedding_length": 32,
        "qwen2.feed_forward_length": 8, "qwen2.attention.head_count": 4,
        "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
    }  # fmt: skip
    model = models.load(gguf_tiny.write(tmp_path / "q.gguf", tensors, settings, "qwen2"))
    head = np.asarray(model.params["unembed"]["kernel"]).T
    assert not model.config.tied
    assert 0 < np.abs(head - values).max() < 0.05
    np.testing.assert_array_equal(model.params["embed"]["embedding"], values)


def config_of(name: str, folder: Path, **settings: Any) -> models.DecoderConfig:
    return open_gguf(convert(FOLDERS / name, folder / "m.gguf", **settings)).config


def test_windows(tmp_path: Path):
    def layers(name: str, **settings: Any) -> tuple[int, ...]:
        return config_of(name, tmp_path, **settings).windows

    assert layers("gemma2") == (4, 0, 4, 0)
    assert layers("gemma3") == (4, 4, 4, 4, 4, 0, 4)
    assert layers("gemma2", attention__sliding_window=None) == (4096, 0, 4096, 0)
    assert layers("gemma3", attention__sliding_window_pattern=3) == (4, 4, 0, 4, 4, 0, 4)
    each = [True, False, False, True, False, False, False]
    assert layers("gemma3", attention__sliding_window_pattern=each) == (4, 0, 0, 4, 0, 0, 0)
    # Written that way for models without windows, and then there is one rotary table.
    for off in ({"attention__sliding_window": None}, {"attention__sliding_window_pattern": 1}):
        config = config_of("gemma3", tmp_path, **off)
        assert (config.window, config.rope_local_theta) == (0, 0.0)
    usual = config_of("gemma3", tmp_path, rope__freq_base_swa=None, rope__freq_base=None)
    assert (usual.rope_theta, usual.rope_local_theta) == (1e6, 1e4)


@pytest.mark.parametrize(("name", "largest"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemmas_divide_scores_by_the_mean_width(
    name: str, largest: int, tmp_path: Path
):
    """Gemma 27B's query_pre_attn_scalar is d_model / heads; the smaller ones' is d_head."""
    path = convert(FOLDERS / name, tmp_path / "m.gguf")
    header = open_gguf(path).header
    metadata = {**header.metadata, f"{name}.block_count": largest}

    class Deep(GgufSource):
        """The tensors of the file, with more layers."""

        def names(self) -> frozenset[str]:
            first = {n for n in self.header.tensors if n.startswith("blk.0.")}
            more = {n.replace("blk.0.", f"blk.{i}.") for n in first for i in range(largest)}
            return super().names() | more

    assert open_gguf(path).config.query_scalar == 0  # d_head
    deep = gguf_config(metadata, Deep(header))
    assert (deep.n_layers, deep.d_head, deep.query_scalar) == (largest, 6, 16 / 4)


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("gemma2", {"attn_logit_softcapping": 0.0}, CheckpointError, "softcapping: got 0.0"),
        ("gemma2", {"rope__freq_base_swa": 7.0}, ConfigError, "freq_base_swa: got 7.0"),
        ("gemma2", {"attention__scale": 1.0}, ConfigError, "attention.scale: got 1.0"),
        ("gemma3", {"attn_logit_softcapping": 5.0}, ConfigError, "attn_logit_softcapping: got 5"),
        ("gemma3", {"attention__sliding_window": "x"}, CheckpointError, "sliding_window: got 'x'"),
        (
            "gemma3",
            {"attention__sliding_window_pattern": [True]},
            CheckpointError,
            "1 entries; expected 7",
        ),
        ("gemma3", {"attention__sliding_window_pattern": 1.5}, CheckpointError, "got 1.5"),
        ("gemma3", {"rope__scaling__type": "yarn"}, ConfigError, "'none' or 'linear'"),
        ("gemma3", {"rope__dimension_count": 4}, ConfigError, "dimension_count: got 4; expected 6"),
        ("gemma3", {"attention__key_length_swa": 4}, ConfigError, "key_length_swa"),
        ("qwen2_shards", {"attention__sliding_window": 4}, ConfigError, "sliding_window: got 4"),
        ("qwen2_shards", {"expert_count": 4}, ConfigError, "expert_count"),
        ("qwen2_shards", {"pooling_type": 3}, ConfigError, "pooling_type"),
        ("qwen2_shards", {"use_parallel_residual": True}, ConfigError, "use_parallel_residual"),
        ("gpt2", {"rope__freq_base": 100.0}, ConfigError, "gpt2.rope.freq_base: got 100.0"),
        ("gpt2", {"attention__head_count_kv": 1}, ConfigError, "head_count_kv: got 1; expected 2"),
        ("gpt2", {"context_length": 15}, CheckpointError, r"position_embd.weight: .*\(16, 16\)"),
        ("qwen3_moe_normalised", {"expert_count": 0}, CheckpointError, "expert_count: got 0"),
        ("qwen3_moe_normalised", {"expert_count": 5}, CheckpointError, r"gate_inp.*\(5, 16\)"),
        ("qwen3_moe_normalised", {"expert_used_count": None}, CheckpointError, "used_count: got"),
        ("qwen3_moe_normalised", {"expert_used_count": 7}, ConfigError, "per_token: got 7"),
        ("qwen3_moe_normalised", {"expert_gating_func": 2}, ConfigError, "gating_func: got 2"),
        ("qwen3_moe_normalised", {"expert_weights_norm": False}, ConfigError, "norm: got False"),
        ("qwen3_moe_normalised", {"expert_weights_scale": 2.5}, ConfigError, "scale: got 2.5"),
        ("qwen3_moe_normalised", {"expert_shared_count": 1}, ConfigError, "shared_count: got 1"),
        (
            "qwen3_moe_normalised",
            {"expert_feed_forward_length": 9},
            CheckpointError,
            r"gate_exps.*\(6, 9, 16\)",
        ),
        ("mixtral", {"feed_forward_length": 11}, CheckpointError, r"gate_exps.*\(4, 11, 16\)"),
        ("mixtral", {"expert_used_count": 5}, ConfigError, "per_token: got 5"),
        ("mixtral", {"expert_used_count": 0}, CheckpointError, "used_count: got 0"),
        ("neox_hub", {"use_parallel_residual": None}, CheckpointError, "residual: got nothing"),
        ("neox_hub", {"use_parallel_residual": 1}, CheckpointError, "residual: got 1"),
        ("neox_hub", {"rope__dimension_count": 7}, ConfigError, "rotary_dim: got 7"),
        ("neox_hub", {"attention__max_alibi_bias": 8.0}, ConfigError, "max_alibi_bias"),
    ],
)  # fmt: skip
def test_refuses(
    name: str, settings: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
):
    with pytest.raises(error, match=message):
        config_of(name, tmp_path, **settings)


@pytest.mark.parametrize("name", ["qwen2_shards", "gemma3", "gpt2", "neox_parallel", "mixtral"])
def test_a_missing_and_a_foreign_tensor_are_refused_by_name(name: str, tmp_path: Path):
    path = convert(FOLDERS / name, tmp_path / "m.gguf")
    file = open_gguf(path)
    stored = [gguf.GGUFReader(path).get_tensor(i) for i in range(len(file.header.tensors))]
    tensors: dict[str, gguf_tiny.Stored] = {
        t.name: (t.data, t.tensor_type) if t.data.dtype == np.uint8 else t.data for t in stored
    }
    architecture = file.header.metadata["general.architecture"]
    settings = {k: v for k, v in file.header.metadata.items() if k.startswith(architecture)}
    missing = next(n for n in tensors if n.startswith("blk.1.ffn_up"))
    fewer = {n: t for n, t in tensors.items() if n != missing}
    with pytest.raises(CheckpointError, match=f"tensor {missing}"):
        models.load(gguf_tiny.write(tmp_path / "a.gguf", fewer, settings, architecture))
    more = {**tensors, "rope_factors_long.weight": np.ones(3, np.float32)}
    with pytest.raises(CheckpointError, match=r"rope_factors_long.*no place for"):
        models.load(gguf_tiny.write(tmp_path / "b.gguf", more, settings, architecture))


@pytest.fixture(scope="module")
def one_of_each(tmp_path_factory: pytest.TempPathFactory) -> list[GgufFile]:
    """A file of each architecture."""
    folder = tmp_path_factory.mktemp("each")
    names = ("llama_llama3", "qwen2_shards", "gemma2", "gemma3", "gpt2", "neox_parallel", "mixtral")
    files = [open_gguf(convert(FOLDERS / name, folder / f"{name}.gguf")) for name in names]
    plain = {"rope__scaling__type": "none"}
    files.append(open_gguf(convert(FOLDERS / "qwen3_yarn", folder / "qwen3.gguf", **plain)))
    mixed = FOLDERS / "qwen3_moe_normalised"
    files.append(open_gguf(convert(mixed, folder / "qwen3moe.gguf")))
    return files


WILD = (
    st.integers(-3, 70)
    | st.sampled_from([2**31 - 1, 2**31, 2**63, 0.0, 1e-30, 1e30, 1.5, "", "x", True, False])
    | st.sampled_from([math.nan, math.inf, -math.inf, "none", "linear", "yarn", []])
    | st.sampled_from([np.array([], np.int32), np.array([1, 2], np.uint32), np.zeros(7, bool)])
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 8), st.lists(st.tuples(st.integers(0, 99), WILD), min_size=1, max_size=3))
def test_damaged_settings_give_a_typed_error_or_a_configuration(
    one_of_each: list[GgufFile], which: int, damage: list[tuple[int, Any]]
):
    file = one_of_each[which]
    name = file.header.metadata["general.architecture"]
    known = file.architecture.keys | {"expert_count", "attention.key_length", "logit_scale"}
    stated = {key for key in file.header.metadata if key.startswith(f"{name}.")}
    keys = sorted(stated | {f"{name}.{key}" for key in known} | {"general.type", "split.count"})
    changes = {keys[place % len(keys)]: value for place, value in damage}
    try:
        config = gguf_config({**file.header.metadata, **changes}, file.source)
    except HagdError as error:
        assert "expected" in str(error)  # noqa: PT017 (either is right)
    else:
        # Sizes are those of the tensors, whatever the settings say.
        assert config.vocab_size == file.config.vocab_size
        assert config.n_layers <= file.config.n_layers
        assert config.d_model == file.config.d_model
