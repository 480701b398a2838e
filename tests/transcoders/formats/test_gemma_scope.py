"""Gemma Scope's folders, one and two: what is read computes what Google's code computes."""

import json
import logging

import numpy as np
import pytest

from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.files import npz_entries, read_npz_rows
from hagd_jax.models import DecoderConfig, forward
from hagd_jax.transcoders import encode, errors, load, replace_mlps, save
from tests.models.test_saving import random_model
from tests.transcoders.formats import folders
from tests.transcoders.formats.folders import D, F, L
from tests.transcoders.formats.test_formats import X, assert_close, computed

SIZES = {"n_layers": L, "d_model": D, "vocab_size": 11, "n_heads": 2, "d_mlp": 12}
LLAMA = {"norm": "rms", "activation": "silu", "gated_mlp": True, "attn_out_bias": False}
GEMMA = LLAMA | {"norm_placement": "both", "norm_offset": True, "mlp_bias": False}


def gemma():
    return random_model(DecoderConfig(**SIZES, **GEMMA))


def jump_relu(x, tensors, names):
    """As `JumpReLUSAE.encode` of Gemma Scope's tutorial: relu(x) where x is above the threshold."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}
    pre = x.astype(np.float64) @ t[names[0]] + t["b_enc"]
    return np.maximum(pre, 0) * (pre > t["threshold"]), t


def in_float64(stored, x, w_dec="W_dec"):
    features, outputs = [], []
    for tensors, own in zip(stored, x, strict=True):
        found, t = jump_relu(own, tensors, (w_dec.replace("dec", "enc"),))
        skip = own @ t["affine_skip_connection"] if "affine_skip_connection" in t else 0
        features.append(found)
        outputs.append(found @ t[w_dec] + t["b_dec"] + skip)
    return np.stack(features), np.stack(outputs)


def across_in_float64(stored, x):
    """As `JumpReLUMultiLayerSAE` of the second tutorial, of which only l → l' ≥ l has a meaning."""
    pairs = [jump_relu(o, s, ("w_enc",)) for o, s in zip(x, stored, strict=True)]
    found, t = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    outputs = []
    for to in range(L):
        written = sum(found[by] @ t[by]["w_dec"][:, to] for by in range(to + 1))
        skip = x[to] @ t[to]["affine_skip_connection"] if len(t[to]) > 5 else 0
        outputs.append(written + t[to]["b_dec"] + skip)
    return np.stack(found), np.stack(outputs)


def test_gemma_scope_reads_before_the_weights_of_the_norm(tmp_path):
    """In Gemma the norm multiplies by 1 + its weight."""
    stored = folders.gemma_scope(tmp_path / "gemma-scope-2b-pt-transcoders")
    model = gemma()
    transcoder = load(tmp_path / "gemma-scope-2b-pt-transcoders", model=model)
    c = transcoder.config
    assert (c.activation, c.reads, c.writes, c.window) == ("jump_relu", "mlp_in", "mlp_out", 0)
    weights = 1 + np.asarray(model.params["blocks"]["norm2"]["scale"], np.float64)[:, None]
    assert np.std(weights) > 0.2
    got = computed(transcoder, (X * weights).astype(np.float32))
    want = in_float64(stored, X)
    assert 0.1 < (want[0] > 0).mean() < 0.9
    assert_close(got, want)


def test_the_sites_are_those_of_the_forward_pass(tmp_path):
    """From a pass of the model: x̂ = the stream over its norm, and what the block adds."""
    stored = folders.gemma_scope(tmp_path / "transcoders")
    model = gemma()
    transcoder = load(tmp_path / "transcoders", model=model)
    sites = ("mlp_in", "resid_mid", "norm2_scale", "mlp_out", "resid_post")
    trace = forward(model, [[1, 2, 3, 4]], capture=sites).trace
    unweighted = np.asarray(trace["resid_mid"] / trace["norm2_scale"], np.float64)[:, 0]
    features, outputs = in_float64(stored, unweighted)
    np.testing.assert_allclose(encode(transcoder, trace["mlp_in"])[:, 0], features, atol=2e-5)
    added = np.asarray(trace["resid_post"] - trace["resid_mid"], np.float64)[:, 0]
    assert np.abs(features).max() > 0.5
    assert np.abs(added).max() > 0.1
    np.testing.assert_allclose(errors(transcoder, trace)[:, 0], added - outputs, atol=2e-5)
    # With its errors beside it, the reconstruction is the model.
    held = replace_mlps(transcoder, error=errors(transcoder, trace))
    again = forward(model, [[1, 2, 3, 4]], held).logits
    np.testing.assert_allclose(again, forward(model, [[1, 2, 3, 4]]).logits, atol=1e-4)


