"""Folders of circuit-tracer that lack files, or are none."""

import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from hagd_jax.errors import CheckpointError
from tests.transcoders.formats import folders
from tests.transcoders.formats.faults import assert_refused, damage_name

# Each writes a folder and damages it.


def _gap(at):
    folders.per_layer(at)
    (at / "layer_1.safetensors").unlink()


def _listed_and_missing(at):
    folders.per_layer(at, transcoders=[f"layer_{i}.safetensors" for i in (0, 3, 1, 4)])


def _no_layers(at):
    at.mkdir()
    folders.config_yaml(at)


def _cross_gap(at):
    folders.cross_layer(at)
    (at / "W_enc_1.safetensors").unlink()
    (at / "W_dec_2.safetensors").unlink()


def _cross_more(at):
    folders.cross_layer(at)
    save_file({"W_enc_3": np.ones(3, np.float32)}, at / "W_enc_3.safetensors")


def _no_config(at):
    folders.per_layer(at)
    (at / "config.yaml").unlink()


def _prediction(at):
    folders.per_layer(at, predict=True)


def _pickle(at):
    (at / "layers.0.mlp").mkdir(parents=True)
    (at / "layers.0.mlp" / "sae.pt").write_bytes(pickle.dumps(0))


def _empty(at):
    at.mkdir()


def _file(at):
    at.write_bytes(b"")


def _absent(at):
    pass


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (_gap, CheckpointError, r"got 2 layers, without 1; expected every layer from 0 to 2"),
        (_listed_and_missing, CheckpointError, r"no layer_3\.safetensors, layer_4\.safetensors;"),
        (_no_layers, CheckpointError, "no layer_0.safetensors"),
        (_cross_gap, CheckpointError, r"no W_enc_1\.safetensors, W_dec_2\.safetensors;"),
        (_cross_more, CheckpointError, "files of layer 3; expected 3 layers, as W_dec_0"),
        (
            _no_config,
            CheckpointError,
            r"got layer_0\.safetensors, .*; expected circuit-tracer's con",
        ),
        (_prediction, CheckpointError, r"no prediction\.safetensors"),
        (_pickle, CheckpointError, r"sae\.pt: got a pickle; .*save_file"),
        (_empty, CheckpointError, "got nothing; expected circuit-tracer's config.yaml"),
        (_file, CheckpointError, "got a file; expected a folder"),
        (_absent, CheckpointError, "got no such folder"),
    ],
    ids=damage_name,
)
def test_it_is_refused_by_name(tmp_path, damage, kind, words):
    assert_refused(tmp_path / "tc", damage, kind, words)
