"""Transcoders for another model, hubs out of reach, and places that cannot be written to."""

import errno

import jax
import numpy as np
import pytest

from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.models import DecoderConfig
from hagd_jax.parallel import make_mesh
from hagd_jax.transcoders import check_model, load, save
from hagd_jax.transcoders.formats import saving
from tests.models.test_saving import random_model
from tests.transcoders.formats import folders
from tests.transcoders.formats.folders import D, L
from tests.transcoders.test_replace import CASES, made

SIZES = {"vocab_size": 3, "n_heads": 1, "d_mlp": 2}


@pytest.mark.parametrize(
    ("n_layers", "d_model", "words"),
    [
        (L + 1, D, "got 3 layers and d_model 8; expected 4 layers and d_model 8, as unnamed has"),
        (L, 2 * D, "got 3 layers and d_model 8; expected 3 layers and d_model 16, as unnamed"),
    ],
)
def test_a_transcoder_for_another_model_is_refused(tmp_path, n_layers, d_model, words):
    folders.per_layer(tmp_path / "tc")
    other = random_model(DecoderConfig(n_layers=n_layers, d_model=d_model, **SIZES))
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / "tc", model=other)
    with pytest.raises(CheckpointError, match=f"transcoder tc: {words}"):
        check_model(load(tmp_path / "tc"), other)
    check_model(load(tmp_path / "tc"), random_model(DecoderConfig(n_layers=L, d_model=D, **SIZES)))


def test_a_norm_with_a_weight_of_zero_is_refused(tmp_path):
    folders.per_layer(tmp_path / "tc", feature_input_hook="ln2.hook_normalized")
    model = random_model(DecoderConfig(n_layers=L, d_model=D, norm="rms", **SIZES))
    scale = model.params["blocks"]["norm2"]["scale"]
    model.params["blocks"]["norm2"]["scale"] = scale.at[1, 2].set(0)
    with pytest.raises(ConfigError, match="zeros among its weights"):
        load(tmp_path / "tc", model=model)


def test_the_model_s_mesh_is_taken(tmp_path):
    folders.per_layer(tmp_path / "tc")
    mesh = make_mesh("model=2", devices=jax.devices()[:2])
    model = random_model(DecoderConfig(n_layers=L, d_model=D, **SIZES)).replace(mesh=mesh)
    assert load(tmp_path / "tc", model=model).mesh is mesh


@pytest.mark.parametrize("name", ["no such/id here", "two words", "single"])
def test_names_that_lead_nowhere(name):
    with pytest.raises(ConfigError, match="expected a folder or a hub id"):
        load(name)


def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route\nto host")

    for name in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", unreachable)
    with pytest.raises(
        CheckpointError, match=r"hub repository a/b: got OSError: no route; .*hf dow"
    ):
        load("a/b/c")
    folders.per_layer(tmp_path / "tc", transcoders=["hf://a/b/c"])
    with pytest.raises(CheckpointError, match="hub repository a/b: got OSError"):
        load(tmp_path / "tc")
    folders.config_yaml(tmp_path / "tc", transcoders=["hf://a/b"])
    with pytest.raises(CheckpointError, match="expected hf://owner/name/path"):
        load(tmp_path / "tc")


@pytest.mark.parametrize("fails", ["W_enc_2", "prediction", "config"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, fails):
    transcoder = made(CASES["window"].replace(predict=True))
    write = saving.write_safetensors

    def full(path, tensors):
        if path.name.startswith(fails):
            path.write_bytes(b"part")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, tensors)

    def full_text(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    first = save(made(CASES["layers"]), tmp_path / "old")
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    monkeypatch.setattr(saving, "write_safetensors", full)
    if fails == "config":
        monkeypatch.setattr(saving.circuit_tracer, "config_text", full_text)
    for folder in (tmp_path / "new", first):
        with pytest.raises(
            CheckpointError, match=r"No space left on device; .* Nothing was changed"
        ):
            save(transcoder, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    monkeypatch.undo()
    assert load(save(transcoder, first)).config == transcoder.config
    assert not (first / "layer_0.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_only_a_transcoder_is_replaced(tmp_path):
    transcoder = made(CASES["layers"])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "config.yaml").write_text("a: 1")
    mixed = save(transcoder, tmp_path / "mixed")
    (mixed / "notes.txt").write_text("mine")
    for name, words in [
        ("notes", r"a\.txt in it, and no config\.yaml of a transcoder"),
        ("file", "got a file; expected a folder or nothing"),
        ("yaml", r"config\.yaml in it, and no config"),
        ("mixed", r"notes\.txt in it, which is no part of a transcoder"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            save(transcoder, tmp_path / name)
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"
    assert (mixed / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mixed", "notes", "yaml"]
    (tmp_path / "empty").mkdir()
    save(transcoder, tmp_path / "empty")


def test_parameters_that_cannot_be_written_are_refused(tmp_path):
    good = made(CASES["layers"])
    for params, words in [
        (
            {"W_enc": good.params["W_enc"][:2]},
            r"W_enc: got shape \(2, 24, 16\); expected shape \(4,",
        ),
        ({"b_dec": None}, "b_dec: got nothing"),
        ({"b_dec": np.ones((4, 16), np.int32)}, "b_dec: got int32; expected one of F32"),
    ]:
        with pytest.raises(CheckpointError, match=f"parameter {words}"):
            save(good.replace(params=good.params | params), tmp_path / "tc")
    assert not any(tmp_path.iterdir())
