"""Rotary position embedding, with the stretchings that Hugging Face and llama.cpp write."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.models.config import DecoderConfig, RopeScaling


def frequencies(config: DecoderConfig, length: int, local: bool = False) -> np.ndarray:
    """Compute angular frequencies of the rotary pairs, f_j = θ^(−2j/d), scaled if configured.

    Args:
        config: Decoder with rotary positions.
        length: Positions in this call; `dynamic` and `longrope` scaling depend on it.
        local: In a layer with a window, where those have a base of their own.

    Returns:
        (rotary_dim / 2,) float64, radians per position.
    """
    dim, scaling = config.rotary_dim, config.rope_scaling
    exponents = np.arange(0, dim, 2, dtype=np.float64) / dim
    if local and config.rope_local_theta:
        return config.rope_local_theta**-exponents
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
    if scaling.kind == "longrope":
        within = length <= scaling.original_max_positions
        return base / np.asarray(scaling.short_factors if within else scaling.factors, np.float64)
    return _yarn(base, theta, scaling) if scaling.kind == "yarn" else _llama3(base, scaling)


def _llama3(base: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Divide long wavelengths by the factor, leave short ones, blend in between."""
    turns = scaling.original_max_positions * base / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return (1 - blend) * base / scaling.factor + blend * base


def _yarn(base: np.ndarray, theta: float, scaling: RopeScaling) -> np.ndarray:
    """Divide slow pairs by the factor, leave fast ones, blend by the pair's number in between.

    Source: Peng et al. 2023, arXiv 2309.00071, with the bounds as `transformers` rounds them.
    """
    dim = 2 * len(base)

    def pair(turns: float) -> float:
        """Number of the pair that turns so often in the trained context; a fraction."""
        length = scaling.original_max_positions / (turns * 2 * math.pi)
        return dim * math.log(length) / (2 * math.log(theta))

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    # Without a width the blend is a step.
    width = high - low if high != low else 0.001
    blend = np.clip((np.arange(dim // 2) - low) / width, 0, 1)
    return (1 - blend) * base + blend * base / scaling.factor


def tables(config: DecoderConfig, length: int, local: bool = False) -> tuple[jax.Array, jax.Array]:
    """Compute cosines and sines of every position.

    Args:
        config: Decoder with rotary positions.
        length: Positions, T.
        local: In a layer with a window, where those have a base of their own.

    Returns:
        Two float32 arrays (T, rotary_dim / 2).
    """
    angles = np.arange(length)[:, None] * frequencies(config, length, local)[None]
    cos, sin = np.cos(angles), np.sin(angles)
    scaling = config.rope_scaling
    if scaling is not None and not (local and config.rope_local_theta):
        cos, sin = cos * scaling.attention_factor, sin * scaling.attention_factor
    return jnp.asarray(cos, jnp.float32), jnp.asarray(sin, jnp.float32)


def layer_tables(
    config: DecoderConfig, length: int, layer: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """Select the cosines and sines of one layer.

    Args:
        config: Decoder with rotary positions.
        length: Positions, T.
        layer: Number of the layer, which may be traced.

    Returns:
        Two float32 arrays (T, rotary_dim / 2).
    """
    if not config.rope_local_theta:
        return tables(config, length)
    both = zip(tables(config, length), tables(config, length, local=True), strict=True)
    local = jnp.asarray([int(window > 0) for window in config.windows], jnp.int32)[layer]
    cos, sin = (jnp.stack(pair)[local] for pair in both)
    return cos, sin


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
