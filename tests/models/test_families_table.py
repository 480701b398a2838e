"""The pattern engine against explicit NumPy reshapes and transposes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.models.families import table
from hagd_jax.models.families.table import Weight

SIZES = {"e": 6, "h": 4, "k": 2, "d": 4, "m": 5, "v": 7, "p": 3, "c": 3, "t": 2, "j": 2, "l": 3}


def numbers(*shape):
    return np.arange(math.prod(shape), dtype=np.float64).reshape(shape)


def whole(shape):
    return tuple(slice(0, n) for n in shape)


def ours_shape(weight):
    return table.shape(weight.ours or weight.stored, SIZES)


# What each pattern means, written out by hand.
EXPLICIT = {
    "llama queries": (
        Weight("q", "q", "(h d) e", "e h d"),
        lambda x: x.reshape(4, 4, 6).transpose(2, 0, 1),
    ),
    "llama output": (Weight("o", "o", "e (h d)", "h d e"), lambda x: x.T.reshape(4, 4, 6)),
    "gpt2 keys": (
        Weight("k", "k", "e (c h d)", "e h d", {"c": 1}),
        lambda x: np.split(x, 3, axis=1)[1].reshape(6, 4, 4),
    ),
    "gpt2 value bias": (
        Weight("v", "v", "(c h d)", "h d", {"c": 2}),
        lambda x: np.split(x, 3)[2].reshape(4, 4),
    ),
    "neox values": (
        Weight("v", "v", "(h c d) e", "e h d", {"c": 2}),
        lambda x: np.moveaxis(x.reshape(4, 3, 4, 6)[:, 2], -1, 0),
    ),
    "llama.cpp queries": (
        Weight("q", "q", "(h j t) e", "e h (t j)"),
        lambda x: x.reshape(4, 2, 2, 6).transpose(3, 0, 2, 1).reshape(6, 4, 4),
    ),
    "same": (Weight("w", "w", "m e"), lambda x: x),
    "transposed": (Weight("w", "w", "v e", "e v"), lambda x: x.T),
}
CASES = pytest.mark.parametrize(("weight", "by_hand"), EXPLICIT.values(), ids=EXPLICIT)


@CASES
def test_a_whole_parameter_is_what_reshaping_by_hand_gives(weight, by_hand):
    stored = numbers(*table.shape(weight.stored, SIZES))
    read = table.read(weight, SIZES, whole(ours_shape(weight)), stored.__getitem__)
    np.testing.assert_array_equal(read, by_hand(stored))


@CASES
def test_write_undoes_read(weight, by_hand):
    stored = numbers(*table.shape(weight.stored, SIZES)) + 1
    out = np.zeros_like(stored)
    table.write(weight, SIZES, by_hand(stored), out)
    np.testing.assert_array_equal(by_hand(out), by_hand(stored))
    # Nothing but the entries of this parameter was touched.
    assert np.count_nonzero(out) == by_hand(stored).size


@CASES
@settings(max_examples=30)
@given(data=st.data())
def test_a_slice_is_the_slice_of_the_whole(weight, by_hand, data):
    index = tuple(_some_slice(data, n) for n in ours_shape(weight))
    stored = numbers(*table.shape(weight.stored, SIZES))
    read = table.read(weight, SIZES, index, stored.__getitem__)
    np.testing.assert_array_equal(read, by_hand(stored)[index])


def _some_slice(data, n):
    start = data.draw(st.integers(0, n - 1))
    return slice(start, data.draw(st.integers(start + 1, n)))


PARTS = ("(h d)", "(k d)", "(k d)")


@settings(max_examples=30)
@given(data=st.data())
def test_parts_of_unequal_size_lie_one_after_the_other(data):
    """Four query heads, then two key heads, then two value heads, of four rows each."""
    ours = ("e h d", "e k d", "e k d")
    weights = [Weight("w", "w", f"{p} e", o, parts=PARTS, part=i)
               for i, (p, o) in enumerate(zip(PARTS, ours, strict=True))]  # fmt: skip
    assert all(weight.stored_shape(SIZES) == (32, 6) for weight in weights)
    stored, out = numbers(32, 6) + 1, np.zeros((32, 6))
    for weight, rows in zip(weights, np.split(stored, [16, 24]), strict=True):
        value = rows.reshape(-1, 4, 6).transpose(2, 0, 1)
        index = tuple(_some_slice(data, n) for n in value.shape)
        fetched = []

        def fetch(at, fetched=fetched):
            fetched.append(at)
            return stored[at]

        np.testing.assert_array_equal(table.read(weight, SIZES, index, fetch), value[index])
        # No row of another part is read.
        assert weight.start(SIZES) <= fetched[0][0].start
        assert fetched[0][0].stop <= weight.start(SIZES) + len(rows)
        before = out.copy()
        table.write(weight, SIZES, value, out)
        assert np.count_nonzero(out != before) == value.size
    np.testing.assert_array_equal(out, stored)


@st.composite
def any_weight(draw):
    """Any way of grouping some axes on either side, some of them fixed on the stored one."""
    axes = draw(st.permutations("ehkdm"))[: draw(st.integers(1, 5))]
    fixed = {
        axis: draw(st.integers(0, SIZES[axis] - 1)) for axis in draw(st.sets(st.sampled_from(axes)))
    }
    free = [axis for axis in draw(st.permutations(axes)) if axis not in fixed]
    return Weight("leaf", "name", draw(_pattern(axes)), draw(_pattern(free)), fixed)


@st.composite
def _pattern(draw, axes):
    groups, rest = [], list(axes)
    while rest:
        n = draw(st.integers(1, len(rest)))
        groups.append(rest[0] if n == 1 and draw(st.booleans()) else f"({' '.join(rest[:n])})")
        rest = rest[n:]
    return " ".join(groups)


@settings(max_examples=100)
@given(weight=any_weight(), data=st.data())
def test_any_pattern_reads_slices_and_writes_back(weight, data):
    shape = table.shape(weight.ours, SIZES) if weight.ours else ()
    if not shape:
        return
    value = np.random.default_rng(0).normal(size=shape)
    stored = np.zeros(table.shape(weight.stored, SIZES))
    table.write(weight, SIZES, value, stored)
    index = tuple(_some_slice(data, n) for n in shape)
    read = table.read(weight, SIZES, index, stored.__getitem__)
    np.testing.assert_array_equal(read, value[index])


@pytest.mark.parametrize(
    ("weight", "index", "fetched"),
    [
        # Two heads of a row-stacked projection: their rows only, and half of the columns.
        (EXPLICIT["llama queries"][0], (slice(0, 3), slice(1, 3), slice(0, 4)), [(4, 12), (0, 3)]),
        (EXPLICIT["llama output"][0], (slice(2, 4), slice(0, 4), slice(3, 6)), [(3, 6), (8, 16)]),
        # Keys of GPT-2: one third of the columns, two heads of it.
        (EXPLICIT["gpt2 keys"][0], (slice(0, 6), slice(2, 4), slice(0, 4)), [(0, 6), (24, 32)]),
        # One head of NeoX: its values lie in one run; of two heads, keys and queries lie between.
        (EXPLICIT["neox values"][0], (slice(0, 6), slice(1, 2), slice(0, 4)), [(20, 24), (0, 6)]),
        (EXPLICIT["neox values"][0], (slice(0, 6), slice(1, 3), slice(0, 4)), [(12, 36), (0, 6)]),
    ],
)
def test_no_more_is_fetched_than_the_run_that_is_needed(weight, index, fetched):
    stored = numbers(*table.shape(weight.stored, SIZES))
    asked = []

    def fetch(index):
        asked.extend((part.start, part.stop) for part in index)
        return stored[index]

    table.read(weight, SIZES, index, fetch)
    assert asked == fetched


def test_a_stacked_parameter_is_gathered_from_the_layers_asked_for():
    weight = Weight("w", "h.{layer}.w", "m e")
    index = (slice(1, 3), slice(0, 2), slice(0, 6))
    assert list(table.pieces(weight, SIZES, index)) == [
        (0, "h.1.w", index[1:]),
        (1, "h.2.w", index[1:]),
    ]
    flat = Weight("w", "w", "m e")
    assert list(table.pieces(flat, SIZES, index[1:])) == [(..., "w", index[1:])]
