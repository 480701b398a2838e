"""A checksum of named arrays that is the same on every mesh, backend and number of processes."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.parallel.rules import replicate

# Odd numbers whose bits look random (of xxHash and of MurmurHash3): one for each axis.
_ODD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xCC9E2D51, 0x1B873593)
_WRAP = 1 << 32
# Smaller arrays on a CPU are summed by NumPy, which has nothing to compile.
_SMALL = 1 << 22


def checksum(
    arrays: Mapping[str, Any], about: str = "", *, mesh: jax.sharding.Mesh | None = None
) -> int:
    """Compute a checksum of every bit of named arrays, against errors but not against forgery.

    Each array's float32 bits are mixed with their place and summed as 32-bit integers that wrap.
    Integer addition has no rounding, so the sum is the same in any order, and therefore on any
    devices.

    Args:
        arrays: Arrays of at most seven axes by name. Their order does not matter.
        about: Text that enters the checksum, such as a configuration.
        mesh: The devices the arrays lie on, or None for one device.

    Returns:
        A whole number from 0 to 2³² − 1.

    Example:
        >>> import numpy as np
        >>> checksum({"a": np.ones(3)}) == checksum({"a": np.array([1.0, 1.0, 2.0])})
        False
    """
    total = zlib.crc32(about.encode())
    for name, array in sorted(arrays.items()):
        total = ((total ^ sum(map(ord, name))) * _ODD[0] + _sum(array, mesh)) % _WRAP
    return total


def checksum_of_parts(parts: Mapping[str, Iterable[Any]], about: str = "") -> int:
    """Compute the checksum of arrays that are not in memory, from their parts.

    Args:
        parts: Name → the parts of an array along its first axis, in order, without that axis.
        about: Text that enters the checksum.

    Returns:
        What `checksum` returns for the whole arrays.

    Example:
        >>> import numpy as np
        >>> whole = np.arange(6.0).reshape(3, 2)
        >>> checksum_of_parts({"a": iter(whole)}, "x") == checksum({"a": whole}, "x")
        True
    """
    total = zlib.crc32(about.encode())
    for name, own in sorted(parts.items()):
        own_sum = 0
        for place, part in enumerate(own):
            lead = np.uint32(place * _ODD[0] % _WRAP)
            own_sum += int(np.asarray(_part(jnp.asarray(part, jnp.float32), lead)))
        total = ((total ^ sum(map(ord, name))) * _ODD[0] + own_sum) % _WRAP
    return total


@jax.jit
def _part(part: jax.Array, lead: Any) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(part, jnp.uint32)
    return _mixed(jnp, bits[None] ^ lead)


def _sum(array: Any, mesh: jax.sharding.Mesh | None) -> int:
    """The mixed sum of one array, by NumPy where that is cheap and by XLA elsewhere."""
    on_host = isinstance(array, np.ndarray) or (
        array.is_fully_addressable and {d.platform for d in array.devices()} == {"cpu"}
    )
    if on_host and array.size < _SMALL:
        with np.errstate(over="ignore"):
            return int(_mixed(np, np.asarray(array, np.float32).view(np.uint32)))
    return int(np.asarray(_on_device(jnp.asarray(array), mesh)))


@jax.jit(static_argnames="mesh")
def _on_device(array: jax.Array, mesh: jax.sharding.Mesh | None) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(array.astype(jnp.float32), jnp.uint32)
    return replicate(_mixed(jnp, bits), mesh)


def _mixed(xp: Any, bits: Any) -> Any:
    """Σ of the bits mixed with their places, modulo 2³²; `xp` is NumPy or jax.numpy."""
    for axis, factor in zip(range(bits.ndim), _ODD, strict=False):
        place = xp.arange(bits.shape[axis], dtype=xp.uint32) * xp.uint32(factor)
        bits = bits ^ place.reshape(-1, *[1] * (bits.ndim - axis - 1))
    mixed = bits * xp.uint32(_ODD[2])
    mixed = (mixed ^ (mixed >> xp.uint32(15))) * xp.uint32(_ODD[1])
    return mixed.sum(dtype=xp.uint32)
