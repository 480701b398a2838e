"""Edges between nodes, from what they write and read: of two layers, or of chosen features."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from hagd_jax.scores.flow import Directions, Flow


@functools.partial(jax.jit, static_argnames="parallel")
def block(
    along: Directions, found: Flow, to: jax.Array, frm: jax.Array, parallel: bool
) -> jax.Array:
    """Score the edges between all nodes of two layers.

    Args:
        along: What features read and write.
        found: What nodes do, on B prompts of T positions.
        to: () int32 the readers' layer.
        frm: () int32 the writers'.
        parallel: Whether MLPs stand beside attention instead of behind it.

    Returns:
        (H + F, H + F) [reader, writer] sums over prompts; 0 where the writer comes no earlier.
    """
    hops = jnp.clip(to - frm, 1, along.reach[frm])
    out = along.out[along.own[frm] + hops - 1]
    moved, read = (_positions(x) for x in (found.head_move[frm], found.head_read[to]))
    move, pull = _flat(found.move[frm]), _flat(found.pull[:, to])
    into, written = along.into[:, to], along.heads[frm]
    between = sum(((i @ out.T) * (p @ move.T) for i, p in zip(into, pull, strict=True)))
    # A head puts out a vector a position: weighed by how much each reader minds, then read.
    seen = sum(
        jnp.einsum("fhk,hpk,fp->fh", jnp.einsum("fd,hkd->fhk", i, written), moved, p)
        for i, p in zip(into, pull, strict=True)
    )
    minded = jnp.einsum("gfd,fd->gf", jnp.einsum("gpd,fp->gfd", read, move), out)
    heads = jnp.einsum("gpd,hpd->gh", read, jnp.einsum("hpk,hkd->hpd", moved, written))
    later, beside = to > frm, (to == frm) & (not parallel)
    to_heads = jnp.where(later, jnp.concatenate([heads, minded], 1), 0)
    from_heads = jnp.where(later | beside, seen, 0)
    to_features = jnp.concatenate([from_heads, jnp.where(later, between, 0)], 1)
    return jnp.concatenate([to_heads, to_features])


def _flat(x: jax.Array) -> jax.Array:
    """(..., B, T) → (..., P)."""
    return x.reshape(*x.shape[:-2], -1)


def _positions(x: jax.Array) -> jax.Array:
    """(H, B, T, D) → (H, P, D)."""
    return x.reshape(len(x), -1, x.shape[-1])


def chosen_edges(along: Directions, found: Flow, chosen: jax.Array, *, parallel: bool) -> jax.Array:
    """Score the edges between all heads and some features.

    Args:
        along: What features read and write.
        found: What nodes do, on B prompts of T positions.
        chosen: (M,) int32 features, numbered layer by layer.
        parallel: Whether MLPs stand beside attention instead of behind it.

    Returns:
        (L · H + M, L · H + M) [reader, writer] sums over prompts, heads first.
    """
    layers, width = found.move.shape[:2]
    layer, index = jnp.divmod(chosen, width)
    move, pull = _flat(found.move[layer, index]), _flat(found.pull[:, layer, index])
    into = along.into[:, layer, index]
    reach = along.reach[layer]
    depth = jnp.repeat(jnp.arange(layers), found.head_read.shape[1])
    heads = depth.shape[0]
    hops = lambda to: jnp.clip(to[:, None] - layer, 1, reach)  # noqa: E731
    zero = jnp.zeros((heads + len(chosen), len(chosen)))
    reads = found.head_read.reshape(heads, -1, found.head_read.shape[-1])

    def along_edge(hop: jax.Array, total: jax.Array) -> jax.Array:
        # What a feature has written by the time it is read depends on how far above it that is.
        out = along.out[along.own[layer] + jnp.minimum(hop, reach) - 1, index]
        rows = sum((i @ out.T) * (p @ move.T) for i, p in zip(into, pull, strict=True))
        minded = jax.lax.map(lambda read: jnp.einsum("pd,md,mp->m", read, out, move), reads)
        here = hops(jnp.concatenate([depth, layer])) == hop
        return total + jnp.where(here, jnp.concatenate([minded, rows]), 0)

    from_features = jax.lax.fori_loop(1, reach.max() + 1, along_edge, zero)

    def head(parts: tuple[jax.Array, jax.Array]) -> jax.Array:
        moved, written = parts
        seen = sum(
            jnp.sum((p @ moved) * (i @ written.T), -1) for i, p in zip(into, pull, strict=True)
        )
        wrote = moved @ written
        return jnp.concatenate([jnp.einsum("gpd,pd->g", reads, wrote), seen])

    moves = found.head_move.reshape(heads, -1, found.head_move.shape[-1])
    writes = along.heads.reshape(heads, *along.heads.shape[2:])
    from_heads = jax.lax.map(head, (moves, writes)).T
    readers = jnp.concatenate([2 * depth, 2 * layer + (0 if parallel else 1)])
    writers = jnp.concatenate([2 * depth + 1, 2 * layer + 2])
    every = jnp.concatenate([from_heads, from_features], 1)
    return jnp.where(writers <= readers[:, None], every, 0)
