"""Products of active rows with weight matrices, over the edges of all layers at once.

The three of them are each other's derivatives: sums of rows (`combine`), products of rows with
vectors (`dot`), and outer products summed by row (`spread`).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from hagd_jax.brief import one_line
from hagd_jax.parallel.rules import RULES
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.graph import layer_graph
from hagd_jax.transcoders.kernels import native
from hagd_jax.transcoders.kernels.sharded import BATCH, MODEL, mapped, shards, total


class EdgeList(NamedTuple):
    """A list of edges of the layer graph holds (E,) int32 senders and receivers."""

    senders: Any
    receivers: Any

    __repr__ = one_line


def edge_list(config: TranscoderConfig) -> EdgeList:
    """List the edges that `W_dec` has rows for."""
    graph = layer_graph(config)
    return EdgeList(graph.senders, graph.receivers)


def self_edges(n_layers: int) -> EdgeList:
    """List an edge from each layer to itself."""
    layers = np.arange(n_layers, dtype=np.int32)
    return EdgeList(layers, layers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
@jax.named_scope("decode")
def combine(
    values: jax.Array, indices: jax.Array, weight: jax.Array, edges: EdgeList, mesh: Any
) -> jax.Array:
    """Compute Σ over edges e from s to l of Σ_k values[s, n, k] · weight[e, indices[s, n, k]].

    Args:
        values: (L, N, K).
        indices: (L, N, K) int32.
        weight: (E, F, D).
        edges: E of them.
        mesh: Devices, or None.

    Returns:
        (L, N, D).
    """
    return plain_combine(values, indices, weight, edges, mesh)


def _combine_fwd(values: Any, indices: Any, weight: Any, edges: EdgeList, mesh: Any) -> tuple:
    return plain_combine(values, indices, weight, edges, mesh), (values, indices, weight, edges)


@jax.named_scope("decode")
def _combine_bwd(mesh: Any, saved: tuple, grad: jax.Array) -> tuple:
    values, indices, weight, edges = saved
    to_weight, _ = spread(values, indices, grad, edges, weight.shape[1], mesh)
    return _dot(grad, indices, weight, edges, mesh), None, to_weight, None


combine.defvjp(_combine_fwd, _combine_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def dot(
    x: jax.Array, indices: jax.Array, weight: jax.Array, edges: EdgeList, mesh: Any
) -> jax.Array:
    """Compute Σ over edges e from l to r of x[r, n] · weight[e, indices[l, n, k]].

    Args:
        x: (L, N, D).
        indices: (L, N, K) int32.
        weight: (E, F, D).
        edges: E of them.
        mesh: Devices, or None.

    Returns:
        (L, N, K).
    """
    return _dot(x, indices, weight, edges, mesh)


def _dot_fwd(x: Any, indices: Any, weight: Any, edges: EdgeList, mesh: Any) -> tuple:
    return _dot(x, indices, weight, edges, mesh), (x, indices, weight, edges)


def _dot_bwd(mesh: Any, saved: tuple, grad: jax.Array) -> tuple:
    x, indices, weight, edges = saved
    to_weight, _ = spread(grad, indices, x, edges, weight.shape[1], mesh)
    return plain_combine(grad, indices, weight, edges, mesh), None, to_weight, None


dot.defvjp(_dot_fwd, _dot_bwd)


# How the arguments are split over devices: (L, N, K) lists, (L, N, D) rows, (E, F, D) weights.
LISTS, ROWS, WEIGHTS = (None, BATCH, MODEL), (None, BATCH, None), (None, MODEL, None)
ENDS = ((None,), (None,))


def plain_combine(
    values: Any, indices: Any, weight: Any, edges: EdgeList, mesh: Mesh | None
) -> jax.Array:
    """Compute `combine` without a derivative, for the derivatives of others."""

    def local(values: jax.Array, indices: jax.Array, weight: jax.Array, *edges: Any) -> jax.Array:
        shape = jax.ShapeDtypeStruct((*values.shape[:2], weight.shape[-1]), jnp.float32)
        owned = _owned(indices, weight.shape[1], mesh)
        return total(call("combine", shape, values, owned, weight, *edges), mesh, ("model",))

    specs = (LISTS, LISTS, WEIGHTS, *ENDS)
    return mapped(local, mesh, specs, ROWS)(values, indices, weight, *edges)


def _dot(x: Any, indices: Any, weight: Any, edges: EdgeList, mesh: Mesh | None) -> jax.Array:
    def local(x: jax.Array, indices: jax.Array, weight: jax.Array, *edges: Any) -> jax.Array:
        shape = jax.ShapeDtypeStruct(indices.shape, jnp.float32)
        owned = _owned(indices, weight.shape[1], mesh)
        return call("dot", shape, x.astype(jnp.float32), owned, weight, *edges)

    specs = (ROWS, LISTS, WEIGHTS, *ENDS)
    return mapped(local, mesh, specs, LISTS)(x, indices, weight, *edges)


def spread(
    values: Any, indices: Any, x: Any, edges: EdgeList, n_features: int, mesh: Mesh | None
) -> tuple[jax.Array, jax.Array]:
    """Sum values · x, (E, F, D), and values alone, (L, F), for each feature."""
    here = n_features // shards(mesh)

    def local(values: jax.Array, indices: jax.Array, x: jax.Array, *edges: Any) -> tuple:
        shapes = (
            jax.ShapeDtypeStruct((len(edges[0]), here, x.shape[-1]), jnp.float32),
            jax.ShapeDtypeStruct((len(values), here), jnp.float32),
        )
        owned = _owned(indices, here, mesh)
        parts = call("spread", shapes, values, owned, x.astype(jnp.float32), *edges)
        return tuple(total(part, mesh, RULES["batch"].mesh_axes) for part in parts)

    outputs = (WEIGHTS, (None, MODEL))
    specs = (LISTS, LISTS, ROWS, *ENDS)
    return mapped(local, mesh, specs, outputs)(values, indices, x, *edges)


def call(name: str, shapes: Any, *args: Any) -> Any:
    """Call a function of `native/rows.cc`."""
    assert native.available()  # it registers them
    return jax.ffi.ffi_call(f"hagd_{name}", shapes)(*args)


def _owned(indices: jax.Array, width: int, mesh: Mesh | None) -> jax.Array:
    """Indices within this device's features, of which there are `width`."""
    return indices if shards(mesh) == 1 else indices - jax.lax.axis_index("model") * width
