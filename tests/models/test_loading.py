"""Loading: every slice where it belongs, nothing read twice, everything wrong refused by name."""

from __future__ import annotations

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from hagd_jax.errors import CheckpointError, ConfigError, MeshError
from hagd_jax.models import families, loading, placing
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.families.table import axis_sizes
from hagd_jax.models.loading import load, open_checkpoint
from hagd_jax.models.model import abstract, forward
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.parallel import make_mesh

LLAMA = DecoderConfig(
    family="llama", vocab_size=12, n_layers=2, d_model=8, n_heads=4, n_kv_heads=2, d_mlp=8,
    max_positions=16, norm="rms", positions="rotary", activation="silu", gated_mlp=True,
    qkv_bias=False, attn_out_bias=False, mlp_bias=False,
)  # fmt: skip
GPT2 = DecoderConfig(
    family="gpt2", vocab_size=11, n_layers=2, d_model=8, n_heads=4, d_mlp=8, max_positions=16,
    activation="gelu_tanh", tied=True,
)  # fmt: skip
NEOX = DecoderConfig(
    family="gpt_neox", vocab_size=12, n_layers=2, d_model=8, n_heads=2, d_mlp=8, max_positions=16,
    positions="rotary", rotary_dim=2, activation="gelu", parallel_residual=True,
)  # fmt: skip
Q1 = "model.layers.1.self_attn.q_proj.weight"


def tensors_of(config, dtype=np.float32):
    """Random tensors in the shapes and names of a Hugging Face checkpoint."""
    rng, sizes, tensors = np.random.default_rng(0), axis_sizes(config), {}
    for weight in families.family_of(config).table(config):
        for layer in range(config.n_layers):
            shape = families.table.shape(weight.stored, sizes)
            tensors[weight.tensor(layer)] = rng.normal(size=shape).astype(dtype)
    return tensors


def write(folder, config, tensors, **options):
    folder.mkdir(exist_ok=True)
    given = families.to_hf(config) | options
    (folder / "config.json").write_text(json.dumps(given))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("beside", ["whole weights", "nothing"])
