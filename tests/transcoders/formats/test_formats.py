"""Public folders: what is read computes what their authors' code computes."""

import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hagd_jax.errors import MeshError
from hagd_jax.models import DecoderConfig
from hagd_jax.models.safetensors_source import SafetensorsSource
from hagd_jax.parallel import make_mesh
from hagd_jax.transcoders import Transcoder, decode, encode, load, param_specs, save
from hagd_jax.transcoders.formats import cross_layer, hub
from tests.models.test_saving import random_model
from tests.transcoders.formats import folders
from tests.transcoders.formats.folders import D, F, L
from tests.transcoders.test_replace import CASES, made

GOLDENS = Path(__file__).parent / "goldens"
# Sums of 20 products of numbers about 1, in float32 by two libraries.
EPS = 5e-6
X = np.random.default_rng(5).normal(size=(L, 9, D)).astype(np.float32)


def computed(transcoder, x=X):
    found = encode(transcoder, jnp.asarray(x))
    return np.asarray(found), np.asarray(decode(transcoder, found, jnp.asarray(x)))


def assert_close(got, want):
    for ours, theirs in zip(got, want, strict=True):
        assert np.abs(theirs).max() > 0.5
        np.testing.assert_allclose(ours, theirs, atol=EPS)


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDENS.iterdir()))
def test_a_folder_computes_what_its_author_s_code_computed(name):
    transcoder = load(GOLDENS / name)
    with np.load(GOLDENS / name / "expected.npz") as file:
        x, features, outputs = (file[key] for key in ("x", "features", "outputs"))
    assert 0.05 < (features > 0).mean() < 0.9
    found, written = computed(transcoder, x)
    assert_close([found, written], [features, outputs])
    # An activation where there is none, or the other way round, would be no rounding error.
    assert ((found > 0) == (features > 0)).all()
    assert transcoder.name == name
    assert transcoder.config.reads == "mlp_in"
    assert transcoder.config.k == (4 if name.startswith("sparsify") else 0)


def reference(layers, x, act):
    """Features and outputs of per-layer tensors in float64."""
    features, outputs = [], []
    for tensors, inputs in zip(layers, x.astype(np.float64), strict=True):
        t = {name: value.astype(np.float64) for name, value in tensors.items()}
        pre = inputs @ t["W_enc"].T + t["b_enc"]
        features.append(act(pre, t))
        skip = inputs @ t["W_skip"].T if "W_skip" in t else 0
        outputs.append(features[-1] @ t["W_dec"] + t["b_dec"] + skip)
    return np.stack(features), np.stack(outputs)


def relu(pre, _):
    return np.maximum(pre, 0)


def jump(pre, tensors):
    return np.where(pre > tensors["activation_function.threshold"], pre, 0)


def topk(pre, _):
    positive = np.maximum(pre, 0)
    return np.where(positive >= np.sort(positive, -1)[:, -5, None], positive, 0)


@pytest.mark.parametrize(
    ("options", "act", "activation"),
    [
        ({}, relu, "relu"),
        ({"skip": True, "activation": "relu"}, relu, "relu"),
        ({"activation": "topk", "k": 5}, topk, "topk"),
        ({"threshold": (F,)}, jump, "jump_relu"),
        ({"threshold": (), "activation": "jumprelu"}, jump, "jump_relu"),
        ({"threshold": (1,), "skip": True}, jump, "jump_relu"),
    ],
)
def test_a_transcoder_a_layer(tmp_path, options, act, activation):
    stored = folders.per_layer(tmp_path / "tc", **options)
    transcoder = load(str(tmp_path / "tc"))
    assert transcoder.config.activation == activation
    assert transcoder.config.window == 0
    assert_close(computed(transcoder), reference(stored, X, act))
    assert transcoder.params["W_enc"].shape == (L, F, D)
    assert all(leaf.dtype == np.float32 for leaf in transcoder.params.values())


