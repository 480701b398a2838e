"""Reading safetensors: what is whole is read as written, what is not is refused by name."""

from __future__ import annotations

import contextlib
import json
import pickle
import struct
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from hagd_jax.errors import CheckpointError
from hagd_jax.files import read_json_object
from hagd_jax.models.safetensors_source import open_safetensors

A = np.arange(12, dtype=np.float32).reshape(3, 4)
B = np.array([1.5, -2.0], jnp.bfloat16)
ALL = slice(0, 3), slice(0, 4)


def sharded(folder, shards, weight_map=None):
    """Shards as given, and an index that lists them or says something else."""
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    listed = {name: file for file, tensors in shards.items() for name in tensors}
    index = {"metadata": {}, "weight_map": listed | (weight_map or {})}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_one_file(tmp_path):
    save_file({"a": A, "b": B, "c": A.astype(np.float64)}, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        source = open_safetensors(path)
        assert source.names() == {"a", "b", "c"}
        assert source.shape("a") == (3, 4)
        assert [source.dtype(name) for name in "abc"] == [np.float32, jnp.bfloat16, np.float64]
        np.testing.assert_array_equal(source.read("a", (slice(1, 3), slice(2, 3))), A[1:3, 2:3])
        np.testing.assert_array_equal(source.read("b", (slice(0, 2),)), B)
        assert source.describe("a") == str(tmp_path / "model.safetensors")


def test_shards_with_and_without_an_index(tmp_path):
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    source = open_safetensors(sharded(tmp_path, {one: {"a": A}, two: {"b": B}}))
    assert source.describe("b") == str(tmp_path / two)
    np.testing.assert_array_equal(source.read("a", ALL), A)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert open_safetensors(tmp_path).names() == {"a", "b"}


def test_a_single_file_beside_an_index_of_others_is_refused(tmp_path, caplog):
    sharded(tmp_path, {"model-00001-of-00001.safetensors": {"a": A}})
    alone = tmp_path / "model.safetensors"
    save_file({"b": B}, alone)
    with pytest.raises(CheckpointError, match=r"both model\.safetensors and an index of 1 shards"):
        open_safetensors(tmp_path)
    # What the message says to do helps, either way.
    assert open_safetensors(alone).names() == {"b"}
    (tmp_path / "model.safetensors.index.json").unlink()
    assert open_safetensors(tmp_path).names() == {"b"}
    assert "model-00001-of-00001.safetensors" in caplog.text


def test_an_index_may_list_the_single_file(tmp_path):
    source = open_safetensors(sharded(tmp_path, {"model.safetensors": {"a": A}}))
    np.testing.assert_array_equal(source.read("a", ALL), A)


ONE, TWO = "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"


def _missing(folder):
    sharded(folder, {ONE: {"a": A}, TWO: {"b": B}})
    (folder / TWO).unlink()


def _missing_without_index(folder):
    save_file({"a": A}, folder / TWO)


def _misnamed(folder):
    sharded(folder, {ONE: {"a": A}, TWO: {"b": B, "c": B}}, {"b": ONE})


def _not_in_any(folder):
    sharded(folder, {ONE: {"a": A}, TWO: {"b": B}}, {"c": TWO})


def _twice(folder):
    sharded(folder, {ONE: {"a": A, "b": B}, TWO: {"b": B}})


def _outside(folder):
    sharded(folder, {ONE: {"a": A}}, {"a": "../m.safetensors"})


def _not_a_name(folder):
    sharded(folder, {ONE: {"a": A}}, {"a": 3})


def _empty_index(folder):
    (folder / "model.safetensors.index.json").write_text("{}")


def _two_indices(folder):
    sharded(folder, {ONE: {"a": A}})
    (folder / "b.safetensors.index.json").write_text("{}")


def _truncated(folder):
    (folder / "model.safetensors").write_bytes(save({"a": A})[:-5])


def _lfs(folder):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / "model.safetensors").write_text(text)


def _a_pickle_by_another_name(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps(A))


def _pickle(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(A))


def _nothing(folder):
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_missing, rf"{TWO}: got no such file; expected every shard"),
        (_missing_without_index, rf"{ONE}: got no such file"),
        (_misnamed, rf"tensor b: got it in {TWO}; expected it in {ONE}"),
        (_not_in_any, rf"tensor c: got it in no shard; expected it in {TWO}"),
        (_twice, rf"tensor b: got it in both .*{ONE} and .*{TWO}"),
        (_outside, r"tensor a: got '../m\.safetensors'; expected a file beside the index"),
        (_not_a_name, "tensor a: got 3"),
        (_empty_index, "no weight_map"),
        (_two_indices, "several indices"),
        (
            _truncated,
            r"model\.safetensors: got 43 bytes of tensors; expected 48.*Fetch the file again",
        ),
        (_lfs, "git lfs pull"),
        (_a_pickle_by_another_name, "A pickle can run any code"),
        (_pickle, r"pytorch_model\.bin: got a pickle.*save_file"),
        (_nothing, "no weights"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, damage, words):
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        open_safetensors(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_a_pickle_is_never_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"not looked at")
    with pytest.raises(CheckpointError, match=r"pickle.*weights_only"):
        open_safetensors(tmp_path / name)


def test_a_dtype_that_cannot_be_used_is_refused_when_it_is_wanted(tmp_path):
    save_file({"a": A.astype(np.int8)}, tmp_path / "model.safetensors")
    source = open_safetensors(tmp_path)
    with pytest.raises(CheckpointError, match="tensor a: got dtype I8; expected F32"):
        source.dtype("a")


def test_a_file_that_changes_under_us_is_an_error(tmp_path):
    save_file({"a": A}, tmp_path / "model.safetensors")
    source = open_safetensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        source.read("a", ALL)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        source.read("a", ALL)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", "[" * 100_000])
def test_json_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_json_object(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="no such file"):
        read_json_object(tmp_path / "none.json")


VALID = save({"a": A, "b": B, "empty": np.zeros((0, 3), np.float32)})
SIZES = st.integers(0, 2**64) | st.integers(0, 64)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "U64", "BOOL", "F4", "X"]),
        "shape": st.lists(SIZES, max_size=3),
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2),
    }
)


@st.composite
def mutated(draw):
    """A valid file with some bytes changed, cut or repeated."""
    data = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["change", "cut", "repeat"]))
        if kind == "change" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 20))]
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 20))]
    return bytes(data)


@st.composite
def headed(draw):
    """A header of the right form that says anything."""
    header = json.dumps(draw(st.dictionaries(st.text(max_size=3), ENTRY, max_size=3))).encode()
    body = draw(st.binary(max_size=64))
    return struct.pack("<Q", len(header)) + header + body


@settings(deadline=20_000, max_examples=300)
@given(data=st.binary(max_size=200) | mutated() | headed())
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    path.write_bytes(data)
    # The first call imports what it needs.
    with contextlib.suppress(CheckpointError):
        _read_everything(path)
    tracemalloc.start()
    try:
        with contextlib.suppress(CheckpointError):
            _read_everything(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def _read_everything(path):
    source = open_safetensors(path)
    for name in source.names():
        with contextlib.suppress(CheckpointError):
            source.dtype(name)
            shape = source.shape(name)
            read = source.read(name, tuple(slice(0, n) for n in shape))
            assert (read.shape, read.dtype) == (shape, source.dtype(name))


@settings(deadline=20_000, max_examples=50)
@given(
    text=st.text(max_size=50) | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps)
)
def test_any_index_is_read_or_refused(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("fuzz")
    save_file({"a": A}, folder / ONE)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with contextlib.suppress(CheckpointError):
        open_safetensors(folder)