def test_an_adapter_is_refused_and_not_passed_over(tmp_path, beside):
    """transformers would put it on top of the weights, so the numbers would be others."""
    if beside == "whole weights":
        write(tmp_path, LLAMA, tensors_of(LLAMA))
        load(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for strict in (True, False):
        with pytest.raises(CheckpointError, match="merge_and_unload"):
            load(tmp_path, strict=strict)


@pytest.fixture
def llama(tmp_path):
    return write(tmp_path / "llama", LLAMA, tensors_of(LLAMA))


def change(folder, name, value):
    """Put another tensor in the place of one, or remove it."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(name, None)
    save_file(tensors if value is None else tensors | {name: value}, file)


def test_weights_arrive_where_hugging_face_means_them(llama):
    model, tensors = load(llama), load_file(llama / "model.safetensors")
    q = model.params["blocks"]["attn"]["q"]["kernel"]
    np.testing.assert_array_equal(q[1], tensors[Q1].reshape(4, 2, 8).transpose(2, 0, 1))
    np.testing.assert_array_equal(model.params["unembed"]["kernel"], tensors["lm_head.weight"].T)
    assert (model.name, model.mesh, model.tokenizer) == ("llama", None, None)
    assert model.config == LLAMA


@pytest.mark.parametrize(
    ("config", "description"),
    [(LLAMA, "data=2,model=2"), (LLAMA, "model=4"), (GPT2, "data=4,model=2"), (NEOX, "model=2")],
    ids=lambda value: getattr(value, "family", value),
)
def test_a_mesh_holds_the_same_weights_in_their_places(tmp_path, config, description):
    folder = write(tmp_path / "m", config, tensors_of(config))
    devices = np.prod([int(part.split("=")[1]) for part in description.split(",")])
    mesh = make_mesh(description, devices=jax.devices()[:devices])
    alone, spread = load(folder), load(folder, mesh=mesh)
    spread_flat = flatten_dict(spread.params, sep="/")
    for leaf, value in flatten_dict(alone.params, sep="/").items():
        assert np.count_nonzero(value) == value.size
        np.testing.assert_array_equal(value, spread_flat[leaf])
    expected = jax.tree.map(lambda x: x.sharding, abstract(config, mesh=mesh).params)
    assert jax.tree.map(lambda x: x.sharding, spread.params) == expected
    tokens = np.arange(10).reshape(2, 5)
    np.testing.assert_allclose(
        forward(spread, tokens).logits, forward(alone, tokens).logits, atol=2e-5
    )


class Counting:
    """A source that notes how many numbers were read of each tensor."""

    def __init__(self, tensors):
        self.tensors, self.read_sizes = tensors, {}

    def dtype(self, name):
        return self.tensors[name].dtype

    def read(self, name, index):
        part = self.tensors[name][index]
        self.read_sizes.setdefault(name, []).append(part.size)
        return part

    def describe(self, name):
        return "memory"


def test_each_slice_is_read_once_and_no_more_than_that():
    tensors = tensors_of(LLAMA)
    mesh = make_mesh("data=2,model=2", devices=jax.devices()[:4])
    source, sizes, specs = Counting(tensors), axis_sizes(LLAMA), param_specs(LLAMA)
    for weight in families.family_of(LLAMA).table(LLAMA):
        spec = specs[weight.leaf]
        placing.place(
            [weight], spec.shape, sizes, source, np.dtype(np.float32),
            loading.sharding(mesh, spec.axes, spec.shape),
        )  # fmt: skip
    for name, parts in source.read_sizes.items():
        # Split tensors in their parts, those that are the same on all devices once.
        assert sum(parts) == tensors[name].size
        assert len(parts) == (2 if tensors[name].ndim == 1 else 4)


@pytest.mark.parametrize("stored", [np.float32, np.float16, jnp.bfloat16, np.float64])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, "float32", np.float16])
def test_dtypes(tmp_path, stored, dtype):
    tensors = tensors_of(LLAMA, stored)
    model = load(write(tmp_path / "m", LLAMA, tensors), dtype=dtype)
    # Without 64-bit mode JAX has no float64.
    want = jnp.dtype(dtype or (np.float32 if stored == np.float64 else stored))
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {want}
    assert model.config.dtype == want.name
    # Rounding is that of a plain cast; the tolerance is for casts that go by way of float32.
    np.testing.assert_allclose(
        np.asarray(model.params["embed"]["embedding"], np.float64),
        tensors["model.embed_tokens.weight"].astype(want).astype(np.float64),
        rtol=2.0**-8,
    )


def test_mixed_dtypes_are_kept_and_the_most_frequent_computes(tmp_path):
    tensors = {
        name: value.astype(np.float32 if "norm" in name else jnp.bfloat16)
        for name, value in tensors_of(LLAMA).items()
    }
    model = load(write(tmp_path / "m", LLAMA, tensors))
    assert model.params["norm_f"]["scale"].dtype == np.float32
    assert model.params["embed"]["embedding"].dtype == jnp.bfloat16
    assert model.config.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("dtype", "words"),
    [("int8", "int8"), ("float64", "jax_enable_x64"), ("nonsense", "nonsense"), (3, "dtype")],
)
def test_a_dtype_that_cannot_compute_is_refused_before_the_model_is_looked_for(dtype, words):
    with pytest.raises(ConfigError, match=words):
        load("there/is/none", dtype=dtype)


def test_names_without_the_prefix_buffers_and_tied_copies_are_understood(tmp_path):
    tensors = tensors_of(GPT2)
    plain = load(write(tmp_path / "a", GPT2, tensors))
    hub_names = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    for layer in range(2):
        hub_names[f"h.{layer}.attn.bias"] = np.tri(4, dtype=np.uint8)[None, None]
        hub_names[f"h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
    hub_names["lm_head.weight"] = tensors["transformer.wte.weight"]
    other = load(write(tmp_path / "b", GPT2, hub_names))
    chex.assert_trees_all_equal(plain.params, other.params)
    neox = tensors_of(NEOX) | {
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": np.ones(1, np.float32),
        "gpt_neox.layers.1.attention.bias": np.tri(4, dtype=bool)[None, None],
        "gpt_neox.layers.1.attention.masked_bias": np.array(-1e9, np.float32),
    }
    load(write(tmp_path / "c", NEOX, neox))
    freq = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(1, np.float32)}
    load(write(tmp_path / "d", LLAMA, tensors_of(LLAMA) | freq))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (Q1, None, rf"tensor {Q1}: got no such tensor .*expected one of shape \(8, 8\)"),
        (Q1, np.zeros((8, 4), np.float32), rf"{Q1}: got shape \(8, 4\); expected \(8, 8\)"),
        (Q1, np.zeros((8, 8), np.int8), rf"{Q1}: got dtype I8"),
        ("model.extra", np.zeros(1, np.float32), "tensor model.extra: got 1 that the model"),
        ("model.layers.2.mlp.up_proj.weight", np.zeros((8, 8), np.float32), "layers.2"),
        ("model.layers.1.self_attn.q_proj.bias", np.zeros(8, np.float32), "q_proj.bias"),
        ("lm_head.weight", None, "tie_word_embeddings"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(llama, name, value, words):
    change(llama, name, value)
    with pytest.raises(CheckpointError, match=words):
        load(llama)


def test_a_misnamed_tensor_is_found_by_its_nearest_name(llama):
    value = load_file(llama / "model.safetensors")[Q1]
    change(llama, Q1, None)
    change(llama, Q1.replace("q_proj", "qproj"), value)
    with pytest.raises(
        CheckpointError, match=r"nearest names there: model\.layers\.1\.self_attn\.qproj"
    ):
        load(llama)


def test_unknown_tensors_can_be_left_out_on_request(llama):
    change(llama, "model.extra", np.zeros(1, np.float32))
    assert load(llama, strict=False).config == LLAMA


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stored", [np.float32, np.float16, jnp.bfloat16])
@pytest.mark.parametrize("mesh", [None, "data=2,model=2"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, bad, stored, mesh):
    tensors = tensors_of(LLAMA, stored)
    tensors[Q1][7, 5] = bad
    folder = write(tmp_path / "m", LLAMA, tensors)
    where = None if mesh is None else make_mesh(mesh, devices=jax.devices()[:4])
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor {Q1}: got 1 NaN or"):
        load(folder, mesh=where)
    kept = load(folder, mesh=where, check_finite=False).params["blocks"]["attn"]["q"]["kernel"]
    assert np.isfinite(np.asarray(kept, np.float32)).sum() == kept.size - 1


def test_weights_too_large_for_the_dtype_are_refused(tmp_path):
    tensors = tensors_of(LLAMA)
    tensors[Q1][0, 0] = -1e6
    folder = write(tmp_path / "m", LLAMA, tensors)
    with pytest.raises(CheckpointError, match=r"as large as 1e\+06; expected a range that float16"):
        load(folder, dtype=np.float16)
    load(folder, dtype=jnp.bfloat16)


@pytest.mark.parametrize(("mesh", "words"), [("model=8", "heads"), ("data=3,model=1", "embed")])
def test_a_mesh_that_does_not_divide_is_refused_before_anything_is_read(llama, mesh, words):
    change(llama, Q1, np.full((8, 8), np.nan, np.float32))
    devices = jax.devices()[: 8 if "8" in mesh else 3]
    with pytest.raises(MeshError, match=words):
        load(llama, mesh=make_mesh(mesh, devices=devices))


def test_the_tokenizer_beside_the_weights_is_used_unless_another_is_given(llama):
    beside, other = Tokenizer.words(["a", "b"]), Tokenizer.words(["c"])
    beside.save(llama)
    assert load(llama).tokenizer == beside
    assert load(llama, tokenizer=other).tokenizer == other


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(llama):
    large = Tokenizer.words([f"w{i}" for i in range(LLAMA.vocab_size + 1)])
    with pytest.raises(CheckpointError, match=r"got 13 tokens; expected .* vocab_size = 12"):
        load(llama, tokenizer=large)
    large.save(llama)
    with pytest.raises(CheckpointError, match=r"got 13 tokens; expected .* vocab_size = 12"):
        load(llama)
    fitting = Tokenizer.words(["a"])
    assert load(llama, tokenizer=fitting).tokenizer == fitting


def test_a_file_and_its_folder_are_the_same_model(llama):
    alone = load(llama / "model.safetensors")
    chex.assert_trees_all_equal(alone.params, load(str(llama)).params)


def test_files_that_are_missing_are_named(llama, tmp_path):
    (llama / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(llama)
    (llama / "model.safetensors").rename(llama / "model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        load(llama)
    shutil.rmtree(llama)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load(llama)


def test_a_damaged_number_of_layers_ends_at_once(llama):
    given = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(given | {"num_hidden_layers": 10**4}))
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\."):
        open_checkpoint(llama)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_what_is_finite_is_told_from_the_bits(dtype):
    """All numbers of two bytes, alone and beside others."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):
        expected = np.isfinite(every.astype(np.float32))
    assert 0 < expected.sum() < len(every)
    others = np.array([-1, 0, 2], dtype)
    found = [[placing.is_finite(every[i : i + 1]), placing.is_finite(np.append(others, every[i]))]
             for i in range(len(every))]  # fmt: skip
    np.testing.assert_array_equal(found, np.stack([expected, expected], 1))
    assert placing.is_finite(every[:0])
