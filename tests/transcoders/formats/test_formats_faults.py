"""Folders that cannot be used, and places that cannot be written to: refused by name."""

import errno
import json
import pickle

import jax
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from hagd_jax.errors import CheckpointError, ConfigError, HagdError
from hagd_jax.models import DecoderConfig
from hagd_jax.parallel import make_mesh
from hagd_jax.transcoders import check_model, load, save
from hagd_jax.transcoders.formats import saving
from hagd_jax.transcoders.formats.loading import open_stored
from tests.models.test_saving import random_model
from tests.transcoders.formats import folders
from tests.transcoders.formats.folders import D, F, L, put_tensors
from tests.transcoders.test_replace import CASES, made

SIZES = {"vocab_size": 3, "n_heads": 1, "d_mlp": 2}


def put(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# Each writes a folder and damages it.


def _gap(at):
    folders.per_layer(at)
    (at / "layer_1.safetensors").unlink()


def _listed_and_missing(at):
    folders.per_layer(at, transcoders=[f"layer_{i}.safetensors" for i in (0, 3, 1, 4)])


def _outside(at):
    folders.per_layer(at, transcoders=["../layer_0.safetensors"])


def _no_list(at):
    folders.per_layer(at, transcoders="layer_0.safetensors")


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


def _activation(at):
    folders.per_layer(at, activation="gelu")


def _relu_with_thresholds(at):
    folders.per_layer(at, activation="relu", threshold=(F,))


def _jump_without(at):
    folders.per_layer(at, activation="jump_relu")


def _cross_jump_without(at):
    folders.cross_layer(at, activation="jump_relu")


def _k(at):
    folders.per_layer(at, activation="topk", k=F + 1)


def _no_k(at):
    folders.cross_layer(at, activation="topk")


def _window(at):
    folders.cross_layer(at, window=L)


def _kind(at):
    folders.per_layer(at, model_kind="crosscoder")


def _input(at):
    folders.per_layer(at, feature_input_hook="hook_resid_post")


def _output(at):
    folders.per_layer(at, feature_output_hook="hook_resid_post")


def _post_norm(at):
    folders.cross_layer(at, model_name="google/gemma-2-2b")


def _before_weights(at):
    folders.per_layer(at, feature_input_hook="ln2.hook_normalized")


def _not_yaml(at):
    folders.per_layer(at)
    (at / "config.yaml").write_text("model_kind: [")


def _a_list(at):
    folders.per_layer(at)
    (at / "config.yaml").write_text("- transcoder_set")


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
        (_gap, CheckpointError, r"got 2 layers, without 1; expected every layer from 0 to 2"),
        (_listed_and_missing, CheckpointError, r"no layer_3\.safetensors, layer_4\.safetensors;"),
        (_outside, CheckpointError, r"transcoders: got '\.\./layer_0\.safetensors'"),
        (_no_list, ConfigError, "transcoders: got 'layer_0.safetensors'; expected a list"),
        (_no_layers, CheckpointError, "no layer_0.safetensors"),
        (_cross_gap, CheckpointError, r"no W_enc_1\.safetensors, W_dec_2\.safetensors;"),
        (_cross_more, CheckpointError, "files of layer 3; expected 3 layers, as W_dec_0"),
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
        (
            _truncated,
            CheckpointError,
            r"W_dec_1\.safetensors: got 1,017 bytes of tensors; expected 1,024",
        ),
        (_activation, ConfigError, "activation: got 'gelu'; expected one of relu, jump_relu"),
        (_relu_with_thresholds, CheckpointError, "activation: got relu; expected jump_relu"),
        (_jump_without, CheckpointError, "layer 0: tensor activation_function.threshold: got none"),
        (_cross_jump_without, CheckpointError, "activation: got jump_relu; expected jump_relu if"),
        (_k, ConfigError, "k: got 17; expected at most n_features = 16"),
        (_no_k, ConfigError, "k: got 0; expected a whole number, 1 or more"),
        (_window, ConfigError, "window: got 3; expected 0 to 2 in a model of 3 layers"),
        (_kind, ConfigError, "model_kind: got 'crosscoder'; expected 'transcoder_set' or 'cross"),
        (
            _input,
            ConfigError,
            "feature_input_hook: got 'hook_resid_post'; expected one of mlp.hook",
        ),
        (_output, ConfigError, "feature_output_hook: got 'hook_resid_post'"),
        (_post_norm, ConfigError, "'hook_mlp_out' of 'google/gemma-2-2b', which is after a norm"),
        (_before_weights, ConfigError, "ln2.hook_normalized; expected to know the model. Pass mod"),
        (_not_yaml, CheckpointError, r"config\.yaml: got .*parsing"),
        (
            _a_list,
            CheckpointError,
            r"config\.yaml: got list \['transcoder_set'\]; expected a YAML mapping",
        ),
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
            "skip_transcoder of d_in 8 that reads mlp_in; expected tr",
        ),
        (_widths, ConfigError, "d_out: got 9; expected d_in = 8"),
        (_d_sae, CheckpointError, "d_sae 17; expected d_in 8 and d_sae 16"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path, damage, kind, words):
    damage(tmp_path / "tc")
    with pytest.raises(HagdError, match=words) as caught:
        load(tmp_path / "tc")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 99) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
OPTIONS = {
    "per_layer": ["model_kind", "feature_input_hook", "feature_output_hook", "model_name", "k",
                  "transcoders", "activation", "predict", "scan"],
    "cross_layer": ["model_kind", "window", "activation", "k", "feature_input_hook"],
    "sparsify": ["activation", "k", "num_latents", "expansion_factor", "skip_connection",
                 "transcode", "d_in", "signed", "multi_topk"],
    "saelens": ["architecture", "d_in", "d_sae", "d_out", "normalize_activations", "metadata",
                "apply_b_dec_to_input", "reshape_activations", "hook_name", "model_name"],
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good folder of each kind."""
    root = tmp_path_factory.mktemp("whole")
    for kind in OPTIONS:
        getattr(folders, kind)(root / kind)
    return root


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_a_configuration_says_it_is_used_or_refused(whole, data):
    kind = data.draw(st.sampled_from(sorted(OPTIONS)))
    option, value = data.draw(st.sampled_from(OPTIONS[kind])), data.draw(VALUES)
    files = sorted(whole.glob(f"{kind}/config.yaml")) + sorted(whole.glob(f"{kind}/*/cfg.json"))
    before = {file: file.read_text() for file in files}
    try:
        for file, text in before.items():
            # JSON is YAML.
            file.write_text(json.dumps(yaml.safe_load(text) | {option: value}))
        stored = open_stored(whole / kind)
        assert stored.config.d_model == D
    except HagdError as error:
        assert str(error)  # noqa: PT017 (a refusal is as good as a success)
    finally:
        for file, text in before.items():
            file.write_text(text)


def test_not_finite_weights_can_be_asked_for(tmp_path):
    _nan(tmp_path / "tc")
    found = load(tmp_path / "tc", check_finite=False).params["b_enc"]
    np.testing.assert_array_equal(np.isnan(found), np.arange(L)[:, None] == np.full(F, 1))


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
