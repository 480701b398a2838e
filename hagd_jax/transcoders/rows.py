"""Feature activations as short lists: which features of a token are active, and how strongly.

With k of F features active, a decoder product, its gradients and the encoder's gradient touch
k rows of a weight matrix a token instead of F. On CPU the functions of `native/rows.cc` do this
in about a twentieth of the time of the dense products (`features.py`); where they are not
available, gathers and segment sums say the same in XLA.

With a mesh, tokens are split over its batch axes and features over `model`: each device keeps the
active features that it owns, so a token's list has one part a device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from hagd_jax.parallel.rules import RULES
from hagd_jax.transcoders import native
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.sharded import BATCH, MODEL, last_kept, mapped, shards, total

Params = dict[str, Any]


class Active(struct.PyTreeNode):
    """A token's active features.

    Attributes:
        values: (..., N, K) activations; 0 fills up where fewer than K are active.
        indices: (..., N, K) int32, which features.
    """

    values: jax.Array
    indices: jax.Array

    def dense(self, n_features: int) -> jax.Array:
        """(..., N, F) with an entry for every feature."""
        flat = self.values.reshape(-1, self.values.shape[-1])
        rows = jnp.arange(len(flat))[:, None]
        out = jnp.zeros((len(flat), n_features), flat.dtype)
        out = out.at[rows, self.indices.reshape(flat.shape)].add(flat)
        return out.reshape(*self.values.shape[:-1], n_features)


def encode(params: Params, x: jax.Array, config: TranscoderConfig, mesh: Mesh | None) -> Active:
    """TopK(W_enc x + b_enc) at every layer.

    Args:
        params: `W_enc`, `b_enc`.
        x: (L, N, D).
        config: Of a `topk` transcoder.
        mesh: Devices, or None.

    Returns:
        (L, N, K) active features; gradients reach x and the active rows of the parameters.
    """
    found: Any = _encode(params["W_enc"], params["b_enc"], x, None, config.k, mesh)
    values, indices, _ = found
    return Active(values, indices)


def encode_with_dead(
    params: Params, x: jax.Array, dead: jax.Array, config: TranscoderConfig, mesh: Mesh | None
) -> tuple[Active, Active]:
    """As `encode`, and the strongest k of the dead features, as if the others did not exist.

    Args:
        params: `W_enc`, `b_enc`.
        x: (L, N, D).
        dead: (L, F) bool.
        config: Of a `topk` transcoder.
        mesh: Devices, or None.

    Returns:
        The active features, and the dead ones.
    """
    found: Any = _encode(params["W_enc"], params["b_enc"], x, dead, config.k, mesh)
    values, indices, others = found
    return Active(values, indices), Active(*others)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _encode(
    weight: jax.Array, bias: jax.Array, x: jax.Array, dead: jax.Array | None, k: int, mesh: Any
) -> tuple:
    def layer(_: None, inputs: tuple) -> tuple:
        weight, bias, x, dead = inputs
        pre = jnp.matmul(x, weight.T, preferred_element_type=jnp.float32) + bias
        found = topk(pre, k, mesh)
        if dead is None:
            return None, (*found, None)
        none = jnp.zeros_like(found[0]), found[1]
        others = jax.lax.cond(
            dead.any(), lambda: topk(jnp.where(dead, pre, 0), k, mesh), lambda: none
        )
        return None, (*found, others)

    return jax.lax.scan(layer, None, (weight, bias, x, dead))[1]


def _encode_fwd(weight: Any, bias: Any, x: Any, dead: Any, k: int, mesh: Any) -> tuple:
    found = _encode(weight, bias, x, dead, k, mesh)
    return found, (weight, x, found)


def _encode_bwd(k: int, mesh: Any, saved: tuple, grads: tuple) -> tuple:
    weight, x, (values, indices, others) = saved
    to_values = jnp.where(values > 0, grads[0], 0)
    if others is not None:
        to_others = jnp.where(others[0] > 0, grads[2][0], 0)
        to_values, indices = _merge(to_values, to_others), _merge(indices, others[1])

    def layer(_: None, inputs: tuple) -> tuple:
        weight, x, to_values, indices = inputs
        to_weight, to_bias = _spread(to_values, indices, x, weight.shape[0], mesh)
        return None, (to_weight, to_bias, _combine(to_values, indices, weight, mesh))

    # Explicit scans here and in `_decode`: differentiating a scan would store the weights again.
    _, (to_weight, to_bias, to_x) = jax.lax.scan(layer, None, (weight, x, to_values, indices))
    return to_weight, to_bias, to_x.astype(x.dtype), None


_encode.defvjp(_encode_fwd, _encode_bwd)


def _merge(a: jax.Array, b: jax.Array) -> jax.Array:
    """Two lists as one, entry by entry, so that each device keeps its own part of both."""
    return jnp.stack([a, b], -1).reshape(*a.shape[:-1], -1)


def decode(
    params: Params, active: Active, config: TranscoderConfig, mesh: Mesh | None
) -> jax.Array:
    """Σ over incoming edges of the active rows of W_dec, plus b_dec.

    Args:
        params: `W_dec`, `b_dec`.
        active: (L, N, K).
        config: The transcoder.
        mesh: Devices, or None.

    Returns:
        (L, N, D) reconstructions, without the skip.
    """
    written = _decode(params["W_dec"], active.values, active.indices, config, mesh)
    return written + params["b_dec"][:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _decode(
    weight: jax.Array, values: jax.Array, indices: jax.Array, config: TranscoderConfig, mesh: Any
) -> jax.Array:
    graph = layer_graph(config)

    def edge(written: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        weight, sender, receiver = inputs
        part = _combine(values[sender], indices[sender], weight, mesh)
        return written.at[receiver].add(part), None

    start = jnp.zeros((*values.shape[:2], weight.shape[-1]), jnp.float32)
    return jax.lax.scan(edge, start, (weight, graph.senders, graph.receivers))[0]


def _decode_fwd(weight: Any, values: Any, indices: Any, config: Any, mesh: Any) -> tuple:
    return _decode(weight, values, indices, config, mesh), (weight, values, indices)


def _decode_bwd(config: TranscoderConfig, mesh: Any, saved: tuple, grad: jax.Array) -> tuple:
    weight, values, indices = saved
    graph = layer_graph(config)

    def edge(to_values: jax.Array, inputs: tuple) -> tuple[jax.Array, jax.Array]:
        weight, sender, receiver = inputs
        part = _dot(grad[receiver], indices[sender], weight, mesh)
        to_weight, _ = _spread(
            values[sender], indices[sender], grad[receiver], weight.shape[0], mesh
        )
        return to_values.at[sender].add(part), to_weight

    edges = weight, graph.senders, graph.receivers
    to_values, to_weight = jax.lax.scan(edge, jnp.zeros_like(values), edges)
    return to_weight, to_values, None


_decode.defvjp(_decode_fwd, _decode_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def combine(values: jax.Array, indices: jax.Array, weight: jax.Array, mesh: Any) -> jax.Array:
    """Σ_k values[n, k] · weight[indices[n, k]]: (N, K), (N, K), (F, D) → (N, D)."""
    return _combine(values, indices, weight, mesh)


def _combine_fwd(values: Any, indices: Any, weight: Any, mesh: Any) -> tuple:
    return _combine(values, indices, weight, mesh), (values, indices, weight)


def _combine_bwd(mesh: Any, saved: tuple, grad: jax.Array) -> tuple:
    values, indices, weight = saved
    to_weight, _ = _spread(values, indices, grad, weight.shape[0], mesh)
    return _dot(grad, indices, weight, mesh), None, to_weight


combine.defvjp(_combine_fwd, _combine_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def dot(x: jax.Array, indices: jax.Array, weight: jax.Array, mesh: Any) -> jax.Array:
    """x[n] · weight[indices[n, k]]: (N, D), (N, K), (F, D) → (N, K)."""
    return _dot(x, indices, weight, mesh)


def _dot_fwd(x: Any, indices: Any, weight: Any, mesh: Any) -> tuple:
    return _dot(x, indices, weight, mesh), (x, indices, weight)


def _dot_bwd(mesh: Any, saved: tuple, grad: jax.Array) -> tuple:
    x, indices, weight = saved
    to_weight, _ = _spread(grad, indices, x, weight.shape[0], mesh)
    return _combine(grad, indices, weight, mesh), None, to_weight


dot.defvjp(_dot_fwd, _dot_bwd)


def topk(pre: jax.Array, k: int, mesh: Mesh | None) -> tuple[jax.Array, jax.Array]:
    """The k largest positive entries of each row: (N, F) → values and indices (N, K).

    K is k a device of the `model` axis; a device lists only features that it owns, and zeros.
    Equal values: the lower index first.
    """

    def local(pre: jax.Array) -> tuple[jax.Array, jax.Array]:
        kept = min(k, pre.shape[-1])
        values, indices = _native("topk", _topk_call(kept), _topk_xla(kept), pre)
        if shards(mesh) == 1:
            return values, indices
        smallest, last = last_kept(values, indices, k, pre.shape[-1])
        indices = indices + jax.lax.axis_index("model") * pre.shape[-1]
        selected = (values > smallest) | ((values == smallest) & (indices <= last))
        return jnp.where(selected, values, 0), indices

    lists = (BATCH, MODEL)
    return mapped(local, mesh, (lists,), (lists, lists))(pre)


def count(active: Active, n_features: int, mesh: Mesh | None) -> jax.Array:
    """(L, F) how many tokens each feature is active on."""

    def layer(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        values, indices = inputs
        ones = (values > 0).astype(jnp.float32)
        return _spread(ones, indices, jnp.zeros((len(values), 1)), n_features, mesh)[1]

    return jax.lax.map(layer, (active.values, active.indices))


def _combine(values: Any, indices: Any, weight: Any, mesh: Mesh | None) -> jax.Array:
    def local(values: jax.Array, indices: jax.Array, weight: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct((len(values), weight.shape[1]), jnp.float32)
        args = values, _owned(indices, weight, mesh), weight
        part = _native("combine", shape, lambda v, i, w: jnp.einsum("nk,nkd->nd", v, w[i]), *args)
        return total(part, mesh, ("model",))

    lists = (BATCH, MODEL)
    specs = (lists, lists, (MODEL, None))
    return mapped(local, mesh, specs, (BATCH, None))(values, indices, weight)


def _dot(x: Any, indices: Any, weight: Any, mesh: Mesh | None) -> jax.Array:
    def local(x: jax.Array, indices: jax.Array, weight: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct(indices.shape, jnp.float32)
        args = x.astype(jnp.float32), _owned(indices, weight, mesh), weight
        return _native("dot", shape, lambda x, i, w: jnp.einsum("nd,nkd->nk", x, w[i]), *args)

    lists = (BATCH, MODEL)
    specs = ((BATCH, None), lists, (MODEL, None))
    return mapped(local, mesh, specs, lists)(x, indices, weight)


def _spread(
    values: Any, indices: Any, x: Any, n_features: int, mesh: Mesh | None
) -> tuple[jax.Array, jax.Array]:
    """Σ of values · x[n], and of values alone, into the features they belong to."""
    owned = n_features // shards(mesh)

    def local(values: jax.Array, indices: jax.Array, x: jax.Array) -> tuple:
        shapes = (
            jax.ShapeDtypeStruct((owned, x.shape[1]), jnp.float32),
            jax.ShapeDtypeStruct((owned,), jnp.float32),
        )

        def plain(values: jax.Array, indices: jax.Array, x: jax.Array) -> tuple:
            outer = (values[..., None] * x[:, None]).reshape(-1, x.shape[1])
            add = functools.partial(jax.ops.segment_sum, num_segments=owned)
            return add(outer, indices.ravel()), add(values.ravel(), indices.ravel())

        indices = _owned(indices, jnp.empty((owned, 0)), mesh)
        parts = _native("spread", shapes, plain, values, indices, x.astype(jnp.float32))
        return tuple(total(part, mesh, RULES["batch"].mesh_axes) for part in parts)

    lists = (BATCH, MODEL)
    specs = (lists, lists, (BATCH, None))
    return mapped(local, mesh, specs, ((MODEL, None), (MODEL,)))(values, indices, x)


def _topk_call(k: int) -> Callable[[jax.Array], tuple]:
    return lambda pre: (
        jax.ShapeDtypeStruct((pre.shape[0], k), jnp.float32),
        jax.ShapeDtypeStruct((pre.shape[0], k), jnp.int32),
    )


def _topk_xla(k: int) -> Callable[[jax.Array], tuple]:
    return lambda pre: tuple(jax.lax.top_k(jax.nn.relu(pre), k))


def _native(name: str, shapes: Any, plain: Callable, *args: jax.Array) -> Any:
    """The CPU's own code where it is compiled for CPU and available, XLA's elsewhere."""
    if not native.available():
        return plain(*args)
    shapes = shapes(*args) if callable(shapes) else shapes
    return jax.lax.platform_dependent(
        *args, cpu=jax.ffi.ffi_call(f"hagd_{name}", shapes), default=plain
    )


def _owned(indices: jax.Array, weight: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Indices within this device's features."""
    if shards(mesh) == 1:
        return indices
    return indices - jax.lax.axis_index("model") * weight.shape[0]
