"""Rotary position embedding, with the stretchings that Hugging Face and llama.cpp write."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.models.config import DecoderConfig, RopeScaling


def frequencies(config: DecoderConfig, length: int) -> np.ndarray:
    """Compute angular frequencies of the rotary pairs, f_j = θ^(−2j/d), scaled if configured.

    Args:
        config: Decoder with rotary positions.
        length: Positions in this call; `dynamic` scaling depends on it.

    Returns:
        (rotary_dim / 2,) float64, radians per position.
    """
    dim, scaling = config.rotary_dim, config.rope_scaling
    exponents = np.arange(0, dim, 2, dtype=np.float64) / dim
    theta = config.rope_theta
    if scaling is None:
        return theta**-exponents
    if scaling.kind == "dynamic":
        # NTK-aware: the base grows only once the sequence is longer than the trained context.
        longest = scaling.original_max_positions or config.max_positions
        stretch = scaling.factor * max(length, longest) / longest - (scaling.factor - 1)
        return (theta * stretch ** (dim / (dim - 2))) ** -exponents
    base = theta**-exponents
    if scaling.kind == "linear":
        return base / scaling.factor
    if scaling.kind == "factors":
        return base / np.asarray(scaling.factors, np.float64)
    return _llama3(base, scaling)


def _llama3(base: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Divide long wavelengths by the factor, leave short ones, blend in between."""
    turns = scaling.original_max_positions * base / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return (1 - blend) * base / scaling.factor + blend * base


def tables(config: DecoderConfig, length: int) -> tuple[jax.Array, jax.Array]:
    """Compute cosines and sines of every position.

    Args:
        config: Decoder with rotary positions.
        length: Positions, T.

    Returns:
        Two float32 arrays (T, rotary_dim / 2).
    """
    angles = np.arange(length)[:, None] * frequencies(config, length)[None]
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate the leading part of each head by its position's angles.

    The two members of a pair lie half of the rotated part apart (GPT-NeoX order).

    Args:
        x: (B, T, heads, Dh).
        cos: (T, rotary_dim / 2).
        sin: (T, rotary_dim / 2).

    Returns:
        Same shape and dtype as `x`.
    """
    half = cos.shape[-1]
    first, second, rest = jnp.split(x, [half, 2 * half], axis=-1)
    cos, sin = cos[:, None].astype(x.dtype), sin[:, None].astype(x.dtype)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