def test_files_are_taken_in_the_order_of_the_configuration_s_list(tmp_path, monkeypatch):
    stored = folders.per_layer(tmp_path / "tc")
    there = tmp_path / "tc"
    fetched = []

    def download(repository, path, revision):
        fetched.append((repository, path, revision))
        return str(there / "layer_0.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    names = ["layer_2.safetensors", "hf://a/b/c/d.safetensors?revision=r", "layer_1.safetensors"]
    folders.config_yaml(there, transcoders=names)
    weights = load(there).params["W_enc"]
    assert fetched == [("a/b", "c/d.safetensors", "r")]
    for row, layer in enumerate((2, 0, 1)):
        np.testing.assert_array_equal(weights[row], stored[layer]["W_enc"])


@pytest.mark.parametrize("threshold", [False, True])
def test_a_cross_layer_transcoder(tmp_path, threshold):
    stored = folders.cross_layer(tmp_path / "tc", threshold=threshold)
    t = {name: value.astype(np.float64) for name, value in stored.items()}
    features = []
    for i, x in enumerate(X.astype(np.float64)):
        pre = x @ t[f"W_enc_{i}"].T + t[f"b_enc_{i}"]
        features.append(np.where(pre > t.get(f"threshold_{i}", 0), pre, 0))
    outputs = np.stack(
        [
            sum(features[i] @ t[f"W_dec_{i}"][:, j - i] for i in range(j + 1)) + t[f"b_dec_{j}"]
            for j in range(L)
        ]
    )
    transcoder = load(tmp_path / "tc")
    assert (transcoder.config.reads, transcoder.config.window) == ("resid_mid", L - 1)
    assert transcoder.config.activation == ("jump_relu" if threshold else "relu")
    assert_close(computed(transcoder), (np.stack(features), outputs))


def test_a_saelens_folder_of_the_only_layer(tmp_path):
    stored = folders.saelens(tmp_path / "tc", layers=1, architecture="skip_transcoder")
    turned = [stored[0] | {"W_enc": stored[0]["W_enc"].T}]
    got = computed(load(tmp_path / "tc"), X[:1])
    assert_close(got, reference(turned, X[:1], relu))


@pytest.mark.parametrize("norm", ["rms", "layer", "none"])
@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder"])
def test_what_is_read_before_the_weights_of_a_norm_is_read_after_them(tmp_path, norm, architecture):
    """`ln2.hook_normalized` is x̂, without the weights of an RMSNorm; `mlp_in` is w x̂."""
    sizes = {"n_layers": L, "d_model": D, "vocab_size": 3, "n_heads": 1, "d_mlp": 2}
    model = random_model(DecoderConfig(**sizes, norm=norm))
    options = {"architecture": architecture, "hook": "ln2.hook_normalized"}
    stored = folders.saelens(tmp_path / "tc", **options)
    turned = [t | {"W_enc": t["W_enc"].T} for t in stored]
    weights = 1.0
    if norm == "rms":
        weights = np.asarray(model.params["blocks"]["norm2"]["scale"])[:, None]
        assert np.std(weights) > 0.5
    transcoder = load(tmp_path / "tc", model=model)
    assert transcoder.config.reads == "mlp_in"
    assert_close(computed(transcoder, X * weights), reference(turned, X, relu))


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(None, ml_dtypes.bfloat16), (jnp.bfloat16, np.float32), ("float16", np.float32)],
)
def test_dtypes(tmp_path, dtype, stored):
    folders.per_layer(tmp_path / "tc")
    for file in (tmp_path / "tc").glob("*.safetensors"):
        save_file({k: v.astype(stored) for k, v in load_file(file).items()}, file)
    transcoder = load(tmp_path / "tc", dtype=dtype)
    want = jnp.dtype(dtype or "float32")
    assert transcoder.config.dtype == want.name
    assert all(leaf.dtype == want for leaf in transcoder.params.values())
    first = load_file(tmp_path / "tc" / "layer_1.safetensors")["W_dec"]
    np.testing.assert_array_equal(transcoder.params["W_dec"][1], first.astype(want))


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer", "sparsify", "saelens"])
def test_each_device_reads_only_its_slice(tmp_path, kind, monkeypatch):
    options = {"architecture": "jumprelu_skip_transcoder"} if kind == "saelens" else {}
    options |= {"transcode": "absent"} if kind == "sparsify" else {}
    getattr(folders, kind)(tmp_path / "tc", **options)
    alone = load(tmp_path / "tc")
    mesh = make_mesh("data=2,model=4")
    sizes, read = [], SafetensorsSource.read

    def spy(self, name, index):
        part = read(self, name, index)
        sizes.append((name, part.size))
        return part

    monkeypatch.setattr(SafetensorsSource, "read", spy)
    spread = load(tmp_path / "tc", mesh=mesh)
    matrices = [size for name, size in sizes if name.startswith(("W_enc", "W_dec", "encoder.w"))]
    assert set(matrices) == {F * D // 8}
    assert len(matrices) == 8 * (len(alone.params["W_enc"]) + len(alone.params["W_dec"]))
    assert spread.mesh is mesh
    for leaf, value in alone.params.items():
        np.testing.assert_allclose(spread.params[leaf], value, atol=1e-6)
        assert np.std(value) > 0.1
    assert spread.params["W_enc"].sharding.spec == jax.P(None, "model", "data")
    assert spread.params["b_enc"].sharding.spec == jax.P(None, "model")
    assert_close(computed(spread), computed(alone))


def test_a_mesh_that_does_not_divide_the_features_is_refused(tmp_path):
    folders.per_layer(tmp_path / "tc")
    with pytest.raises(MeshError, match="'features' of size 16"):
        load(tmp_path / "tc", mesh=make_mesh("model=3", devices=jax.devices()[:3]))


@pytest.mark.parametrize("case", [*CASES, "predict"])
def test_what_is_saved_is_loaded_again(tmp_path, case):
    config = {**CASES, "predict": CASES["window"].replace(predict=True)}[case]
    first = made(config.replace(dtype="float32")).replace(name="mine")
    folder = save(first, tmp_path / "deep" / "tc", model_name="a/model")
    assert [path.name for path in folder.parent.iterdir()] == ["tc"]
    again = load(folder)
    assert again.config == first.config
    assert again.params.keys() == first.params.keys() == param_specs(config).keys()
    for leaf, value in first.params.items():
        np.testing.assert_array_equal(again.params[leaf], value)
    assert "model_name: a/model" in (folder / "config.yaml").read_text()


def test_circuit_tracer_shall_refuse_what_it_would_misread(tmp_path):
    """Its cross-layer loader knows no skip connection, and says so of other kinds only."""
    for case, kind in [
        ("layers", "transcoder_set"),
        ("full", "cross_layer_transcoder"),
        ("skip", "cross_layer_skip_transcoder"),
    ]:
        folder = save(made(CASES[case]), tmp_path / case)
        assert f"model_kind: {kind}\n" in (folder / "config.yaml").read_text()


@pytest.mark.parametrize("k", [1, 3, 24])
@pytest.mark.parametrize("activation", ["topk", "batch_topk"])
def test_k_survives(tmp_path, k, activation):
    for window in (0, 1):
        config = CASES["layers"].replace(k=k, window=window, activation=activation)
        again = load(save(made(config), tmp_path / f"{window}")).config
        assert (again.activation, again.k) == (activation, k)


def test_a_window_is_written_with_zeros_that_take_no_space(tmp_path, monkeypatch):
    """In blocks of a few features, the last of them shorter than the others."""
    config = CASES["window"].replace(n_layers=9, window=1, n_features=14, d_model=2048, k=1)
    monkeypatch.setattr(cross_layer, "_BLOCK_BYTES", 5 * 2 * 2048 * 4)
    transcoder = made(config)
    folder = save(transcoder, tmp_path / "tc")
    edge = 0
    for layer in range(9):
        decoder = load_file(folder / f"W_dec_{layer}.safetensors")[f"W_dec_{layer}"]
        assert decoder.shape == (14, 9 - layer, 2048)
        for entry in range(min(2, 9 - layer)):
            np.testing.assert_array_equal(decoder[:, entry], transcoder.params["W_dec"][edge])
            edge += 1
        assert not decoder[:, 2:].any()
    assert edge == len(transcoder.params["W_dec"])
    status = (folder / "W_dec_0.safetensors").stat()
    assert status.st_size > 14 * 9 * 2048 * 4
    assert status.st_blocks * 512 < status.st_size / 2
    again = load(folder)
    assert again.config == config
    np.testing.assert_array_equal(again.params["W_dec"], transcoder.params["W_dec"])


def test_a_transcoder_on_a_mesh_is_saved_as_the_same_files(tmp_path):
    first = made(CASES["window"].replace(activation="jump_relu", k=0, skip=True))
    save(first, tmp_path / "a")
    spread = load(tmp_path / "a", mesh=make_mesh("data=2,model=4"), dtype=jnp.float32)
    save(spread.replace(name=first.name), tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("window", [0, None])
def test_the_host_holds_the_transcoder_and_little_more(tmp_path, window, monkeypatch):
    sizes = {"n_layers": 8, "n_features": 512, "d_model": 256}
    config = CASES["layers"].replace(**sizes, k=1, window=window)
    transcoder = made(config)
    size = sum(leaf.nbytes for leaf in transcoder.params.values())
    monkeypatch.setattr(cross_layer, "_BLOCK_BYTES", 2**18)

    def peak(do, *arguments):
        tracemalloc.start()
        do(*arguments)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    save(transcoder, tmp_path / "warm")
    assert peak(save, transcoder, tmp_path / "tc") < 0.25 * size
    assert 0.9 * size < peak(load, tmp_path / "tc") < 1.25 * size


@pytest.mark.parametrize(
    ("asked", "repository", "folder", "revision"),
    [("a/b", "a/b", "", None), ("a/b@main", "a/b", "", "main"), ("a/b/c/d@r", "a/b", "c/d", "r")],
)
def test_a_hub_id_is_fetched(tmp_path, monkeypatch, asked, repository, folder, revision):
    folders.per_layer(tmp_path / folder if folder else tmp_path / "root")
    root = tmp_path if folder else tmp_path / "root"
    calls = []

    def download(name, *, revision, allow_patterns):
        calls.append((name, revision, allow_patterns))
        return str(root)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    transcoder = load(asked)
    assert transcoder.name == asked
    (call,) = calls
    assert call[:2] == (repository, revision)
    start = f"{folder}/" if folder else ""
    assert call[2] == [start + pattern for pattern in hub._WANTED]
    assert isinstance(transcoder, Transcoder)
