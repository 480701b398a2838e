"""Tokens sorted by their experts, so that an expert sees only the tokens that use it.

Rows, one for each token and expert it uses, lie in blocks of one expert each. Blocks have a fixed
size, so that shapes do not depend on the choice; what is left of an expert's last block is empty.
A loop over blocks slices the expert's weights out of those of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hagd_jax.models.config import DecoderConfig


class Size(NamedTuple):
    """A size is what is known before the choice.

    Attributes:
        slots: Experts a token may use.
        rows: Rows of a block.
        blocks: Blocks, enough for any choice.
    """

    slots: int
    rows: int
    blocks: int


class Rows(NamedTuple):
    """Rows are the choice of every token, sorted by expert.

    Attributes:
        chosen: (N, S) experts of each token.
        weight: (N, S) their weights.
        place: (N, S) which row each is.
        token: (blocks, rows) whose row it is; N for an empty one.
        expert: (blocks,) of each block.
    """

    chosen: jax.Array
    weight: jax.Array
    place: jax.Array
    token: jax.Array
    expert: jax.Array


def size(config: DecoderConfig, tokens: int) -> Size | None:
    """Choose the size of blocks, or None where sorting saves less than half of the work.

    Args:
        config: The decoder.
        tokens: N, of all prompts.

    Example:
        >>> config = DecoderConfig(vocab_size=9, n_layers=1, d_model=8, n_heads=2, d_mlp=256,
        ...                        mlp_bias=False, experts=128, experts_per_token=8)
        >>> size(config, 2048), size(config, 4)
        (Size(slots=8, rows=64, blocks=384), None)
    """
    slots = max(config.experts_per_token, math.ceil(config.d_dense / config.d_expert))
    # Half of an expert's mean share: a quarter of it is empty in the mean.
    rows = 8 * math.ceil(tokens * slots / (16 * config.experts))
    blocks = tokens * slots // rows + min(config.experts, tokens * slots)
    return Size(slots, rows, blocks) if 2 * rows * blocks <= tokens * config.experts else None


def sort(router: jax.Array, size: Size) -> Rows:
    """Sort tokens by the experts that have their largest weights.

    Args:
        router: (N, E) weights.
        size: Of the blocks.

    Returns:
        The rows. Weights beyond the `size.slots` largest of a token are in none of them.
    """
    tokens, experts = router.shape
    weight, chosen = jax.lax.top_k(router, size.slots)
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat)
    count = jnp.bincount(flat, length=experts)
    filled = -(-count // size.rows)  # blocks of each expert
    of = flat[order]
    rank = jnp.arange(len(flat)) - (jnp.cumsum(count) - count)[of]
    sorted_place = (jnp.cumsum(filled) - filled)[of] * size.rows + rank
    token = jnp.full(size.blocks * size.rows, tokens).at[sorted_place].set(order // size.slots)
    expert = jnp.searchsorted(jnp.cumsum(filled), jnp.arange(size.blocks), side="right")
    return Rows(
        chosen,
        weight,
        jnp.zeros_like(flat).at[order].set(sorted_place).reshape(chosen.shape),
        token.reshape(size.blocks, size.rows),
        jnp.minimum(expert, experts - 1),
    )


class Weights(NamedTuple):
    """The weights are the matrices of all experts of a layer.

    Attributes:
        read: (D, M) each: what neurons read by, the gate's last if there is one.
        write: (M, D).
        act: From what was read to the neurons, elementwise.
    """

    read: tuple[jax.Array, ...]
    write: jax.Array
    act: Callable[..., jax.Array]


def neurons(x: jax.Array, rows: Rows, weights: Weights, inside: jax.Array) -> jax.Array:
    """Compute the neurons of the experts that tokens use, times the experts' weights.

    Args:
        x: (N, D).
        rows: The choice.
        weights: Of the layer.
        inside: (E, F) false for neurons that the layer does not have.

    Returns:
        (blocks, rows, F), zero in empty rows.
    """
    each = inside.shape[1]
    read = jnp.pad(x, ((0, 1), (0, 0)))[rows.token]
    active = weights.act(*_times(read, rows, weights.read, 1, each))
    weight = _to_rows(rows.weight, rows).reshape(rows.token.shape)
    # Held together, so that reading them on the way changes nothing.
    return jax.lax.optimization_barrier(active * weight[..., None] * inside[rows.expert][:, None])


def write(active: jax.Array, rows: Rows, weights: Weights) -> jax.Array:
    """Multiply neurons by W_out, and sum over the experts of each token: (N, D)."""
    (out,) = _times(active, rows, (weights.write,), 0, active.shape[-1])
    out = out.reshape(-1, out.shape[-1])[rows.place]
    return out.astype(jnp.promote_types(out.dtype, jnp.float32)).sum(1).astype(out.dtype)


def spread(active: jax.Array, rows: Rows, experts: int) -> jax.Array:
    """Put the neurons of rows where all experts' are, zero in those not used: (N, E, F)."""
    width = active.shape[-1]
    nothing = jnp.zeros((len(rows.chosen), experts, width), active.dtype)
    return nothing.at[_each(rows)].set(active.reshape(-1, width)[rows.place])


def gather(neurons: jax.Array, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """Split all experts' neurons into those of rows, and the others where they were."""
    at = _each(rows)
    active = _to_rows(neurons[at], rows)
    return active.reshape(*rows.token.shape, -1), neurons.at[at].set(0)


def others(router: jax.Array, rows: Rows) -> jax.Array:
    """Return the weights that are in none of the rows: (N, E)."""
    return router.at[_each(rows)].set(0)


def _each(rows: Rows) -> tuple[jax.Array, jax.Array]:
    return jnp.arange(len(rows.chosen))[:, None], rows.chosen


def _to_rows(values: jax.Array, rows: Rows) -> jax.Array:
    """(N, S, ...) values in the order of rows, empty ones zero: (blocks · rows, ...)."""
    nothing = jnp.zeros((rows.token.size, *values.shape[2:]), values.dtype)
    return nothing.at[rows.place].set(values)


def _times(
    values: jax.Array, rows: Rows, kernels: tuple[jax.Array, ...], axis: int, each: int
) -> list[jax.Array]:
    """Multiply each block by its expert's part of every kernel, which lies along `axis`."""
    wide = jnp.promote_types(values.dtype, jnp.float32)

    def block(inputs: tuple[jax.Array, jax.Array]) -> list[jax.Array]:
        value, expert = inputs
        own = [jax.lax.dynamic_slice_in_dim(k, expert * each, each, axis) for k in kernels]
        parts = [jnp.matmul(value, k.astype(value.dtype), preferred_element_type=wide) for k in own]
        return [part.astype(value.dtype) for part in parts]

    return jax.lax.map(block, (values, rows.expert))
