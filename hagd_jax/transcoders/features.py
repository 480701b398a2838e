"""Feature activations as arrays with an entry for every feature: what each formula says, plainly.

Everything a TPU or a GPU computes goes this way: a product with all features keeps their matrix
units busy. On CPU, `rows.py` computes the same from active features alone.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.graph import layer_graph

Params = dict[str, Any]
# Width of the rectangle that stands for the derivative of a step (Rajamanoharan et al., 2024,
# arXiv:2407.14435), in units of the normalised pre-activation.
BANDWIDTH = 0.05


def encode(params: Params, x: jax.Array, config: TranscoderConfig) -> jax.Array:
    """act(W_enc x + b_enc) at every layer: (L, ..., D) → (L, ..., F)."""
    pre = pre_activations(params, x, config)
    return activate(pre, config, params.get("threshold"))


def pre_activations(params: Params, x: jax.Array, config: TranscoderConfig) -> jax.Array:
    """W_enc x + b_enc: (L, ..., D) → (L, ..., F) float32."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1]).astype(config.dtype)

    def layer(inputs: tuple) -> jax.Array:
        x, weight, bias = inputs
        pre = jnp.matmul(x, weight.astype(config.dtype).T, preferred_element_type=jnp.float32)
        return pre + bias

    pre = jax.lax.map(layer, (flat, params["W_enc"], params["b_enc"]))
    return pre.reshape(*x.shape[:-1], -1)


def activate(
    pre: jax.Array, config: TranscoderConfig, threshold: jax.Array | None = None
) -> jax.Array:
    """The activation function, over all features of a layer.

    Args:
        pre: (L, ..., F) pre-activations.
        config: Which function.
        threshold: (L, F), of `jump_relu`.

    Returns:
        (L, ..., F) activations.
    """
    if config.activation == "relu":
        return jax.nn.relu(pre)
    if config.activation == "jump_relu":
        assert threshold is not None
        lift = (1,) * (pre.ndim - 2)
        return jump_relu(pre, threshold.reshape(pre.shape[0], *lift, pre.shape[-1]))
    positive = jax.nn.relu(pre)
    if config.activation == "topk":
        # Both outputs are used: the last value alone would compile to a full sort.
        values, indices = jax.lax.top_k(positive, config.k)
        smallest, last = values[..., -1:], indices[..., -1:]
        index = jnp.arange(pre.shape[-1])
        # Equal values: those with the lower index, exactly k of them.
        kept = (positive > smallest) | ((positive == smallest) & (index <= last))
        return jnp.where(jax.lax.stop_gradient(kept), positive, 0)
    kth = jax.vmap(functools.partial(kth_largest, k=config.k))(
        positive.reshape(len(pre), -1, pre.shape[-1])
    )
    kth = kth.reshape(len(pre), *(1,) * (pre.ndim - 1))
    return jnp.where(positive >= jnp.maximum(kth, jnp.finfo(jnp.float32).tiny), positive, 0)


def kth_largest(values: jax.Array, k: int) -> jax.Array:
    """The (k · N)-th largest of (N, F) values that are not negative.

    Bisects on the bits of the numbers, which order as the numbers do: 31 counts, no sort, and
    the same answer however the values are spread over devices.
    """
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(values), jnp.int32)
    wanted = k * values.shape[0]

    def halve(i: jax.Array, low: jax.Array) -> jax.Array:
        candidate = low | (1 << (30 - i))
        return jnp.where(jnp.sum(bits >= candidate) >= wanted, candidate, low)

    found = jax.lax.fori_loop(0, 31, halve, jnp.int32(0))
    return jax.lax.bitcast_convert_type(found, jnp.float32)


@jax.custom_vjp
def jump_relu(pre: jax.Array, threshold: jax.Array) -> jax.Array:
    """The identity above the threshold, else 0; the threshold learns straight through."""
    return jnp.where(pre > threshold, pre, 0)


def _jump_relu_fwd(pre: jax.Array, threshold: jax.Array) -> tuple[jax.Array, tuple]:
    return jump_relu(pre, threshold), (pre, threshold)


def _jump_relu_bwd(saved: tuple, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    pre, threshold = saved
    near = jnp.abs(pre - threshold) < BANDWIDTH / 2
    to_threshold = jnp.where(near, -threshold / BANDWIDTH, 0) * grad
    summed = tuple(i for i, n in enumerate(threshold.shape) if n == 1)
    return jnp.where(pre > threshold, grad, 0), to_threshold.sum(summed, keepdims=True)


jump_relu.defvjp(_jump_relu_fwd, _jump_relu_bwd)


def decode(
    params: Params, features: jax.Array, x: jax.Array | None, config: TranscoderConfig
) -> jax.Array:
    """Σ over incoming edges of f W_dec, plus b_dec and the skip: (L, ..., F) → (L, ..., D)."""
    graph = layer_graph(config)
    flat = features.reshape(features.shape[0], -1, features.shape[-1]).astype(config.dtype)

    def edge(total: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        weight, sender, receiver = inputs
        part = jnp.matmul(
            flat[sender], weight.astype(config.dtype), preferred_element_type=jnp.float32
        )
        return total.at[receiver].add(part), None

    start = jnp.broadcast_to(params["b_dec"][:, None], (*flat.shape[:2], config.d_model))
    edges = params["W_dec"], graph.senders, graph.receivers
    total, _ = jax.lax.scan(edge, start.astype(jnp.float32), edges)
    total = total.reshape(*features.shape[:-1], config.d_model)
    return total if x is None else total + skip(params, x)


def skip(params: Params, x: jax.Array) -> jax.Array:
    """W_skip x at every layer, or zero: (L, ..., D) → (L, ..., D)."""
    if "W_skip" not in params:
        return jnp.zeros((), x.dtype)
    return jnp.einsum("l...d,led->l...e", x, params["W_skip"])
