"""Rows of the adjacency matrix: gradients of many targets at once, from the top down.

A row is A[t, s] = (∂ t / ∂ place that s writes to) · (what s writes), for every source s. The
gradients of a batch of targets come down the frozen model together. At each layer they meet the
stacked decoders of the features that write there, position by position; gradients themselves are
never gathered. A batch starts at the highest layer of its targets and carries only positions up
to their last, since nothing after a target can act on it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.graphs.frozen import (
    GRADIENT,
    Frozen,
    layer_of,
    norm_back,
    out_back,
    sublayer_back,
    value_back,
    weight_of,
)
from hagd_jax.graphs.sources import Sources
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import constrain, replicate

_PARTS = ("length", "batch", "features")


class Targets(struct.PyTreeNode):
    """Targets are B linear functions of the residual stream.

    Attributes:
        vector: (B, D) gradient at the stream that the target reads.
        stage: (B,) where on the way up it reads: at `before_layer(l)` or `at_mlp(l)`; −1 for no
            target.
        position: (B,) of the token.
    """

    vector: jax.Array
    stage: jax.Array
    position: jax.Array

    __repr__ = one_line


def before_layer(layer: Any) -> Any:
    """Return the stage of the stream that a layer receives; for L, the final stream."""
    return 2 * layer


def at_mlp(layer: Any) -> Any:
    """Return the stage of the stream that a layer's MLP reads."""
    return 2 * layer + 1


class TargetRows(struct.PyTreeNode):
    """Rows hold the direct effect of each source on B targets.

    Attributes:
        values: (B, C) from features in the slots (L, T, K), then errors (L, T), then embeddings
            (T).
        total: (B,) their sum.
        mass: (B, 3) Σ|A| from features, from errors, from embeddings.
    """

    values: jax.Array
    total: jax.Array
    mass: jax.Array

    __repr__ = one_line


