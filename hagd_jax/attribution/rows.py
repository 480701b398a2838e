"""Rows of the adjacency matrix: gradients of many targets at once, from the top down.

A row is A[t, s] = (∂ t / ∂ place that s writes to) · (what s writes), for every source s. The
gradients of a batch of targets come down the frozen model together. At each layer they meet the
stacked decoders of the features that write there, position by position; gradients themselves are
never gathered. A batch starts at the highest layer of its targets and carries only positions up
to their last, since nothing after a target can act on it.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hagd_jax.attribution.frozen import (
    GRADIENT,
    Frozen,
    attention_back,
    layer_of,
    norm_back,
    weight_of,
)
from hagd_jax.attribution.sources import Sources
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import constrain, replicate


class Targets(struct.PyTreeNode):
    """B linear functions of the residual stream.

    Attributes:
        vector: (B, D) gradient at the stream that the target reads.
        layer: (B,) which layer's MLP reads there; L for the final stream, −1 for no target.
        position: (B,) where.
    """

    vector: jax.Array
    layer: jax.Array
    position: jax.Array


class Rows(struct.PyTreeNode):
    """What B targets owe to each source, at the first P positions.

    Attributes:
        features: (B, L, P, K) from the features in the slots.
        errors: (B, L, P) from what features do not explain.
        embeddings: (B, P) from token embeddings.
    """

    features: jax.Array
    errors: jax.Array
    embeddings: jax.Array


@functools.partial(jax.jit, static_argnames=("length", "reads"))
def rows(
    model: LanguageModel,
    found: Sources,
    held: Frozen,
    targets: Targets,
    *,
    length: int,
    skip: jax.Array | None = None,
    reads: str = "mlp_in",
) -> Rows:
    """Rows of a batch of targets.

    Args:
        model: Bare.
        found: What writes.
        held: What is frozen.
        targets: B of them, none at a position beyond `length`.
        length: P ≤ T positions are looked at.
        skip: (L, D, D) a linear map from what features read to the MLP's output, or None.
        reads: The site that it reads.

    Returns:
        The `Rows`.
    """
    c, blocks = model.config, model.params["blocks"]
    count, targets_n = len(found.activation), len(targets.layer)
    slots = found.activation.shape[-1]
    receiving = _edges_into(found)
    dense = found.index is None

    def contract(layer: jax.Array, gradient: jax.Array, total: jax.Array) -> jax.Array:
        """Add what features write to one layer's MLP output, whichever layers they are of."""

        def edge(i: jax.Array, total: jax.Array) -> jax.Array:
            number = jnp.asarray(receiving.edges)[layer, i]
            sender = jnp.asarray(found.senders)[number]
            own = layer_of(found.decoders, number).astype(jnp.float32)
            if dense:
                part = jnp.einsum("tbd,kd->tbk", gradient, own)
            else:
                part = jnp.einsum("tbd,tkd->tbk", gradient, own[:length])
            part = constrain(part, ("length", "batch", "features"), model.mesh)
            if found.window == 0:
                return jax.lax.dynamic_update_index_in_dim(total, part, sender, 0)
            return total.at[sender].add(part)

        return jax.lax.fori_loop(0, jnp.asarray(receiving.count)[layer], edge, total)

    def down(step: jax.Array, carry: tuple) -> tuple:
        gradient, features, errors = carry
        layer = count - 1 - step
        features = contract(layer, gradient, features)
        wrote = jnp.einsum("tbd,td->tb", gradient, layer_of(found.error, layer)[:length])
        errors = jax.lax.dynamic_update_index_in_dim(errors, wrote, layer, 0)
        block = layer_of(blocks, layer)
        pattern, gain1, gain2 = layer_of((held.pattern, held.gain1, held.gain2), layer)
        pattern, gain1, gain2 = pattern[:, :length, :length], gain1[:length], gain2[:length]
        read = _inject(jnp.zeros_like(gradient), targets, layer)
        if skip is not None:
            back = gradient @ layer_of(skip, layer)
            if reads == "mlp_in":
                back = norm_back(back, weight_of(block, "norm2"), gain2[:, None], c)
            read = read + back
        before = gradient + read
        into = gradient if c.parallel_residual else before
        return before + attention_back(into, block, pattern, gain1, model), features, errors

    top = jnp.max(targets.layer)
    start = _inject(jnp.zeros((length, targets_n, c.d_model)), targets, jnp.int32(count))
    start = constrain(start, GRADIENT, model.mesh)
    features = jnp.zeros((count, length, targets_n, slots))
    features = constrain(features, ("layers", "length", "batch", "features"), model.mesh)
    errors = jnp.zeros((count, length, targets_n))
    first = jnp.maximum(count - 1 - top, 0)
    carry = jax.lax.fori_loop(first, count, down, (start, features, errors))
    gradient, features, errors = carry
    features = features * found.activation[:, :length, None]
    out = Rows(
        features.transpose(2, 0, 1, 3),
        errors.transpose(2, 0, 1),
        jnp.einsum("tbd,td->bt", gradient, found.embedding[:length]),
    )
    return replicate(out, model.mesh)


def _inject(gradient: jax.Array, targets: Targets, layer: jax.Array) -> jax.Array:
    """Add the vectors of the targets that read at a layer."""
    here = jnp.where((targets.layer == layer)[:, None], targets.vector, 0)
    return gradient.at[targets.position, jnp.arange(len(here))].add(here)


class _Into(struct.PyTreeNode):
    """Edges of the layer graph by receiver.

    Attributes:
        edges: (L, W) numbers of the edges into each layer, rising.
        count: (L,) how many they are.
    """

    edges: Any
    count: Any


def _edges_into(found: Sources) -> _Into:
    receivers, layers = np.asarray(found.receivers), len(found.activation)
    groups = [np.flatnonzero(receivers == layer) for layer in range(layers)]
    count = np.array([len(group) for group in groups], np.int32)
    table = np.zeros((layers, max(count)), np.int32)
    for layer, group in enumerate(groups):
        table[layer, : len(group)] = group
    return _Into(table, count)
