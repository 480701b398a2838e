"""Feature activations as arrays with an entry for every feature: what each formula says, plainly.

Everything a TPU or a GPU computes goes this way: a product with all features keeps their matrix
units busy. On CPU, `sparse.py` computes the same from active features alone.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.kernels.sharded import BATCH, MODEL, last_kept, mapped, shards

Params = dict[str, Any]
# Width of the rectangle that stands for the derivative of a step (Rajamanoharan et al., 2024,
# arXiv:2407.14435), in units of the normalised pre-activation.
BANDWIDTH = 0.05


def encode(
    params: Params, x: jax.Array, config: TranscoderConfig, mesh: Mesh | None = None
) -> jax.Array:
    """Compute act(W_enc x + b_enc) at every layer: (L, ..., D) → (L, ..., F)."""
    names = [name for name in ("W_enc", "b_enc", "threshold") if name in params]
    flat = x.reshape(x.shape[0], -1, x.shape[-1])

    def layer(inputs: tuple[Params, jax.Array]) -> jax.Array:
        own, x = inputs
        return activate(pre_activations(own, x, config), config, own.get("threshold"), mesh)

    found = jax.lax.map(layer, ({name: params[name] for name in names}, flat))
    return found.reshape(*x.shape[:-1], -1)


def pre_activations(own: Params, x: jax.Array, config: TranscoderConfig) -> jax.Array:
    """Compute W_enc x + b_enc of one layer: (N, D) → (N, F) float32."""
    weight, x = own["W_enc"].astype(config.dtype), x.astype(config.dtype)
    return jnp.matmul(x, weight.T, preferred_element_type=jnp.float32) + own["b_enc"]


def activate(
    pre: jax.Array,
    config: TranscoderConfig,
    threshold: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Apply the activation function to all features of one layer.

    Args:
        pre: (N, F) pre-activations.
        config: Which function.
        threshold: (F,), of `jump_relu`.
        mesh: Devices among which tokens and features are split, or None.

    Returns:
        (N, F) activations.
    """
    positive = jax.nn.relu(pre)
    if config.activation == "relu":
        return positive
    if config.activation == "jump_relu":
        assert threshold is not None
        return jump_relu(pre, threshold)
    if config.activation == "topk":
        return topk(positive, config.k, mesh)
    kth = kth_largest(positive, config.k)
    return jnp.where(positive >= jnp.maximum(kth, jnp.finfo(jnp.float32).tiny), positive, 0)


@jax.named_scope("topk")
def topk(positive: jax.Array, k: int, mesh: Mesh | None = None) -> jax.Array:
    """Keep the k largest of each row, lower indices first: (N, F) → (N, F), others zero.

    Each device sorts the features that it owns; only candidates travel between devices.
    """

    def local(positive: jax.Array) -> jax.Array:
        width = positive.shape[-1]
        # All of both is read: if the last column alone were, XLA on CPU would sort every row.
        values, indices = jax.lax.top_k(positive, min(k, width))
        smallest = values.min(-1, keepdims=True)
        last = jnp.where(values == smallest, indices, -1).max(-1, keepdims=True)
        index = jnp.arange(width)
        if shards(mesh) > 1:
            smallest, last = last_kept(values, indices, k, width)
            index = index + jax.lax.axis_index("model") * width
        return (positive > smallest) | ((positive == smallest) & (index <= last))

    whole = (BATCH, MODEL)
    kept = mapped(local, mesh, (whole,), whole)(jax.lax.stop_gradient(positive))
    return jnp.where(kept, positive, 0)


def kth_largest(values: jax.Array, k: int) -> jax.Array:
    """Find the (k · N)-th largest of (N, F) non-negative values.

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
    """Apply JumpReLU, z · 1[z > threshold], with straight-through threshold gradients."""
    return jnp.where(pre > threshold, pre, 0)


def _jump_relu_fwd(pre: jax.Array, threshold: jax.Array) -> tuple[jax.Array, tuple]:
    return jump_relu(pre, threshold), (pre, threshold)


def _jump_relu_bwd(saved: tuple, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    pre, threshold = saved
    near = jnp.abs(pre - threshold) < BANDWIDTH / 2
    to_threshold = jnp.where(near, -threshold / BANDWIDTH, 0) * grad
    return jnp.where(pre > threshold, grad, 0), to_threshold.sum(0)


jump_relu.defvjp(_jump_relu_fwd, _jump_relu_bwd)


@jax.named_scope("decode")
def decode(
    params: Params, features: jax.Array, x: jax.Array | None, config: TranscoderConfig
) -> jax.Array:
    """Compute Σ over incoming edges of f W_dec, plus b_dec and skip: (L, ..., F) → (L, ..., D)."""
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
    """Compute W_skip x at every layer, or zero: (L, ..., D) → (L, ..., D)."""
    if "W_skip" not in params:
        return jnp.zeros((), x.dtype)
    return jnp.einsum("l...d,led->l...e", x, params["W_skip"])
