"""Decoders without norms whose weights are all zero, to be written on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.models import DecoderConfig


def zeros(config: DecoderConfig) -> dict[str, np.ndarray]:
    """Make float64 zeros for each path of `models.param_specs`, without tracing a decoder.

    Args:
        config: Without norms, untied, every query head with keys of its own.

    Returns:
        The parameters by path.

    Raises:
        InputError: If the configuration is another one.

    Example:
        >>> config = DecoderConfig(
        ...     vocab_size=5, n_layers=2, d_model=6, n_heads=3, d_mlp=7, norm="none"
        ... )
        >>> zeros(config)["blocks/mlp/in/kernel"].shape
        (2, 6, 7)
    """
    c = config
    if c.norm != "none" or c.tied or c.n_kv_heads != c.n_heads:
        raise InputError(
            "config",
            got=f"{c.norm} norms, tied={c.tied}, {c.n_kv_heads} key/value heads",
            expected=f"no norms, tied=False, {c.n_heads} key/value heads",
        )
    layers, width, heads = c.n_layers, c.d_model, (c.n_heads, c.d_head)
    shapes: dict[str, tuple[int, ...]] = {
        "embed/embedding": (c.vocab_size, width),
        "unembed/kernel": (width, c.vocab_size),
        "blocks/attn/o/kernel": (layers, *heads, width),
        "blocks/mlp/out/kernel": (layers, c.d_mlp, width),
    }
    if c.positions == "learned":
        shapes["positions/embedding"] = (c.max_positions, width)
    if c.unembed_bias:
        shapes["unembed/bias"] = (c.vocab_size,)
    for name in "qkv":
        shapes[f"blocks/attn/{name}/kernel"] = (layers, width, *heads)
        if c.qkv_bias:
            shapes[f"blocks/attn/{name}/bias"] = (layers, *heads)
    if c.attn_out_bias:
        shapes["blocks/attn/o/bias"] = (layers, width)
    for name in ("in", "gate") if c.gated_mlp else ("in",):
        shapes[f"blocks/mlp/{name}/kernel"] = (layers, width, c.d_mlp)
        if c.mlp_bias:
            shapes[f"blocks/mlp/{name}/bias"] = (layers, c.d_mlp)
    if c.mlp_bias:
        shapes["blocks/mlp/out/bias"] = (layers, width)
    return {path: np.zeros(shape) for path, shape in shapes.items()}


def written(params: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Convert parameters to a model's form: nested by path, float32, on the device.

    Args:
        params: Path → weights.

    Returns:
        The tree. Nothing is compiled for it, as `jnp.asarray` would for every shape.
    """
    flat = {path: np.asarray(value, np.float32) for path, value in params.items()}
    return jax.device_put(flax.traverse_util.unflatten_dict(flat, sep="/"))
