"""Weights from a file straight onto their devices, one slice at a time."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from hagd_jax.errors import CheckpointError
from hagd_jax.models.families.table import Index, Sizes, Source, Weight, pieces, read

# Rows of a tensor copied at once: a transposed copy in strips this high stays in the cache.
_STRIP = 128


def leaf_dtype(weights: Sequence[Weight], source: Source, layers: int) -> np.dtype[Any]:
    """Return the dtype that holds all tensors of a parameter as they are stored."""
    names = {w.tensor(layer) for w in weights for layer in range(layers) if w.within(layer)}
    # Without 64-bit mode JAX has no float64.
    dtypes = (jax.dtypes.canonicalize_dtype(source.dtype(name)) for name in names)
    return np.dtype(functools.reduce(jnp.promote_types, dtypes))


def place(
    weights: Sequence[Weight],
    shape: tuple[int, ...],
    sizes: Sizes,
    source: Source,
    dtype: np.dtype[Any],
    sharding: NamedSharding | None = None,
    check_finite: bool = True,
) -> jax.Array:
    """Read one parameter onto its devices.

    Each device's slice is read once, for all devices that have the same one, and no other slice of
    the parameter is in host memory meanwhile.

    Args:
        weights: Where it is stored, one for each tensor that a layer of it has.
        shape: Its shape.
        sizes: Size of each axis, see `axis_sizes`.
        source: The checkpoint.
        dtype: What to convert it to.
        sharding: How it lies on the mesh; None puts it on the default device.
        check_finite: Refuse NaN and infinities.

    Returns:
        The parameter.

    Raises:
        CheckpointError: If a weight is not finite, naming tensor and file.
    """
    if sharding is None:
        whole = tuple(slice(0, n) for n in shape)
        return jax.device_put(_gather(weights, sizes, source, whole, dtype, check_finite))
    holders: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = tuple(part.indices(n)[:2] for part, n in zip(index or (), shape, strict=True))
        holders.setdefault(bounds, []).append(device)
    parts: list[jax.Array] = []
    for bounds, devices in holders.items():
        index = tuple(slice(*bound) for bound in bounds)
        part = _gather(weights, sizes, source, index, dtype, check_finite)
        parts += jax.block_until_ready([jax.device_put(part, device) for device in devices])
        del part
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _gather(
    weights: Sequence[Weight],
    sizes: Sizes,
    source: Source,
    index: Index,
    dtype: np.dtype[Any],
    check_finite: bool,
) -> np.ndarray:
    """One slice of a parameter, all its layers, in host memory."""
    out = _aligned(tuple(part.stop - part.start for part in index), dtype)
    if any(weight.layers is not None for weight in weights):
        out[...] = 0
    for weight in weights:
        for where, name, part in pieces(weight, sizes, index):
            block = read(weight, sizes, part, lambda at, name=name: source.read(name, at))
            if not _copy(block, out[where], check_finite):
                raise _not_finite(source, name, block, dtype)
    return out


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Uninitialised memory that a CPU device can use where it is, instead of copying it."""
    count = math.prod(shape) * dtype.itemsize
    memory = np.empty(count + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + count].view(dtype).reshape(shape)


def _copy(block: np.ndarray, out: np.ndarray, check: bool) -> bool:
    """Copy with conversion, in strips of the block's rows; False if a result is found infinite."""
    if not block.size:
        return True
    slow, fast = int(np.argmax(block.strides)), int(np.argmin(block.strides))
    rows = block.strides[slow] // (block.shape[fast] * block.itemsize)
    step, finite = max(1, _STRIP // max(rows, 1)), True
    lead = (slice(None),) * slow
    # What a wider type holds is as finite as its source, which is half as long to look through.
    looked = block if jnp.promote_types(block.dtype, out.dtype) == out.dtype else out
    with np.errstate(over="ignore"):
        for start in range(0, block.shape[slow], step):
            strip = (*lead, slice(start, start + step))
            _bits(out, block.dtype)[strip] = _bits(block, out.dtype)[strip]
            finite = finite and (not check or is_finite(looked[strip]))
    return finite


def _bits(array: np.ndarray, other: np.dtype[Any]) -> np.ndarray:
    """The array as plain integers where no conversion is needed: NumPy copies those faster."""
    plain = array.dtype == other and array.itemsize == 2
    return array.view(np.uint16) if plain else array


def is_finite(array: np.ndarray) -> bool:
    """Tell whether every entry is finite; of floats of two bytes by the largest of their bits.

    As integers, floats are in the order of their magnitudes, and NaN comes after infinity. Signed
    integers put negative floats below all others, unsigned ones above: both maxima are those of
    finite numbers only if all are. That takes a third of the time of testing each number.

    Args:
        array: Floats.

    Returns:
        Whether none is NaN or infinite.

    Example:
        >>> is_finite(np.float32([-1, 3e38])), is_finite(np.float16([0, -np.inf]))
        (True, False)
    """
    if array.itemsize != 2 or not array.size:
        return bool(np.isfinite(array).all())
    low, high = (np.array(sign * np.inf, array.dtype).view(np.uint16) for sign in (1, -1))
    return bool(array.view(np.int16).max() < low and array.view(np.uint16).max() < high)


def _not_finite(
    source: Source, name: str, block: np.ndarray, dtype: np.dtype[Any]
) -> CheckpointError:
    bad = int(block.size - np.isfinite(block).sum())
    if bad:
        return CheckpointError(
            f"{source.describe(name)}: tensor {name}",
            got=f"{bad} NaN or infinite weights in a slice of {block.size}",
            expected="finite weights",
            mend="The file is damaged, or training had diverged. check_finite=False loads it.",
        )
    return CheckpointError(
        f"{source.describe(name)}: tensor {name}",
        got=f"weights as large as {np.abs(block.astype(np.float64)).max():.3g}",
        expected=f"a range that {dtype} can hold",
        mend="Load with dtype=jnp.float32 or jnp.bfloat16.",
    )