@pytest.mark.parametrize("affine", [False, True])
def test_gemma_scope_2(tmp_path, affine):
    stored = folders.gemma_scope_2(tmp_path / "transcoder_all", affine=affine)
    transcoder = load(tmp_path / "transcoder_all", model=gemma())
    c = transcoder.config
    assert (c.activation, c.reads, c.writes, c.skip) == ("jump_relu", "mlp_in", "mlp_out", affine)
    assert_close(computed(transcoder), in_float64(stored, X, "w_dec"))


@pytest.mark.parametrize("affine", [False, True])
def test_gemma_scope_2_across_layers(tmp_path, affine):
    stored = folders.gemma_scope_2_clt(tmp_path / "clt", affine=affine)
    transcoder = load(tmp_path / "clt", model=gemma())
    assert (transcoder.config.window, transcoder.config.writes) == (L - 1, "mlp_out")
    assert_close(computed(transcoder), across_in_float64(stored, X))
    # What is saved in our own format is the same again.
    again = load(save(transcoder, tmp_path / "saved"))
    assert again.config == transcoder.config
    assert_close(computed(again), computed(transcoder))


@pytest.mark.parametrize("kind", ["first", "second", "across"])
def test_circuit_tracer_s_list_of_files(tmp_path, kind):
    """As mwhanna/gemma-scope-transcoders and mwhanna/gemma-scope-2-* list them."""
    folder = tmp_path / "list"
    if kind == "first":
        stored = folders.gemma_scope(folder)
        files = sorted(folder.glob("**/*.npz"))
        values = {"feature_input_hook": "ln2.hook_normalized"}
    elif kind == "second":
        stored = folders.gemma_scope_2(folder)
        files = sorted(folder.glob("**/*.safetensors"))
        values = {"feature_input_hook": "mlp.hook_in"}
    else:
        stored = folders.gemma_scope_2_clt(folder)
        files = sorted(folder.glob("**/*.safetensors"))
        # Its loader leaves out the last one.
        files.append(files[-1])
        values = {"feature_input_hook": "mlp.hook_in", "model_kind": "cross_layer_transcoder"}
    names = [str(file.relative_to(folder)) for file in files]
    values |= {"feature_output_hook": "hook_mlp_out", "transcoders": names}
    folders.config_yaml(folder, **values)
    model = gemma()
    transcoder = load(folder, model=model)
    x = X
    if kind == "first":
        weights = 1 + np.asarray(model.params["blocks"]["norm2"]["scale"])[:, None]
        x = X * weights
    want = across_in_float64(stored, X) if kind == "across" else in_float64(
        stored, X, "W_dec" if kind == "first" else "w_dec"
    )  # fmt: skip
    assert_close(computed(transcoder, x), want)


@pytest.mark.parametrize("save_as", ["compressed", "columns"])
def test_archives_without_rows_are_read_whole(tmp_path, save_as):
    def columns(place, **tensors):
        np.savez(place, **{name: np.asfortranarray(value) for name, value in tensors.items()})

    save_npz = np.savez_compressed if save_as == "compressed" else columns
    stored = folders.gemma_scope(tmp_path / "transcoders", save=save_npz)
    file = next((tmp_path / "transcoders").glob("layer_0/**/params.npz"))
    entry = npz_entries(file)["W_dec"]
    assert not entry.sliced
    np.testing.assert_array_equal(
        read_npz_rows(entry, [(1, 3), (7, 8)]), stored[0]["W_dec"][[1, 2, 7]]
    )
    model = gemma()
    weights = 1 + np.asarray(model.params["blocks"]["norm2"]["scale"])[:, None]
    got = computed(load(tmp_path / "transcoders", model=model), X * weights)
    assert_close(got, in_float64(stored, X))


def put_json(file, values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"type": "sae"}, "type: got 'sae'; expected 'transcoder'"),
        ({"type": "crosscoder"}, "type: got 'crosscoder'"),
        ({"architecture": "topk"}, "architecture: got 'topk'; expected 'jump_relu'"),
        ({"bandwidth": 2}, "bandwidth: got 2; expected no such field"),
        ({"affine_connection": None}, "affine_connection: got None"),
        ({"hf_hook_point_in": "model.layers.1.output"}, "expected one of pre_feedforward"),
        ({"hf_hook_point_in": "model.layers.1.pre_feedforward_layernorm.output"}, "one and the"),
        ({"hf_hook_point_out": "model.layers.0.output"}, "expected one of post_feedforward"),
        ({"width": 99}, "16 features; expected 99"),
        ({"affine_connection": False}, "affine_skip_connection: got it; expected what the"),
        ({"width": "wide"}, "width"),
    ],
    ids=str,
)
def test_an_option_that_is_not_known_is_refused_by_name(tmp_path, values, words):
    folders.gemma_scope_2(tmp_path / "tc")
    first, *rest = sorted((tmp_path / "tc").glob("*/config.json"))
    for file in [first] if any(name.startswith("hf_") for name in values) else [first, *rest]:
        put_json(file, values)
    with pytest.raises((CheckpointError, ConfigError), match=words):
        load(tmp_path / "tc")


