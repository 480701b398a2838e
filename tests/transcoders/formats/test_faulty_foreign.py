"""Folders of sparsify and SAELens that hold something else than a transcoder of every layer."""

import json

import pytest

from hagd_jax.errors import CheckpointError, ConfigError
from tests.transcoders.formats import folders
from tests.transcoders.formats.faults import assert_refused, damage_name
from tests.transcoders.formats.folders import D, F

# Each writes a folder and damages it.


def put(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _groupmax(at):
    folders.sparsify(at, activation="groupmax")


def _autoencoder(at):
    folders.sparsify(at, transcode=False)


def _old_autoencoder(at):
    folders.sparsify(at, transcode="absent", skip_connection=False)


def _embed_skip(at):
    folders.sparsify(at, embed_skip=True)


def _sparsify_gap(at):
    folders.sparsify(at)
    for layer in (0, 1):
        (at / f"model.layers.{layer}.mlp").rename(at / f"elsewhere {layer}")
        for file in (at / f"elsewhere {layer}").iterdir():
            file.unlink()


def _hookpoint(at):
    folders.sparsify(at)
    (at / "model.layers.1.mlp").rename(at / "model.layers.1")


def _twice(at):
    folders.sparsify(at)
    folders.sparsify(at, prefix="")


def _one_mlp(at):
    folders.sparsify(at.with_name("all"), layers=1)
    (at.with_name("all") / "model.layers.0.mlp").rename(at)


def _other_k(at):
    folders.sparsify(at)
    put(at / "model.layers.2.mlp" / "cfg.json", k=7)


def _latents(at):
    folders.sparsify(at, num_latents=F + 2)


def _no_weights(at):
    folders.sparsify(at)
    (at / "model.layers.1.mlp" / "sae.safetensors").unlink()


def _standard(at):
    folders.saelens(at, architecture="standard")


def _normalised(at):
    folders.saelens(at, normalize_activations="layer_norm")


def _centred(at):
    folders.saelens(at, apply_b_dec_to_input=True)


def _processed(at):
    folders.saelens(at, metadata={"model_from_pretrained_kwargs": {"fold_ln": True}})


def _two_blocks(at):
    folders.saelens(at, layers=1, metadata={"hook_name_out": "blocks.1.hook_mlp_out"})


def _no_hook(at):
    folders.saelens(at, metadata={"hook_name": None})


def _same_layer(at):
    folders.saelens(at, metadata={"hook_name": "blocks.1.hook_resid_mid",
                                  "hook_name_out": "blocks.1.hook_mlp_out"})  # fmt: skip


def _later_layer(at):
    folders.saelens(at, layers=1, metadata={"hook_name": "blocks.2.hook_resid_mid",
                                            "hook_name_out": "blocks.2.hook_mlp_out"})  # fmt: skip


def _two_architectures(at):
    folders.saelens(at)
    put(at / "layer 1" / "cfg.json", architecture="skip_transcoder")


def _widths(at):
    folders.saelens(at, d_out=D + 1)


def _d_sae(at):
    folders.saelens(at, d_sae=F + 1)


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (_groupmax, ConfigError, "activation: got 'groupmax'; expected 'topk'"),
        (_autoencoder, ConfigError, "transcode: got False; .* autoencoder"),
        (_old_autoencoder, ConfigError, "transcode: got None; .* autoencoder"),
        (
            _embed_skip,
            ConfigError,
            "embed_skip: got True; expected False or None",
        ),
        (_sparsify_gap, CheckpointError, "1 layers, without 0, 1"),
        (_hookpoint, ConfigError, r"place: got model\.layers\.1; expected MLPs"),
        (_twice, CheckpointError, r"got layers\.0\.mlp and model\.layers\.0\.mlp"),
        (_one_mlp, ConfigError, "no folder of an MLP; .* Pass a folder that holds"),
        (
            _other_k,
            ConfigError,
            r"layers\.2\.mlp/cfg\.json: k: got 7; expected 4, as in .*layers\.0",
        ),
        (
            _latents,
            CheckpointError,
            "d_in 8, num_latents 18, expansion_factor 2; expected d_in 8 and 16",
        ),
        (_no_weights, CheckpointError, r"tc: got no model\.layers\.1\.mlp/sae\.safetensors;"),
        (_standard, ConfigError, "architecture: got 'standard'; expected one of transcoder, skip"),
        (
            _normalised,
            ConfigError,
            "normalize_activations: got 'layer_norm'; expected 'none'. Fold",
        ),
        (_centred, ConfigError, "apply_b_dec_to_input: got True"),
        (_processed, ConfigError, "model_from_pretrained_kwargs: fold_ln: got True"),
        (_two_blocks, ConfigError, "hooks of one and the same block"),
        (_no_hook, ConfigError, "hook_name: got None"),
        (_same_layer, CheckpointError, "layer 0 and layer 1, both of layer 1; expected one folder"),
        (_later_layer, CheckpointError, "1 layers, without 0, 1; expected every layer from 0 to 2"),
        (
            _two_architectures,
            ConfigError,
            "skip_transcoder of d_in 8 from mlp_in to mlp_out; expected tr",
        ),
        (_widths, ConfigError, "d_out: got 9; expected d_in = 8"),
        (_d_sae, CheckpointError, "d_sae 17; expected d_in 8 and d_sae 16"),
    ],
    ids=damage_name,
)
def test_it_is_refused_by_name(tmp_path, damage, kind, words):
    assert_refused(tmp_path / "tc", damage, kind, words)