@functools.partial(jax.jit, static_argnames=("reads",))
def rows(
    model: LanguageModel,
    found: Sources,
    held: Frozen,
    targets: Targets,
    skip: jax.Array | None = None,
    *,
    reads: str = "mlp_in",
) -> TargetRows:
    """Compute the direct effects of all sources on a batch of targets.

    Positions are worked on in blocks, as many as the last target needs: that number is data, so
    prompts of one padded length share a program, and earlier targets cost less.

    Args:
        model: Bare.
        found: What writes.
        held: What is frozen.
        targets: B of them.
        skip: (L, D, D) a linear map from what features read to the MLP's output, or None.
        reads: The site that it reads.

    Returns:
        The `TargetRows`.
    """
    c, layers = model.config, len(found.activation)
    length, count = found.activation.shape[1], len(targets.stage)
    size = block_size(length)
    shape = length // size, size, count
    used = jnp.max(jnp.where(targets.stage >= 0, targets.position, 0)) // size + 1
    used = used if c.causal else jnp.int32(shape[0])
    gradient = _inject(jnp.zeros((length, count, c.d_model)), targets, before_layer(layers))
    gradient = constrain(gradient, GRADIENT, model.mesh).reshape(*shape, -1)
    features = jnp.zeros((layers, *shape, found.activation.shape[-1]))
    features = constrain(features, ("layers", None, *_PARTS), model.mesh)
    errors = jnp.zeros((layers, *shape))
    down = _Down(model, found, held, targets, skip, reads, size, used)
    # Above the highest target there is nothing to carry.
    first = jnp.clip(layers - 1 - jnp.max(targets.stage) // 2, 0, layers)
    carry = jax.lax.fori_loop(first, layers, down.layer, (gradient, features, errors))
    gradient, features, errors = carry
    gradient, errors = (gradient.reshape(length, count, -1), errors.reshape(layers, length, count))
    features = features.reshape(layers, length, count, -1) * found.activation[:, :, None]
    words = jnp.einsum("tbd,td->bt", gradient, found.embedding)
    parts = features.transpose(2, 0, 1, 3), errors.transpose(2, 0, 1), words
    flat = [part.reshape(count, -1) for part in parts]
    out = TargetRows(
        values=jnp.concatenate(flat, 1),
        total=jnp.stack([part.sum(1) for part in flat], 1).sum(1),
        mass=jnp.stack([jnp.abs(part).sum(1) for part in flat], 1),
    )
    return replicate(out, model.mesh)


def block_size(length: int) -> int:
    """Choose the positions in a block: at least 8, at most 16 blocks, all of one size.

    Example:
        >>> [block_size(length) for length in (8, 32, 48, 2048, 13)]
        [8, 8, 8, 128, 13]
    """
    sizes = range(max(8, -(-length // 16)), length + 1)
    return next((size for size in sizes if length % size == 0), length)


class _Down(NamedTuple):
    """How gradients come down one layer.

    They and what they meet are in blocks of positions, (blocks, size, B, ...).
    """

    model: LanguageModel
    found: Sources
    held: Frozen
    targets: Targets
    skip: jax.Array | None
    reads: str
    size: int
    used: jax.Array  # blocks that matter

    def layer(self, step: jax.Array, carry: tuple) -> tuple:
        """From the stream after a layer to the stream before it."""
        gradient, features, errors = carry
        c = self.model.config
        layer = c.n_layers - 1 - step
        params = layer_of(self.model.params["blocks"], layer)
        blocks, size, count, _ = gradient.shape
        values = jnp.zeros((blocks, c.n_kv_heads, size, count * c.d_head))

        def upper(i: jax.Array, carry: tuple) -> tuple:
            gradient, features, errors, values = carry
            here = layer_of(gradient, i)
            written = here
            if self.found.writes == "mlp_out_raw":
                gain = self.gain(self.held.gain_mlp, layer, i)
                written = sublayer_back(here, "mlp_out", params, gain, c)
            features = self.contract(layer, i, written, features)
            error = jax.lax.dynamic_slice_in_dim(layer_of(self.found.error, layer), i * size, size)
            errors = errors.at[layer, i].set(jnp.einsum("tbd,td->tb", written, error))
            before = here + self.read(layer, i, written, params)
            gain = self.gain(self.held.gain_attn, layer, i)
            into = here if c.parallel_residual else before
            into = sublayer_back(into, "attn_out", params, gain, c)
            values = self.mix(layer, i, out_back(into, params, self.model), values)
            gradient = jax.lax.dynamic_update_index_in_dim(gradient, before, i, 0)
            return gradient, features, errors, values

        gradient, features, errors, values = jax.lax.fori_loop(
            0, self.used, upper, (gradient, features, errors, values)
        )

        def lower(i: jax.Array, gradient: jax.Array) -> jax.Array:
            gain = self.gain(self.held.gain1, layer, i)
            back = value_back(layer_of(values, i), params, gain, self.model)
            # What reads the stream between two layers enters between them; nothing but queries
            # and keys does.
            return gradient.at[i].add(self.enter(back, before_layer(layer), i))

        return jax.lax.fori_loop(0, self.used, lower, gradient), features, errors

    def gain(self, gains: jax.Array, layer: jax.Array, i: jax.Array) -> jax.Array:
        """Slice the gains of one layer at a block of positions."""
        return jax.lax.dynamic_slice_in_dim(layer_of(gains, layer), i * self.size, self.size)

    def contract(
        self, layer: jax.Array, i: jax.Array, gradient: jax.Array, total: jax.Array
    ) -> jax.Array:
        """Add what features write to one layer's MLP output, whichever layers they are of."""
        found, into = self.found, _edges_into(self.found)

        def edge(n: jax.Array, total: jax.Array) -> jax.Array:
            number = jnp.asarray(into.edges)[layer, n]
            sender = jnp.asarray(found.senders)[number]
            if found.index is None:
                rows = layer_of(found.decoders, number).astype(jnp.float32)
                part = jnp.einsum("tbd,kd->tbk", gradient, rows)
            else:
                start = (number, i * self.size, 0, 0)
                shape = (1, self.size, *found.decoders.shape[2:])
                rows = jax.lax.dynamic_slice(found.decoders, start, shape)[0].astype(jnp.float32)
                part = jnp.einsum("tbd,tkd->tbk", gradient, rows)
            return total.at[sender, i].add(constrain(part, _PARTS, self.model.mesh))

        return jax.lax.fori_loop(0, jnp.asarray(into.count)[layer], edge, total)

    def read(self, layer: jax.Array, i: jax.Array, gradient: jax.Array, params: Any) -> jax.Array:
        """What enters where the MLP reads: the targets of this layer, and the skip connection."""
        read = self.enter(jnp.zeros_like(gradient), at_mlp(layer), i)
        if self.skip is None:
            return read
        back = gradient @ layer_of(self.skip, layer)
        if self.reads == "mlp_in":
            c, gain = self.model.config, self.gain(self.held.gain2, layer, i)
            back = norm_back(back, weight_of(params, "norm2", c), gain[:, None], c)
        return read + back

    def enter(self, gradient: jax.Array, stage: Any, i: jax.Array) -> jax.Array:
        """Add the targets of a stage to a block of positions."""
        local = self.targets.replace(position=self.targets.position - i * self.size)
        return _inject(gradient, local, stage)

    def mix(self, layer: jax.Array, i: jax.Array, heads: jax.Array, values: jax.Array) -> jax.Array:
        """Carry a block of positions to the earlier ones that it attends to.

        Args:
            layer: Which.
            i: The block that attends.
            heads: (K, G · size, B · Dh) gradients there, by key/value head.
            values: (blocks, K, size, B · Dh) sums so far at the blocks that are attended to.

        Returns:
            The sums.
        """
        c, size = self.model.config, self.size

        def to(j: jax.Array, values: jax.Array) -> jax.Array:
            start, shape = (layer, 0, i * size, j * size), (1, c.n_heads, size, size)
            pattern = jax.lax.dynamic_slice(self.held.pattern, start, shape)
            pattern = pattern.reshape(c.n_kv_heads, -1, size)
            return values.at[j].add(jnp.einsum("kts,ktx->ksx", pattern, heads))

        return jax.lax.fori_loop(0, i + 1 if c.causal else self.used, to, values)


def _inject(gradient: jax.Array, targets: Targets, stage: Any) -> jax.Array:
    """Add the vectors of the targets that read at a stage, at positions that are here."""
    here = (targets.stage == stage) & (targets.position >= 0)
    vector = jnp.where(here[:, None], targets.vector, 0)
    places = targets.position, jnp.arange(len(vector))
    return gradient.at[places].add(vector, mode="drop")


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
