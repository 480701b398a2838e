"""Graphs over transcoders on disk: those of the same transcoders in memory, from fewer rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.graphs import AttributionConfig, attribute
from hagd_jax.graphs.heads import edge_heads
from hagd_jax.models import DecoderConfig, init
from hagd_jax.parallel import make_mesh
from hagd_jax.transcoders import TranscoderConfig, digest, load, open_lazy, save
from hagd_jax.transcoders.formats.lazy import LazyTranscoder
from hagd_jax.units import as_dictionary, directed
from tests.models.noise import noisy
from tests.transcoders.formats import folders
from tests.transcoders.test_replace import made

L, D, F = 3, 16, 256
LLAMA = DecoderConfig(
    vocab_size=23, n_layers=L, d_model=D, n_heads=4, n_kv_heads=2, d_mlp=24, family="llama",
    norm="rms", positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False,
    attn_out_bias=False, mlp_bias=False, max_positions=32,
)  # fmt: skip
PROMPT = [1, 5, 9, 2, 7, 7, 3]
BASE = TranscoderConfig(n_layers=L, d_model=D, n_features=F, activation="topk", k=6)
CASES = {
    "topk": BASE,
    "relu_across": BASE.replace(activation="relu", k=0, window=2, reads="resid_mid"),
    "jump_skip": BASE.replace(activation="jump_relu", k=0, window=1, skip=True),
    "batch": BASE.replace(activation="batch_topk"),
    "dense": BASE.replace(activation="relu", k=0),
}


@pytest.fixture(scope="module")
def model():
    return noisy(LLAMA)


def sparse(config, name):
    """Few features of a ReLU are active, unless in the dense case."""
    transcoder = made(config)
    less = {"dense": 0, "relu_across": 18, "jump_skip": 3}.get(name, 0)
    bias = transcoder.params["b_enc"] - less
    return transcoder.replace(params=transcoder.params | {"b_enc": bias})


def assert_same(got, want):
    assert got.info.dictionary == want.info.dictionary
    assert (got.info.active, got.info.features) == (want.info.active, want.info.features)
    for field in ("kind", "layer", "position", "index"):
        np.testing.assert_array_equal(getattr(got.nodes, field), getattr(want.nodes, field))
    np.testing.assert_allclose(got.nodes.activation, want.nodes.activation, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got.senders, want.senders)
    np.testing.assert_array_equal(got.receivers, want.receivers)
    # Sums of other blocks, in another order.
    np.testing.assert_allclose(got.weights, want.weights, rtol=2e-4, atol=2e-5)
    assert np.abs(want.weights).max() > 0.1


@pytest.mark.parametrize("name", CASES)
def test_the_graph_is_that_of_the_transcoder_in_memory(tmp_path, model, name, monkeypatch):
    folder = save(sparse(CASES[name], name), tmp_path / "tc")
    counts, read = [], LazyTranscoder.decoder_rows

    def spy(self, edge, indices):
        counts.append(len(indices))
        return read(self, edge, indices)

    monkeypatch.setattr(LazyTranscoder, "decoder_rows", spy)
    lazy = open_lazy(folder, model=model)
    nodes = directed(model, lazy)
    assert nodes.label == directed(model, load(folder)).label
    counts.clear()
    got = attribute(model, nodes, PROMPT, targets=[4, 8])
    whole = load(folder, model=model)
    want = attribute(model, whole, PROMPT, targets=[4, 8])
    assert_same(got, want)
    assert (max(counts) == F) == (name == "dense")
    assert min(counts) > 0
    # The graph is known again, and heads are found from rows on disk as well.
    edges = [edge.number for edge in want.top(6)]
    shares = edge_heads(model, lazy, got, edges)
    np.testing.assert_allclose(shares, edge_heads(model, whole, want, edges), atol=1e-5)
    assert np.abs(shares).max() > 1e-3


def test_a_capped_graph_of_few_edges(tmp_path, model):
    folder = save(sparse(CASES["topk"], "topk"), tmp_path / "tc")
    config = AttributionConfig(max_feature_nodes=20, update_every=7, edges_per_node=5)
    said = []
    got = attribute(model, open_lazy(folder), PROMPT, config, tell=said.append)
    assert_same(got, attribute(model, load(folder), PROMPT, config))
    assert "decoders" in said[0]


def published(kind, at):
    if kind == "npz":
        folders.gemma_scope(at / "transcoders")
        return at / "transcoders"
    if kind == "compressed":
        folders.gemma_scope(at / "transcoders", save=np.savez_compressed)
        return at / "transcoders"
    if kind == "clt":
        folders.gemma_scope_2_clt(at / "tc")
    elif kind == "saelens":
        folders.saelens(at / "tc", rescale_acts_by_decoder_norm=True, hook="ln2.hook_normalized")
    else:
        folders.sparsify(at / "tc", transcode="absent")
    return at / "tc"


@pytest.mark.parametrize("kind", ["npz", "compressed", "clt", "saelens", "sparsify"])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_published_folders_are_the_same_lazily(tmp_path, kind, dtype):
    """Encoders and rows of decoders, with all that is computed of them, bit for bit."""
    small = noisy(LLAMA.replace(d_model=folders.D))
    folder = published(kind, tmp_path)
    whole = load(folder, model=small, dtype=dtype)
    lazy = open_lazy(folder, model=small, dtype=dtype)
    assert lazy.config == whole.config
    assert digest(lazy) == digest(whole)
    for layer in range(whole.config.n_layers):
        for leaf, value in lazy.encoder(layer).items():
            np.testing.assert_array_equal(value, whole.params[leaf][layer])
    for edge, rows in enumerate(np.asarray(whole.params["W_dec"])):
        np.testing.assert_array_equal(
            lazy.decoder_rows(edge, [0, 1, 2, 9, 15]), rows[[0, 1, 2, 9, 15]]
        )
        assert lazy.decoder_rows(edge, []).shape == (0, folders.D)
        assert np.std(rows.astype(np.float32)) > 0.1


def test_what_needs_all_weights_is_refused(tmp_path, model):
    lazy = open_lazy(save(made(BASE), tmp_path / "tc"))
    nodes = as_dictionary(model, lazy)
    for ask in (
        lambda: nodes.values({}), lambda: nodes.decoders(model), lambda: nodes.encoders(model),
        lambda: nodes.mask(None, {}), lambda: nodes.by_layer({}, None),
        lambda: nodes.constant({}), lambda: nodes.pull(model, None, None),
        lambda: nodes.adding(None),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"opened lazily.*transcoders\.load"):
            ask()
    with pytest.raises(InputError, match="indices: got"):
        lazy.decoder_rows(0, [3, 2])
    with pytest.raises(InputError, match=f"below {F}"):
        lazy.decoder_rows(0, [F])
    with pytest.raises(InputError, match="3 layers of d_model 16"):
        as_dictionary(init(LLAMA.replace(n_layers=2), jax.random.key(0)), lazy)
    spread = init(LLAMA, jax.random.key(0), mesh=make_mesh("model=2", devices=jax.devices()[:2]))
    with pytest.raises(InputError, match="opened lazily, and a mesh"):
        as_dictionary(spread, lazy)


def test_files_that_change_or_are_damaged_are_refused(tmp_path, model):
    folder = save(made(BASE), tmp_path / "tc")
    lazy = open_lazy(folder)
    file = folder / "layer_1.safetensors"
    held = load_file(file)
    for name, words in (("W_dec", "NaN or infinite"), ("W_enc", "NaN or infinite")):
        damaged = held[name].copy()
        damaged[:, 3] = np.nan
        save_file(held | {name: damaged}, file)
        with pytest.raises(CheckpointError, match=words):
            attribute(model, lazy, PROMPT)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="whole safetensors file"):
        attribute(model, lazy, PROMPT)
    with pytest.raises(CheckpointError, match=r"layer_1\.safetensors"):
        open_lazy(folder)
