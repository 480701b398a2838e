"""Mixtures of experts: which experts a token uses, and with what weights.

A layer's neurons are those of all its experts, one expert after the other, and each is multiplied
by its expert's weight. With that, mlp_out = neuron · W_out holds as in a dense layer.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax.models.config import DecoderConfig


def route(scores: jax.Array, config: DecoderConfig, index: jax.Array) -> jax.Array:
    """Turn a router's scores into the weights of experts.

    w = softmax(scores) in float32 or wider, set to zero outside the k largest, then divided by
    its sum where the configuration says so; as `Qwen3MoeSparseMoeBlock` and
    `MixtralSparseMoeBlock` of transformers compute it. Of equal weights, those of the first
    experts count as larger. Layers that are no mixture give weight one to the experts that hold
    their neurons, whatever the scores.

    Args:
        scores: (..., E).
        config: The decoder.
        index: Number of the layer, a traced integer.

    Returns:
        (..., E) in the dtype of the scores. A token with a score that is NaN or +∞ has
        weights that are all NaN: no expert is chosen by it.

    Example:
        >>> config = DecoderConfig(vocab_size=9, n_layers=1, d_model=8, n_heads=2, d_mlp=12,
        ...                        mlp_bias=False, experts=3, experts_per_token=2)
        >>> weights = route(jnp.log(jnp.array([0.5, 0.2, 0.3])), config, jnp.int32(0))
        >>> [f"{weight:.2f}" for weight in weights]
        ['0.50', '0.00', '0.30']
    """
    wide = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), axis=-1)
    _, chosen = jax.lax.top_k(wide, config.experts_per_token)
    # A product, not a selection: NaN times zero is NaN, so that no expert looks chosen by it.
    wide = wide * jax.nn.one_hot(chosen, config.experts, dtype=wide.dtype).sum(-2)
    if config.normalise_routing:
        wide = wide / wide.sum(-1, keepdims=True)
    weights = wide.astype(scores.dtype)
    if not config.dense_layers:
        return weights
    used = jnp.arange(config.experts) < math.ceil(config.d_dense / config.d_expert)
    return jnp.where(is_dense(config, index), used.astype(weights.dtype), weights)


def per_neuron(weights: jax.Array, config: DecoderConfig, index: jax.Array) -> jax.Array:
    """Give every neuron the weight of its expert, (..., E) to (..., M).

    In a layer that is no mixture the neurons beyond its own have weight zero.
    """
    each = jnp.repeat(weights, config.d_expert, axis=-1)
    return jnp.where(inside(config, index), each, 0) if config.d_dense else each


def inside(config: DecoderConfig, index: jax.Array) -> jax.Array:
    """Tell which neurons a layer has, (M,) bool: all of them, or those of a dense layer."""
    own = jnp.arange(config.d_mlp) < (config.d_dense or config.d_mlp)
    return own | ~is_dense(config, index)


def is_dense(config: DecoderConfig, index: jax.Array) -> jax.Array:
    """Tell whether a layer of a mixture is none itself, as a traced boolean."""
    return jnp.asarray([layer in config.dense_layers for layer in range(config.n_layers)])[index]


def without_unused(mlp: dict[str, Any], config: DecoderConfig) -> dict[str, Any]:
    """Zero the parameters that layers without a mixture do not use, as files leave them out.

    Args:
        mlp: Parameters of all layers' MLPs.
        config: The decoder.

    Returns:
        The parameters; the model computes the same with them.
    """
    if not config.dense_layers:
        return mlp
    layers = jnp.arange(config.n_layers)
    dense = is_dense(config, layers)[:, None, None]
    beyond = jnp.arange(config.d_mlp) >= config.d_dense
    unused = {"router": jnp.bool_(True), "gate": beyond, "in": beyond, "out": beyond[:, None]}
    return {
        name: part | {"kernel": jnp.where(dense & unused[name], 0, part["kernel"])}
        for name, part in mlp.items()
    }
