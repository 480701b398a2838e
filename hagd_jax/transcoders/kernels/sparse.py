"""Feature activations as short lists: which features of a token are active, and how strongly.

With k of F features active, a decoder product, its gradients and the encoder's gradient touch
k rows of a weight matrix a token instead of F. The functions of `native/rows.cc` do this on CPU,
for the edges of all layers at once, in about a twentieth of the time of the dense products, which
say the same elsewhere (`dense.py`).

With a mesh, tokens are split over its batch axes and features over `model`: each device keeps the
active features that it owns, so a token's list has one part a device.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.kernels.products import (
    call,
    combine,
    edge_list,
    plain_combine,
    self_edges,
    spread,
)
from hagd_jax.transcoders.kernels.sharded import BATCH, MODEL, last_kept, mapped, shards

Params = dict[str, Any]


class Active(struct.PyTreeNode):
    """Active features are the indices and values of each token's nonzero features.

    Attributes:
        values: (..., N, K) activations; 0 fills up where fewer than K are active.
        indices: (..., N, K) int32, which features.
    """

    values: jax.Array
    indices: jax.Array

    __repr__ = one_line

    def dense(self, n_features: int) -> jax.Array:
        """Expand to (..., N, F), with an entry for every feature."""
        flat = self.values.reshape(-1, self.values.shape[-1])
        rows = jnp.arange(len(flat))[:, None]
        out = jnp.zeros((len(flat), n_features), flat.dtype)
        out = out.at[rows, self.indices.reshape(flat.shape)].add(flat)
        return out.reshape(*self.values.shape[:-1], n_features)


def encode(params: Params, x: jax.Array, config: TranscoderConfig, mesh: Mesh | None) -> Active:
    """Compute TopK(W_enc x + b_enc) at every layer.

    Args:
        params: `W_enc`, `b_enc`.
        x: (L, N, D).
        config: Of a `topk` transcoder.
        mesh: Devices, or None.

    Returns:
        (L, N, K) active features; gradients reach x and the active rows of the parameters.
    """
    found: Any = _encode(params["W_enc"], params["b_enc"], x, None, config, mesh)
    values, indices, _ = found
    return Active(values, indices)


def encode_with_dead(
    params: Params, x: jax.Array, dead: jax.Array, config: TranscoderConfig, mesh: Mesh | None
) -> tuple[Active, Active]:
    """Encode, and also keep the k strongest dead features, as if alone.

    Args:
        params: `W_enc`, `b_enc`.
        x: (L, N, D).
        dead: (L, F) bool.
        config: Of a `topk` transcoder.
        mesh: Devices, or None.

    Returns:
        The active features, and the dead ones.
    """
    found: Any = _encode(params["W_enc"], params["b_enc"], x, dead, config, mesh)
    values, indices, others = found
    return Active(values, indices), Active(*others)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
@jax.named_scope("encode")
def _encode(
    weight: jax.Array,
    bias: jax.Array,
    x: jax.Array,
    dead: jax.Array | None,
    config: TranscoderConfig,
    mesh: Any,
) -> tuple:
    # XLA on CPU multiplies bfloat16 twice as fast as float32, but only by a matrix that lies so.
    lies = (0, 1) if config.dtype == "float32" else (1, 0)
    weight = weight.transpose(0, *(1 + axis for axis in lies)).astype(config.dtype)

    def layer(_: None, inputs: tuple) -> tuple:
        weight, bias, x, dead = inputs
        x, weight = x.astype(config.dtype), weight.transpose(lies)
        pre = jnp.matmul(x, weight.T, preferred_element_type=jnp.float32) + bias
        found = topk(pre, config.k, mesh)
        if dead is None:
            return None, (*found, None)
        return None, (*found, topk(jnp.where(dead, pre, 0), config.k, mesh))

    return jax.lax.scan(layer, None, (weight, bias, x, dead))[1]


def _encode_fwd(weight: Any, bias: Any, x: Any, dead: Any, config: Any, mesh: Any) -> tuple:
    found = _encode(weight, bias, x, dead, config, mesh)
    return found, (weight, x, found)


@jax.named_scope("encode")
def _encode_bwd(config: TranscoderConfig, mesh: Any, saved: tuple, grads: tuple) -> tuple:
    weight, x, (values, indices, others) = saved
    to_values = jnp.where(values > 0, grads[0], 0)
    if others is not None:
        to_others = jnp.where(others[0] > 0, grads[2][0], 0)
        to_values, indices = _merge(to_values, to_others), _merge(indices, others[1])
    own = self_edges(len(x))
    to_weight, to_bias = spread(to_values, indices, x, own, weight.shape[1], mesh)
    to_x = plain_combine(to_values, indices, weight, own, mesh)
    return to_weight, to_bias, to_x.astype(x.dtype), None


_encode.defvjp(_encode_fwd, _encode_bwd)


def _merge(a: jax.Array, b: jax.Array) -> jax.Array:
    """Two lists as one, entry by entry, so that each device keeps its own part of both."""
    return jnp.stack([a, b], -1).reshape(*a.shape[:-1], -1)


def decode(
    params: Params, active: Active, config: TranscoderConfig, mesh: Mesh | None
) -> jax.Array:
    """Compute Σ over incoming edges of the active rows of W_dec, plus b_dec.

    Args:
        params: `W_dec`, `b_dec`.
        active: (L, N, K).
        config: The transcoder.
        mesh: Devices, or None.

    Returns:
        (L, N, D) reconstructions, without the skip.
    """
    written = combine(active.values, active.indices, params["W_dec"], edge_list(config), mesh)
    return written + params["b_dec"][:, None]


@jax.named_scope("topk")
def topk(pre: jax.Array, k: int, mesh: Mesh | None) -> tuple[jax.Array, jax.Array]:
    """Find the k largest positive entries of each row: (N, F) → values and indices (N, K).

    K is k a device of the `model` axis; a device lists only features that it owns, and zeros.
    Equal values: the lower index first.
    """

    def local(pre: jax.Array) -> tuple[jax.Array, jax.Array]:
        kept = min(k, pre.shape[-1])
        shape = (len(pre), kept)
        shapes = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, jnp.int32)
        values, indices = call("topk", shapes, pre)
        if shards(mesh) == 1:
            return values, indices
        smallest, last = last_kept(values, indices, k, pre.shape[-1])
        indices = indices + jax.lax.axis_index("model") * pre.shape[-1]
        selected = (values > smallest) | ((values == smallest) & (indices <= last))
        return jnp.where(selected, values, 0), indices

    lists = (BATCH, MODEL)
    return mapped(local, mesh, (lists,), (lists, lists))(pre)


def count(active: Active, n_features: int, mesh: Mesh | None) -> jax.Array:
    """Count the tokens on which each feature is active, (L, F)."""
    ones = (active.values > 0).astype(jnp.float32)
    nothing = jnp.zeros((*ones.shape[:2], 1))
    return spread(ones, active.indices, nothing, self_edges(len(ones)), n_features, mesh)[1]
