"""Spectral embedding: leading eigenvectors of a graph's normalised Laplacian."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from hagd_jax.errors import InputError, require_index, require_is, shown
from hagd_jax.hierarchy.weights import Weights
from hagd_jax.models.arrays import read_array, require_key

# Up to this many nodes the whole spectrum is computed, which finds any multiplicity.
EXACT = 512
# Eigenvalues nearer than this count as one: a few times the error of `eigh` in float32; and by how
# much, as a share of `regularise`, uneven ties split the eigenvalue that equal pieces share.
_EQUAL, _SPLIT = 1e-5, 0.2
# Block iteration: spare vectors, the residual norm that ends it, and the largest number of cycles.
_SPARE, _RESIDUAL, _CYCLES = 4, 1e-3, 12
# A direction shorter than this share of what it was before projection is rounding error.
_LOST = 1e-4
# Eigenvalues within about this distance pass the filter, a polynomial of this degree.
_WIDTH, _DEGREE = 0.05, 128


def embed(
    weights: Weights, key: jax.Array, *, size: int, krylov: int, regularise: float = 0.05
) -> tuple[jax.Array, jax.Array]:
    """Embed nodes by the leading eigenvectors, with rows of length 1 (Ng, Jordan & Weiss, 2001).

    The eigenvectors are those of the smallest eigenvalues of L_sym = I − D^{-1/2} A D^{-1/2}, where
    A = W + τ r rᵀ ties all nodes a little (Amini et al., 2013, arXiv:1207.2340): τ is `regularise`
    times the mean degree divided by N, and the entries of r are uniform between 0.8 and 1.2. A node
    without weights has a row of zeros in L_sym, as in SciPy, if `regularise` is 0.

    Graphs of up to 512 nodes are decomposed whole. Larger ones are solved by block Krylov iteration
    with full orthogonalisation, Rayleigh–Ritz projection and restarts: lost directions are replaced
    by random ones, so invariant subspaces and repeated eigenvalues do no harm. Where an eigenvalue
    is repeated beyond `size`, up to what uneven ties make of it, the vectors span a random subspace
    of its eigenspace, so that all pieces of a graph are told apart and not some of them. In large
    graphs that is a filter of random vectors, which lets pass what lies near the eigenvalue. So the
    rows depend smoothly on the weights, and rounding does not decide them.

    Args:
        weights: W, (N, N) symmetric.
        key: PRNG key of r, of the first vectors and of random subspaces.
        size: Number of eigenvectors k, from 1 to N.
        krylov: Dimension of the Krylov space before a restart, in vectors; at least k.
        regularise: Strength of the tie, as a share of the mean degree; 0 for none.

    Returns:
        (N, k) float32 rows, and (k,) float32 eigenvalues in ascending order.

    Raises:
        InputError: If there are fewer nodes, or fewer Krylov vectors, than eigenvectors; or if
            `regularise` is negative.

    Example:
        >>> import jax
        >>> from hagd_jax.hierarchy import embed, weights
        >>> graph = weights([0, 1, 3], [1, 2, 4], [1.0, 1.0, 1.0], 5)  # a path and an edge
        >>> rows, values = embed(graph, jax.random.key(0), size=2, krylov=4, regularise=0.0)
        >>> abs(values).max() < 1e-5
        Array(True, dtype=bool)
    """
    require_is("weights", weights, Weights)
    require_key(key)
    count, krylov = weights.count, require_index("krylov", krylov)
    size = require_index("size", size)
    if not 1 <= size <= min(count, krylov):
        raise InputError(
            "size", got=size, expected=f"1 to {min(count, krylov)} eigenvectors",
            mend=f"There are {count} nodes and {krylov} Krylov vectors.",
        )  # fmt: skip
    tie = read_array("regularise", regularise, "a number")
    known = not isinstance(tie, Tracer)
    if tie.ndim or (known and not 0 <= tie < float("inf")):
        raise InputError("regularise", got=shown(regularise), expected="a number, 0 or more")
    if count <= EXACT:
        # A matrix, so that one program serves graphs of any number of edges.
        weights = Weights(weights.matrix(), None, None, None, count)
    return _embed(weights, key, regularise, size=size, krylov=min(krylov, count))


@functools.partial(jax.jit, static_argnames=("size", "krylov"))
def _embed(
    weights: Weights, key: jax.Array, regularise: float, *, size: int, krylov: int
) -> tuple[jax.Array, jax.Array]:
    of_vectors, of_tie = jax.random.split(key)
    count = weights.count
    # L_sym does not depend on the unit of weights; in this one nothing overflows.
    weights = weights.scaled()
    degree = weights.degree()
    mean = jnp.where(degree.max() > 0, jnp.mean(degree), 1.0)
    uneven = jax.random.uniform(of_tie, (count,), minval=0.8, maxval=1.2)
    tie = uneven * jnp.sqrt(regularise * mean / count)
    degree = degree + tie * tie.sum()
    there = (degree > 0).astype(jnp.float32)
    scale = jnp.where(degree > 0, jax.lax.rsqrt(jnp.where(degree > 0, degree, 1.0)), 0.0)
    with jax.default_matmul_precision("highest"):
        if count <= EXACT:
            near = scale[:, None] * weights.matrix() * scale + jnp.outer(scale * tie, scale * tie)
            values, vectors = jnp.linalg.eigh(jnp.diag(there) - near)
            vectors = _generic(values, vectors, of_vectors, size, _EQUAL + _SPLIT * regularise)
        else:

            def product(x: jax.Array) -> jax.Array:
                """(2 − L_sym) x: the eigenvectors looked for have the largest eigenvalues."""
                y = scale[:, None] * x
                near = scale[:, None] * (weights.times(y) + jnp.outer(tie, tie @ y))
                return (2 - there)[:, None] * x + near

            within = _EQUAL + _SPLIT * regularise
            values, vectors = leading(product, count, of_vectors, size=size, krylov=krylov)
            vectors = _smooth(product, values, vectors, of_vectors, size, within)
            values = 2 - values
    rows = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return rows, values[:size]


def _generic(
    values: jax.Array, vectors: jax.Array, key: jax.Array, size: int, within: jax.Array | float
) -> jax.Array:
    """(N, k) leading eigenvectors; of the last one's eigenspace a random subspace.

    LAPACK's basis of an eigenspace may be zero on most nodes (unit vectors, for a graph without
    edges). If only a part of that basis were kept, the other nodes would all stand at the origin.
    """
    last = values[size - 1]
    below = jnp.sum(values[:size] < last - within)
    space = jnp.where(jnp.abs(values - last) <= within, vectors, 0)
    drawn = jax.random.normal(key, (len(values), size))
    mixed = jnp.linalg.qr(space @ (space.T @ drawn))[0]
    place = jnp.arange(size)
    kept = jnp.where(place < below, vectors[:, :size], mixed[:, jnp.maximum(place - below, 0)])
    # An eigenspace that is not cut is kept as it is.
    cut = jnp.sum(values <= last + within) > size
    return jnp.where(cut, kept, vectors[:, :size])


def _smooth(
    product: Callable[[jax.Array], jax.Array],
    values: jax.Array,
    vectors: jax.Array,
    key: jax.Array,
    size: int,
    within: jax.Array | float,
) -> jax.Array:
    """(N, k) leading eigenvectors; random vectors filtered by eigenvalue where one space is cut.

    Args:
        product: (N, m) → (N, m), the operator; its eigenvalues are from 0 to 2.
        values: (k,) or more of its largest eigenvalues, in descending order.
        vectors: (N, k) or more of their vectors.
        key: PRNG key of the random vectors.
        size: k.
        within: Eigenvalues nearer than this count as one.
    """
    place, last = jnp.arange(size), values[size - 1]
    below = jnp.sum(values[:size] > last + within)

    def filtered() -> jax.Array:
        lower = jnp.where(place < below, vectors[:, :size], 0)
        mixed = _passing(product, last, jax.random.normal(key, lower.shape))
        mixed = jnp.linalg.qr(mixed - lower @ (lower.T @ mixed))[0]
        return jnp.where(place < below, lower, mixed[:, jnp.maximum(place - below, 0)])

    if len(values) == size:  # nothing beyond the last
        return vectors
    cut = last - values[size] <= within
    return jax.lax.cond(cut, filtered, lambda: vectors[:, :size])


def _passing(
    product: Callable[[jax.Array], jax.Array], middle: jax.Array, x: jax.Array
) -> jax.Array:
    """What a Gaussian filter around an eigenvalue lets pass of vectors, by Chebyshev polynomials.

    Args:
        product: (N, m) → (N, m), an operator with eigenvalues from 0 to 2.
        middle: The eigenvalue.
        x: (N, m).
    """
    angle = jnp.pi * (jnp.arange(_DEGREE) + 0.5) / _DEGREE
    wanted = jnp.exp(-0.5 * ((1 + jnp.cos(angle) - middle) / _WIDTH) ** 2)
    weight = 2 / _DEGREE * jnp.cos(jnp.arange(_DEGREE)[:, None] * angle) @ wanted

    def shifted(y: jax.Array) -> jax.Array:
        return product(y) - y

    def add(number: Any, carry: tuple) -> tuple:
        total, before, now = carry
        return total + weight[number] * now, now, 2 * shifted(now) - before

    start = weight[0] / 2 * x, x, shifted(x)
    return jax.lax.fori_loop(1, _DEGREE, add, start)[0]


def leading(
    product: Callable[[jax.Array], jax.Array], count: int, key: jax.Array, *, size: int, krylov: int
) -> tuple[jax.Array, jax.Array]:
    """Find the largest eigenvalues of a symmetric operator by restarted block Krylov iteration.

    Args:
        product: (N, m) → (N, m), the operator applied to columns.
        count: N.
        key: PRNG key.
        size: Number of eigenpairs k.
        krylov: Dimension of the space before a restart, at most N.

    Returns:
        Eigenvalues in descending order and orthonormal vectors: (k + 1,) and (N, k + 1), of which
        the last is rough, or k if there are no more.
    """
    block = min(size + _SPARE, count)
    rounds = max(1, min(max(4, -(-krylov // block)), count // block))
    keys = jax.random.split(key, rounds)

    def cycle(state: tuple) -> tuple:
        vectors, _, _, number = state
        basis, images = vectors, product(vectors)
        for own in keys[1:]:
            more = _extended(basis, images[:, -block:], jax.random.fold_in(own, number))
            basis = jnp.concatenate([basis, more], 1)
            images = jnp.concatenate([images, product(more)], 1)
        small = basis.T @ images
        values, turn = jnp.linalg.eigh((small + small.T) / 2)
        values, turn = values[::-1][:block], turn[:, ::-1][:, :block]
        vectors = basis @ turn
        off = jnp.linalg.norm(images @ turn - vectors * values, axis=0)
        return vectors, values, off[:size].max(), number + 1

    def going_on(state: tuple) -> jax.Array:
        return (state[2] > _RESIDUAL) & (state[3] < _CYCLES)

    first = jnp.linalg.qr(jax.random.normal(keys[0], (count, block)))[0]
    start = first, jnp.zeros(block), jnp.float32(jnp.inf), 0
    vectors, values, *_ = jax.lax.while_loop(going_on, cycle, start)
    return values[: size + 1], vectors[:, : size + 1]


def _extended(basis: jax.Array, block: jax.Array, key: jax.Array) -> jax.Array:
    """Columns orthonormal to the basis and each other: of the block, or random where it adds none.

    Args:
        basis: (N, m) orthonormal.
        block: (N, b); m + b is at most N.
        key: PRNG key.

    Returns:
        (N, b).
    """

    def outside(x: jax.Array) -> jax.Array:
        for _ in range(2):  # twice is enough
            x = x - basis @ (basis.T @ x)
        return x

    fill = jax.random.normal(key, block.shape)
    rest = outside(block)
    length, before = jnp.linalg.norm(rest, axis=0), jnp.linalg.norm(block, axis=0)
    rest = jnp.where(length > _LOST * before, rest / jnp.maximum(length, 1e-30), fill)
    rest, triangle = jnp.linalg.qr(rest)
    rest = jnp.where(jnp.abs(jnp.diag(triangle)) > _LOST, rest, fill)
    return jnp.linalg.qr(outside(rest))[0]
