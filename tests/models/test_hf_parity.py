"""Every folder that `transformers` wrote gives the logits and hidden states it gave there."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from hagd_jax import models
from hagd_jax.parallel import make_mesh

FOLDERS = sorted(
    path.parent for path in pathlib.Path(__file__).parent.glob("goldens/hf/*/config.json")
)
TOLERANCE = 1e-4
# Masks and frequencies that published checkpoints carry and nothing reads.
BUFFERS = (".attn.bias", ".attention.bias", ".masked_bias", ".inv_freq")


def hidden_states(trace):
    """What `transformers` calls hidden states: embedding, each block's output, the last normed."""
    return np.stack([trace["embed"], *np.asarray(trace["resid_post"])[:-1], trace["normed_final"]])


def test_the_goldens_are_there():
    assert len(FOLDERS) == 60
    assert sum(path.stat().st_size for folder in FOLDERS for path in folder.iterdir()) < 3e6


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_logits_and_hidden_states_equal_those_of_transformers(folder):
    model = models.load(folder, dtype=jnp.float32)
    with np.load(folder / "expected.npz") as expected:
        out = models.forward(
            model, expected["tokens"], capture=("embed", "resid_post", "normed_final")
        )
        states = hidden_states(out.trace)
        assert out.logits.dtype == states.dtype == np.float32
        # Random weights spread the values; a model of zeros must not pass.
        assert expected["logits"].std() > 0.1
        assert all(state.std() > 0.1 for state in expected["hidden_states"])
        np.testing.assert_allclose(out.logits, expected["logits"], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(states, expected["hidden_states"], rtol=0, atol=TOLERANCE)


# Experts in one tensor, as transformers 5 computes with them; saved in the published form.
FUSED = {"v5_qwen3_moe_fused", "v5_mixtral_fused"}


@pytest.mark.parametrize(
    "folder", [f for f in FOLDERS if f.name not in FUSED], ids=lambda folder: folder.name
)
def test_saving_writes_the_tensors_that_transformers_wrote(folder, tmp_path):
    models.save(models.load(folder), tmp_path / "copy")
    ours, theirs = tensors(tmp_path / "copy"), tensors(folder)
    buffers = {name for name in theirs if name.endswith(BUFFERS)}
    assert (folder.name in {"gpt2_hub", "neox_hub"}) == bool(buffers)
    assert set(ours) == set(theirs) - buffers
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.mark.parametrize("name", ["phi3_short", "v5_gemma2", "olmo2", "qwen3_window"])
def test_a_mesh_reads_the_same_parameters(name):
    """Each device reads its own slice, also of tensors that hold several parameters."""
    folder = next(folder for folder in FOLDERS if folder.name == name)
    one, many = models.load(folder), models.load(folder, mesh=make_mesh("data=4,model=2"))
    split = 0
    for ours, theirs in zip(*map(jax.tree.leaves, (many.params, one.params)), strict=True):
        split += ours.addressable_shards[0].data.shape != ours.shape
        np.testing.assert_array_equal(ours, theirs)
    assert split > 5


def tensors(folder):
    """Name, without the prefix that published GPT-2 files lack → array, of all shards."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            found |= {n.removeprefix("transformer."): file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    return found
