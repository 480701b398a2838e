"""Folders of circuit-tracer and SAELens whose tensors are missing, misshapen or no numbers."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from hagd_jax.errors import CheckpointError
from hagd_jax.transcoders import load
from tests.transcoders.formats import folders
from tests.transcoders.formats.faults import assert_refused, damage_name
from tests.transcoders.formats.folders import D, F, L, put_tensors

# Each writes a folder and damages it.


def _shape(at):
    folders.per_layer(at)
    put_tensors(at / "layer_2.safetensors", W_dec=np.ones((F, D + 1), np.float32))


def _cross_shape(at):
    folders.cross_layer(at)
    put_tensors(at / "W_dec_1.safetensors", W_dec_1=np.ones((F, 3, D), np.float32))


def _threshold_shape(at):
    folders.per_layer(at, threshold=(F,))
    put_tensors(
        at / "layer_1.safetensors", **{"activation_function.threshold": np.ones(3, np.float32)}
    )


def _turned(at):
    folders.saelens(at)
    put_tensors(at / "layer 0" / "sae_weights.safetensors", W_enc=np.ones((F, D), np.float32))


def _flat(at):
    folders.per_layer(at)
    put_tensors(at / "layer_0.safetensors", W_enc=np.ones(F * D, np.float32))


def _tensor_missing(at):
    folders.per_layer(at)
    put_tensors(at / "layer_1.safetensors", b_enc=None)


def _tensor_too_many(at):
    folders.per_layer(at)
    put_tensors(at / "layer_1.safetensors", log_thresholds=np.ones(F, np.float32))


def _nan(at):
    folders.per_layer(at)
    put_tensors(at / "layer_1.safetensors", b_enc=np.full(F, np.nan, np.float32))


def _cross_nan(at):
    folders.cross_layer(at)
    decoder = load_file(at / "W_dec_0.safetensors")["W_dec_0"]
    decoder[3, 2, 1] = np.inf
    put_tensors(at / "W_dec_0.safetensors", W_dec_0=decoder)


def _integers(at):
    folders.per_layer(at)
    put_tensors(at / "layer_1.safetensors", b_enc=np.ones(F, np.int8))


def _truncated(at):
    folders.cross_layer(at)
    file = at / "W_dec_1.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def _relu_with_thresholds(at):
    folders.per_layer(at, activation="relu", threshold=(F,))


def _jump_without(at):
    folders.per_layer(at, activation="jump_relu")


def _cross_jump_without(at):
    folders.cross_layer(at, activation="jump_relu")


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (_shape, CheckpointError, r"layer_2\S* \(W_dec\): got shape \(16, 9\); .*\(16, 8\)"),
        (_cross_shape, CheckpointError, r"W_dec_1: got shape \(16, 3, 8\); expected \(16, 2, 8\)"),
        (
            _threshold_shape,
            CheckpointError,
            r"layer_1.*threshold\): got shape \(3,\); expected \(16,",
        ),
        (_turned, CheckpointError, r"d_in 8 and d_sae 16; expected d_in 16 and d_sae 8, by W_enc"),
        (_flat, CheckpointError, r"W_enc: got shape \(128,\); expected 2 dimensions"),
        (_tensor_missing, CheckpointError, r"layer 1: tensor b_enc: got none in .*layer_1\.safe"),
        (_tensor_too_many, CheckpointError, r"layer_1\.safetensors: tensor log_thresholds: got 1"),
        (_nan, CheckpointError, r"layer_1\.safetensors \(b_enc\): .*got 16 NaN"),
        (_cross_nan, CheckpointError, r"W_dec_0\.safetensors \(W_dec_0\[:, 2\]\): .*got 1 NaN"),
        (_integers, CheckpointError, "tensor b_enc: got dtype I8"),
        (_truncated, CheckpointError, r"W_dec_1\.safetensors: got .*not fully covered"),
        (_relu_with_thresholds, CheckpointError, "activation: got relu; expected jump_relu"),
        (_jump_without, CheckpointError, "layer 0: tensor activation_function.threshold: got none"),
        (_cross_jump_without, CheckpointError, "activation: got jump_relu; expected jump_relu if"),
    ],
    ids=damage_name,
)
def test_it_is_refused_by_name(tmp_path, damage, kind, words):
    assert_refused(tmp_path / "tc", damage, kind, words)


def test_not_finite_weights_can_be_asked_for(tmp_path):
    _nan(tmp_path / "tc")
    found = load(tmp_path / "tc", check_finite=False).params["b_enc"]
    np.testing.assert_array_equal(np.isnan(found), np.arange(L)[:, None] == np.full(F, 1))
