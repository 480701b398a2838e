"""Saving: what is written is what was loaded, for others too, and all of it or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open
from safetensors.numpy import load_file

from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.models import saving
from hagd_jax.models.config import DecoderConfig, RopeScaling
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.loading import load
from hagd_jax.models.model import LanguageModel
from hagd_jax.models.saving import save
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.parallel import make_mesh, sharding

SMALL = {
    "vocab_size": 12, "n_layers": 2, "d_model": 8, "n_heads": 2, "d_mlp": 6, "max_positions": 16,
}  # fmt: skip
LLAMA = DecoderConfig(
    **SMALL, family="llama", n_kv_heads=1, norm="rms", positions="rotary", activation="silu",
    gated_mlp=True, qkv_bias=False, attn_out_bias=False, mlp_bias=False,
)  # fmt: skip
NEOX = DecoderConfig(**SMALL, family="gpt_neox", positions="rotary", rotary_dim=2)
GPT2 = DecoderConfig(**SMALL, family="gpt2", tied=True)
CUSTOM = DecoderConfig(
    **SMALL, norm="none", causal=False, unembed_bias=True, positions="rotary",
    rope_scaling=RopeScaling("factors", factors=(1.0, 2.0)),
)  # fmt: skip
CONFIGS = [LLAMA, LLAMA.replace(tied=True, mlp_bias=True), NEOX, GPT2, CUSTOM]


def random_model(config, dtype=np.float32, **fields):
    rng = np.random.default_rng(0)
    params = {
        leaf: jnp.asarray(rng.normal(size=spec.shape), dtype)
        for leaf, spec in param_specs(config).items()
    }
    return LanguageModel(unflatten_dict(params, sep="/"), config, **fields)


def assert_same(left, right):
    left, right = (flatten_dict(model.params, sep="/") for model in (left, right))
    assert left.keys() == right.keys()
    for leaf, value in left.items():
        assert value.dtype == right[leaf].dtype
        np.testing.assert_array_equal(value, right[leaf])


@pytest.mark.parametrize("shard", [5e9, 900, 1], ids=["one", "some", "each"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.family}-tied={c.tied}")
def test_what_is_saved_is_loaded_again(tmp_path, config, shard):
    model = random_model(config)
    folder = save(model, tmp_path / "deep" / "model", max_shard_bytes=shard)
    again = load(folder)
    assert_same(model, again)
    assert again.config == config
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    files = sorted(folder.glob("*.safetensors"))
    stored = {name: value for file in files for name, value in load_file(file).items()}
    if shard == 5e9:
        assert [file.name for file in files] == ["model.safetensors"]
    else:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        places = {name: file.name for file in files for name in load_file(file)}
        assert index["weight_map"] == places
        assert index["metadata"]["total_size"] == sum(v.nbytes for v in stored.values())
    for file in files:
        with safe_open(file, "numpy") as opened:
            assert opened.metadata() == {"format": "pt"}
        tensors = load_file(file)
        assert len(tensors) == 1 or sum(v.nbytes for v in tensors.values()) <= shard


def test_fused_tensors_are_as_hugging_face_has_them(tmp_path):
    gpt2, neox = random_model(GPT2), random_model(NEOX)
    fused = load_file(save(gpt2, tmp_path / "a") / "model.safetensors")
    parts = [np.asarray(gpt2.params["blocks"]["attn"][p]["kernel"][1]) for p in "qkv"]
    np.testing.assert_array_equal(
        fused["transformer.h.1.attn.c_attn.weight"],
        np.concatenate([p.reshape(8, 8) for p in parts], 1),
    )
    fused = load_file(save(neox, tmp_path / "b") / "model.safetensors")
    parts = [np.asarray(neox.params["blocks"]["attn"][p]["kernel"][0]) for p in "qkv"]
    rows = [parts[c][:, head, d] for head in range(2) for c in range(3) for d in range(4)]
    np.testing.assert_array_equal(
        fused["gpt_neox.layers.0.attention.query_key_value.weight"], np.stack(rows)
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_dtype_and_tokenizer_are_written(tmp_path, dtype):
    tokenizer = Tokenizer.words(["0", "1", "+"])
    model = random_model(LLAMA, dtype, tokenizer=tokenizer)
    folder = save(model, tmp_path / "model")
    given = json.loads((folder / "config.json").read_text())
    assert given["dtype"] == given["torch_dtype"] == np.dtype(dtype).name
    assert given["architectures"] == ["LlamaForCausalLM"]
    again = load(folder)
    assert_same(model, again)
    assert again.tokenizer == tokenizer
    assert (folder / "tokenizer_config.json").exists()


def test_a_model_on_a_mesh_is_saved_as_the_same_file(tmp_path):
    model, mesh = random_model(NEOX), make_mesh("data=2,model=2", devices=jax.devices()[:4])
    flat = flatten_dict(model.params, sep="/")
    spread = {
        leaf: jax.device_put(flat[leaf], sharding(mesh, spec.axes, spec.shape))
        for leaf, spec in param_specs(NEOX).items()
    }
    alone = save(model, tmp_path / "a")
    other = save(model.replace(params=unflatten_dict(spread, sep="/"), mesh=mesh), tmp_path / "b")
    for file in ("model.safetensors", "config.json"):
        assert (alone / file).read_bytes() == (other / file).read_bytes()


def test_one_tensor_at_a_time_is_on_the_host(tmp_path, monkeypatch):
    held = []
    original = saving.whole_tensor

    def spy(name, shape, dtype, value):
        def made():
            held.append(value().nbytes)
            return value()

        return original(name, shape, dtype, made)

    monkeypatch.setattr(saving, "whole_tensor", spy)
    model = random_model(GPT2.replace(n_layers=5))
    save(model, tmp_path / "model")
    assert max(held) * 5 < sum(held)
    assert sum(held) == sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))


@pytest.mark.parametrize("there", [False, True], ids=["new", "overwrite"])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, there):
    folder = tmp_path / "model"
    old = random_model(LLAMA)
    if there:
        save(old, folder)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(saving, "write", full)
    with pytest.raises(CheckpointError, match="no space"):
        save(random_model(NEOX), folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"] * there
    if there:
        assert_same(load(folder), old)


def test_a_failure_at_the_last_step_leaves_what_was_there(tmp_path, monkeypatch):
    folder, old = tmp_path / "model", random_model(LLAMA)
    save(old, folder)
    rename = Path.rename

    def fail(self, target):
        if self.name.startswith(".model.") and not self.name.endswith(".old"):
            raise OSError("denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(CheckpointError, match="denied"):
        save(random_model(NEOX), folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert_same(load(folder), old)


def test_a_model_is_replaced_only_on_request(tmp_path):
    folder, new = (
        save(random_model(LLAMA), tmp_path / "model", max_shard_bytes=900),
        random_model(GPT2),
    )
    with pytest.raises(CheckpointError, match="overwrite=True"):
        save(new, folder)
    save(new, folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert_same(load(folder), new)


def test_files_that_are_no_model_are_never_removed(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(CheckpointError, match=r"thesis\.tex in it, which is no part of a model"):
        save(random_model(LLAMA), tmp_path, overwrite=True)
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        save(random_model(LLAMA), tmp_path, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="got a file"):
        save(random_model(LLAMA), tmp_path / "file", overwrite=True)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            lambda m: m.replace(config=m.config.replace(n_layers=3)),
            CheckpointError,
            r"expected shape \(3,",
        ),
        (lambda m: m.replace(params={}), CheckpointError, "got nothing"),
        (
            lambda m: m.replace(config=m.config.replace(tied=True)),
            CheckpointError,
            r"unembed/kernel: got shape .*; expected none",
        ),
        (
            lambda m: m.replace(params=jax.tree.map(lambda x: x.astype(jnp.int32), m.params)),
            CheckpointError,
            "int32; expected one of F32",
        ),
        (lambda m: m.replace(config=m.config.replace(scale_attn=False)), ConfigError, "scale_attn"),
    ],
    ids=["more layers", "no parameters", "one too many", "integers", "config"],
)
def test_a_model_that_cannot_be_written_is_refused_before_anything_is(
    tmp_path, change, error, words
):
    with pytest.raises(error, match=words):
        save(change(random_model(LLAMA)), tmp_path / "model")
    assert not list(tmp_path.iterdir())