def test_layers_that_differ_and_sets_that_are_several_are_refused(tmp_path):
    folders.gemma_scope_2(tmp_path / "tc")
    last = sorted((tmp_path / "tc").glob("*/config.json"))[-1]
    put_json(last, {"model_name": "n"})
    with pytest.raises(ConfigError, match=r"layer_2.*expected 16 features.*as in layer_0"):
        load(tmp_path / "tc")
    put_json(last, {"model_name": "m"})
    folders.gemma_scope_2(tmp_path / "tc", affine=False)
    with pytest.raises(CheckpointError, match=r"one of each layer.*config.yaml"):
        load(tmp_path / "tc")
    folders.gemma_scope(tmp_path / "transcoders")
    folders.gemma_scope(
        tmp_path / "transcoders", layers=1, file="width_16k/average_l0_5/params.npz"
    )
    with pytest.raises(CheckpointError, match="average_l0_5 and layer_0/width_16k/average_l0_70"):
        load(tmp_path / "transcoders", model=gemma())


def test_files_that_may_be_autoencoders_are_refused(tmp_path):
    folders.gemma_scope(tmp_path / "gemma-scope-2b-pt-mlp")
    with pytest.raises(ConfigError, match="autoencoders have the same files"):
        load(tmp_path / "gemma-scope-2b-pt-mlp", model=gemma())
    with pytest.raises(ConfigError, match="repository of many dictionaries"):
        load("google/gemma-scope-2b-pt-transcoders")


def test_damaged_archives_are_refused(tmp_path):
    folders.gemma_scope(tmp_path / "transcoders")
    file = next((tmp_path / "transcoders").glob("layer_1/**/params.npz"))
    whole = file.read_bytes()
    for broken in (whole[:-30], whole[: len(whole) // 2], b"PK", b""):
        file.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"params\.npz"):
            load(tmp_path / "transcoders", model=gemma())
    file.write_bytes(whole)
    entry = npz_entries(file)["W_dec"]
    file.write_bytes(whole[: entry.start + 10])
    with pytest.raises(CheckpointError, match="ends before its arrays"):
        read_npz_rows(entry, [(3, 5)])
    np.savez(file, **dict(np.load(_again(file, whole))) | {"threshold": np.arange(F)})
    with pytest.raises(CheckpointError, match="dtype 'int64'"):
        load(tmp_path / "transcoders", model=gemma())


def _again(file, whole):
    file.write_bytes(whole)
    return file


def test_what_is_reconstructed_before_a_norm_acts_before_it(tmp_path):
    """EleutherAI's reconstruct what the MLP module puts out, and so does `mlp.hook_out`."""
    folders.sparsify(tmp_path / "sparsify")
    folders.per_layer(tmp_path / "circuit-tracer")
    plain = random_model(DecoderConfig(**SIZES, **LLAMA))
    for name in ("sparsify", "circuit-tracer"):
        assert load(tmp_path / name, model=plain).config.writes == "mlp_out_raw"
        transcoder, model = load(tmp_path / name, model=gemma()), gemma()
        sites = (transcoder.config.reads, "mlp_out_raw")
        clean = forward(model, [[1, 2]], capture=sites)
        held = replace_mlps(transcoder, error=errors(transcoder, clean.trace))
        np.testing.assert_allclose(
            forward(model, [[1, 2]], held).logits,
            clean.logits,
            atol=1e-4 * np.abs(clean.logits).max(),
        )


def test_modules_of_hugging_face_say_more_than_the_names_of_hooks(tmp_path):
    """SAELens calls Gemma Scope 2's input hook_mlp_in, which is before the norm elsewhere."""
    norm = "model.layers.0.{}_feedforward_layernorm.output"
    folders.saelens(
        tmp_path / "tc", layers=1, hook="hook_mlp_in",
        hf_hook_name=norm.format("pre"), hf_hook_name_out=norm.format("post"),
    )  # fmt: skip
    c = load(tmp_path / "tc").config
    assert (c.reads, c.writes) == ("mlp_in", "mlp_out")
    folders.saelens(tmp_path / "other", layers=1, hook="hook_mlp_in", hf_hook_name="model.norm")
    with pytest.raises(ConfigError, match=r"hook_name: got 'model\.norm'"):
        load(tmp_path / "other")


def test_another_model_s_name_is_warned_of(tmp_path, caplog):
    folders.per_layer(tmp_path / "tc", model_name="google/gemma-2-2b")
    model = random_model(DecoderConfig(**SIZES, **LLAMA))
    for name, warned in [("Qwen/Qwen3-4B", True), ("gemma-2-2b-it", False), ("", False)]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "hagd_jax"):
            load(tmp_path / "tc", model=model.replace(name=name))
        assert ("'google/gemma-2-2b'" in caplog.text) == warned
