"""Where nodes stand in a graph: leading eigenvectors of its normalised Laplacian."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from matfree import decomp, eig

from hagd_jax.hierarchy.weights import Weights


@functools.partial(jax.jit, static_argnames=("size", "krylov"))
def embed(
    weights: Weights, key: jax.Array, *, size: int, krylov: int, regularise: float = 0.05
) -> tuple[jax.Array, jax.Array]:
    """Rows of the leading eigenvectors, each of length 1 (Ng, Jordan & Weiss, 2001).

    L_sym = I − D^{-1/2} W D^{-1/2}, of which Lanczos finds the smallest eigenvalues with products
    W x alone. A graph in pieces has the eigenvalue 0 once a piece, and Lanczos finds an eigenvalue
    once; so all nodes are tied a little, by `regularise` of the mean degree (Amini et al., 2013,
    arXiv:1207.2340), and not quite evenly.

    Args:
        weights: W.
        key: Of the first vector and of what ties nodes.
        size: Eigenvectors, k.
        krylov: Products; at least k, at most N.
        regularise: Share of the mean degree that ties each node to all others.

    Returns:
        (N, k) rows, and (k,) eigenvalues of the regularised L_sym, rising.
    """
    first, tie = jax.random.split(key)
    count, degree = weights.count, weights.degree()
    mean = jnp.mean(degree)
    # Without any edge all nodes are tied alike.
    even = jax.random.uniform(tie, (count,), minval=0.8, maxval=1.2)
    rank_one = even * jnp.sqrt(jnp.where(mean > 0, regularise * mean, 1.0) / count)
    scale = jax.lax.rsqrt(degree + rank_one * rank_one.sum())

    def product(x: jax.Array) -> jax.Array:
        y = scale * x
        tied = weights.times(y) + rank_one * (rank_one @ y)
        # 2 − L has the same vectors, and the ones looked for at its upper end.
        return x + scale * tied

    start = jax.random.normal(first, (count,))
    solve = eig.eigh_partial(decomp.tridiag_sym(krylov, reortho="full", custom_vjp=False))
    values, vectors = solve(product, start)
    best = vectors[::-1][:size].T
    rows = best / jnp.maximum(jnp.linalg.norm(best, axis=1, keepdims=True), 1e-12)
    return rows, 2 - values[::-1][:size]
