"""Sums over content: of every bit, and the same however an array is cut."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.parallel import content, make_mesh, sharding
from hagd_jax.parallel.content import content_sums

DTYPES = ("bool", "int8", "uint16", "float16", "float32", "int64", "complex128")


def some(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = rng.integers(0, 2 if dtype == "bool" else 256, size, np.uint8)
    return raw.view(dtype).reshape(shape)


def by_hand(array):
    """The sum from its definition, in Python's integers."""
    raw, itemsize = array.tobytes(), min(array.dtype.itemsize, 4)
    total = 0
    for place in range(len(raw) // itemsize):
        word = int.from_bytes(raw[place * itemsize : (place + 1) * itemsize], "little")
        mixed = ((place * 0x9E3779B1) ^ word) * 0xC2B2AE3D % 2**32
        total += (mixed ^ (mixed >> 15)) * 0x85EBCA77 % 2**32
    return [total % 2**32, total % 2**64 >> 32]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_is_that_of_its_definition(dtype, monkeypatch):
    monkeypatch.setattr(content, "_BLOCK", 7)
    arrays = {
        name: some(shape, dtype) for name, shape in {"b": (3, 5, 4), "a": (), "c": (1,)}.items()
    }
    wanted = [by_hand(arrays[name]) for name in "abc"]
    np.testing.assert_array_equal(content_sums(arrays), wanted)


@given(st.data())
def test_parts_sum_up_to_the_whole(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    whole = some(shape, data.draw(st.sampled_from(DTYPES)))
    axes = [sorted({0, size, data.draw(st.integers(0, size))}) for size in shape]
    cuts = [[slice(a, b) for a, b in itertools.pairwise(at)] for at in axes]
    parts = [()]
    for own in cuts:
        parts = [(*part, cut) for part in parts for cut in own]
    total = sum(content._sum(whole[part], shape, part) for part in parts)
    low, high = by_hand(whole)
    assert total % 2**64 == low + high * 2**32


@given(st.data())
def test_any_change_within_a_word_is_seen(data):
    array = some((4, 3), data.draw(st.sampled_from(DTYPES[1:])))
    raw = bytearray(array.tobytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    changed = np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)
    assert (content_sums({"x": changed}) != content_sums({"x": array})).any()


def test_a_mesh_changes_nothing():
    array = some((8, 16), "float32")
    array[~np.isfinite(array)] = 1.0
    placed = jax.device_put(array, sharding(make_mesh("data=2,model=4"), ("embed", "mlp")))
    whole = content_sums({"x": array})
    np.testing.assert_array_equal(content_sums({"x": placed}), whole)
    # As processes do that hold a part each.
    shards = [s for s in placed.addressable_shards if s.replica_id == 0]
    total = sum(content._sum(np.asarray(s.data), array.shape, s.index) for s in shards)
    assert [total % 2**32, total % 2**64 >> 32] == whole[0].tolist()
