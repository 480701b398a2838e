"""Sums over the content of arrays, each process over what it holds, the same on every mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# Odd numbers whose bits look random (of xxHash and of MurmurHash3).
_PLACE, _FIRST, _SECOND = (np.uint32(odd) for odd in (0x9E3779B1, 0xC2B2AE3D, 0x85EBCA77))
# Words at a time, so that all passes over them stay within the processor's cache.
_BLOCK = 1 << 16
_WRAP = 1 << 64


def content_sums(arrays: Mapping[str, jax.Array | np.ndarray]) -> np.ndarray:
    """Sum of every bit of each array, mixed with its place; it finds damage, not forgery.

    Words of 32 bits are mixed with their place in the array by steps that can be undone, so that
    a change within one word always changes the sum. The mixed words are added up as integers,
    without rounding, so that the order does not matter, nor which process holds what. In a
    cluster all processes call it.

    Args:
        arrays: Name → array; global arrays count once, whoever holds them.

    Returns:
        (arrays, 2) uint32, in the order of names: the low and the high half of each sum.

    Example:
        >>> x = np.arange(3.0)
        >>> np.array_equal(content_sums({"x": x}), content_sums({"x": x[::-1]}))
        False
    """
    here = [sum(_sum(*part) for part in _parts(arrays[name])) for name in sorted(arrays)]
    halves = np.array([(s % 2**32, s % _WRAP >> 32) for s in here], np.uint32).reshape(-1, 2)
    if jax.process_count() == 1:
        return halves
    every = multihost_utils.process_allgather(halves).astype(object)
    total = (every[..., 0] + every[..., 1] * 2**32).sum(axis=0) % _WRAP
    return np.array([(s % 2**32, s >> 32) for s in total], np.uint32).reshape(-1, 2)


def _parts(array: jax.Array | np.ndarray) -> Iterator[tuple[np.ndarray, tuple[int, ...], Any]]:
    """The parts of an array that count here, with the array's shape and the place of the part."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        for shard in array.addressable_shards:
            if shard.replica_id == 0:
                yield np.asarray(shard.data), array.shape, shard.index
    elif jax.process_index() == 0:
        # Of what every process has a copy of, the first one's counts.
        yield np.asarray(array), array.shape, tuple(slice(0, size) for size in array.shape)


def _sum(part: np.ndarray, shape: tuple[int, ...], index: tuple[slice, ...]) -> int:
    """The sum of a part, whose rows of neighbours in the whole array are summed block by block."""
    words = _words(np.ascontiguousarray(part))
    each = words.size // max(part.size, 1)
    # Axes after the last one that is cut are whole, so that what lies in them is in one piece.
    cut = [axis for axis, size in enumerate(part.shape) if size != shape[axis]]
    outer = cut[-1] if cut else 0
    run = int(np.prod(part.shape[outer:], dtype=np.int64)) * each
    rest = int(np.prod(shape[outer:], dtype=np.int64)) * each
    first = (index[outer].start or 0) * (rest // shape[outer]) if shape else 0
    axes = [np.arange(part.shape[a]) + (index[a].start or 0) for a in range(outer)]
    rows = np.zeros((), np.int64)
    for axis, places in enumerate(axes):
        rows = rows[..., None] * shape[axis] + places
    starts = rows.reshape(-1) * rest + first
    return sum(
        _mixed(row, int(start)) for row, start in zip(words.reshape(-1, run), starts, strict=True)
    )


def _words(part: np.ndarray) -> np.ndarray:
    """The bits of an array as whole numbers, of 32 bits at most, one or more to each element."""
    kind = np.dtype(f"u{min(part.dtype.itemsize, 4)}")
    return part.reshape(-1).view(kind)


def _mixed(words: np.ndarray, start: int) -> int:
    """Sum of neighbouring words, of which the first has a place in the whole array."""
    total = 0
    most = min(words.size, _BLOCK)
    places = np.arange(most, dtype=np.uint32) * _PLACE
    mixed, shifted = np.empty((2, most), np.uint32)
    for low in range(0, words.size, _BLOCK):
        block = words[low : low + _BLOCK]
        x, y = mixed[: block.size], shifted[: block.size]
        np.add(places[: block.size], np.uint32((start + low) * int(_PLACE) % 2**32), out=x)
        x ^= block
        x *= _FIRST
        np.right_shift(x, 15, out=y)
        x ^= y
        x *= _SECOND
        total += int(x.sum(dtype=np.uint64))
    return total
