"""Eight hexadecimal digits that tell transcoders apart."""

from __future__ import annotations

import functools
import operator
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.parallel import replicate
from hagd_jax.transcoders.transcoder import Transcoder

# Odd numbers whose bits look random (of xxHash).
_ODD = tuple(np.uint32(n) for n in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D))


def digest(transcoder: Transcoder) -> str:
    """Eight hexadecimal digits that tell transcoders apart; the same on every mesh.

    Args:
        transcoder: The transcoder.

    Returns:
        A checksum of every bit of the parameters that features and reconstructions depend on,
        and of what is done with them. It finds mistakes, not forgers.

    Example:
        >>> config = TranscoderConfig(n_layers=1, d_model=4, n_features=8, k=2)
        >>> digest(init(config, key)) == digest(init(config.replace(k=3), key))
        False
    """
    return f"{int(np.asarray(_checksum(transcoder.bare()))):08x}"


@jax.jit
def _checksum(transcoder: Transcoder) -> jax.Array:
    def add(total: jax.Array, item: tuple[str, jax.Array]) -> jax.Array:
        name, array = item
        bits = jax.lax.bitcast_convert_type(array.astype(jnp.float32), jnp.uint32)
        places = [
            jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(factor)
            for axis, factor in zip(range(bits.ndim), _ODD, strict=False)
        ]
        mixed = functools.reduce(operator.xor, places, bits) * _ODD[2]
        mixed = (mixed ^ (mixed >> 15)) * _ODD[1]
        # Whole numbers that wrap: their sum is the same in any order, so on any devices.
        found = jnp.sum(mixed, dtype=jnp.uint32)
        return (total ^ jnp.uint32(sum(map(ord, name)))) * _ODD[0] + found

    config = transcoder.config
    kind = f"{config.activation} {config.k} {config.window} {config.reads}"
    used = sorted(item for item in transcoder.params.items() if not item[0].endswith("_pred"))
    total = functools.reduce(add, used, jnp.uint32(zlib.crc32(kind.encode())))
    return replicate(total, transcoder.mesh)
