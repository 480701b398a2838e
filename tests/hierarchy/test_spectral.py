"""Eigenvalues against SciPy in float64, on graphs where Lanczos breaks down; clusters of pieces."""

import functools

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csgraph
from sklearn.metrics import adjusted_rand_score

from hagd_jax.errors import InputError
from hagd_jax.hierarchy import HierarchyConfig, coarsen, embed, weights
from hagd_jax.hierarchy.spectral import leading

# Of few sizes, so that few programs are compiled; on both sides of `size` and `krylov`.
SIZES = (1, 2, 24, 200)
FAMILIES = {
    "star": lambda n, rng: nx.star_graph(n - 1),
    "path": lambda n, rng: nx.path_graph(n),
    "cycle": lambda n, rng: nx.cycle_graph(n),
    "clique": lambda n, rng: nx.complete_graph(n),
    "bipartite": lambda n, rng: nx.complete_bipartite_graph(n // 3, n - n // 3),
    "edgeless": lambda n, rng: nx.empty_graph(n),
    "pairs": lambda n, rng: pieces(n, 2, nx.path_graph),
    "stars": lambda n, rng: pieces(n, 8, lambda k: nx.star_graph(k - 1)),
    "cliques": lambda n, rng: pieces(n, 5, nx.complete_graph),
    "isolated": lambda n, rng: pieces(n, max(n // 2, 1), nx.path_graph, whole=False),
    "hypercube": lambda n, rng: pieces(n, 16, lambda k: nx.hypercube_graph(4)),
    "random": lambda n, rng: nx.gnp_random_graph(n, 3 / max(n, 3), seed=int(rng.integers(1000))),
}


def pieces(count, size, make, whole=True):
    """As many equal pieces as there is room for (one, if not `whole`), and isolated nodes."""
    number = count // size if whole else min(1, count // size)
    graph = nx.empty_graph(0)
    for _ in range(number):
        graph = nx.disjoint_union(graph, make(size))
    return nx.disjoint_union(graph, nx.empty_graph(count - number * size))


def matrix_of(family, count, seed, spread, scale):
    """Symmetric weights in float64 whose logarithms spread so many powers of ten."""
    rng = np.random.default_rng(seed)
    full = nx.to_numpy_array(FAMILIES[family](count, rng))
    rows = np.triu(full * 10.0 ** rng.uniform(-spread / 2, spread / 2, full.shape))
    return (rows + rows.T) * scale


def of_matrix(matrix, **options):
    senders, receivers = np.nonzero(np.triu(matrix))
    values = 2 * matrix[senders, receivers] / (1 + (senders == receivers))
    return weights(senders, receivers, values, len(matrix), **options)


def regularised(matrix, key, regularise):
    """L_sym of W + τ r rᵀ by its definition, in float64."""
    count = len(matrix)
    r = jax.random.uniform(jax.random.split(key)[1], (count,), minval=0.8, maxval=1.2)
    mean = matrix.sum(1).mean() or 1.0
    tied = matrix + np.outer(r, r).astype(np.float64) * regularise * mean / count
    degree = tied.sum(1)
    return np.eye(count) - tied / np.sqrt(np.outer(degree, degree))


@settings(max_examples=50)
@given(
    st.sampled_from(sorted(FAMILIES)), st.sampled_from(SIZES), st.integers(0, 100),
    st.sampled_from([0.0, 1.0, 8.0]), st.sampled_from([1e-20, 1.0, 1e20]),
    st.sampled_from([True, False, False, False]),
    st.sampled_from([0.0, 0.05]),
)  # fmt: skip
def test_all_eigenvalues_are_scipys(family, count, seed, spread, scale, sparse, regularise):
    """Within 1e-4 of float64, the whole spectrum; SciPy's own Laplacian where nothing is tied."""
    matrix, key = matrix_of(family, count, seed, spread, scale), jax.random.key(seed)
    right = csgraph.laplacian(matrix, normed=True)
    if regularise:
        right = regularised(matrix, key, regularise)
    graph = of_matrix(matrix, dense=0 if sparse else count)
    rows, values = embed(graph, key, size=count, krylov=count, regularise=regularise)
    np.testing.assert_allclose(values, scipy.linalg.eigvalsh(right), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_block_iteration_finds_the_same(family):
    """What graphs of more than 512 nodes are solved by, at a size that SciPy solves at once.

    It stops at residuals of 1e-3, which bound the error of an eigenvalue.
    """
    right = csgraph.laplacian(matrix_of(family, 200, 3, 1.0, 1.0), normed=True)
    operator = jnp.asarray(2 * np.eye(200) - right, jnp.float32)
    values, vectors = (x[..., :8] for x in found_by_blocks(operator))
    expected = scipy.linalg.eigvalsh(right)[:8]
    np.testing.assert_allclose(2 - values, expected, atol=2e-3)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(8), atol=1e-4)
    np.testing.assert_allclose(operator @ vectors, vectors * values, atol=2e-3)


@functools.partial(jax.jit)
def found_by_blocks(operator):
    return leading(lambda x: operator @ x, 200, jax.random.key(0), size=8, krylov=72)


@pytest.mark.parametrize("family", ["star", "bipartite", "random"])
def test_rounding_does_not_decide_who_belongs_together(family):
    """Weights that are rounded otherwise, as on another mesh, give the same supernodes.

    Nodes that only some few others write to, as in a model of one layer, have one eigenvalue
    repeated far beyond the number of vectors; any of its subspaces would do.
    """
    rng = np.random.default_rng(0)
    hubs = {"star": 1, "bipartite": 4, "random": 600}[family]
    matrix = np.zeros((600, 600))
    matrix[:hubs] = rng.exponential(size=(hubs, 600)) * (rng.random((hubs, 600)) < 20 / hubs)
    matrix += matrix.T
    noise = 1 + 1e-7 * rng.standard_normal(matrix.shape)
    config = HierarchyConfig(ratio=1 / 16)
    one, other = (
        coarsen(of_matrix(m), config).clusters() for m in (matrix, matrix * (noise + noise.T) / 2)
    )
    for mine, theirs in zip(one, other, strict=True):
        assert adjusted_rand_score(mine, theirs) > 0.95  # but for a node between two
    assert len(np.unique(one[-1])) == 38


def test_large_graphs_are_embedded_by_their_pieces():
    """700 nodes, more than are solved at once: 20 cliques, of which 4 have a common neighbour."""
    matrix = nx.to_numpy_array(pieces(700, 35, nx.complete_graph))
    matrix[0, [35, 70, 105]] = matrix[[35, 70, 105], 0] = 0.01
    graph = of_matrix(matrix)
    expected = scipy.linalg.eigvalsh(csgraph.laplacian(matrix, normed=True))[:12]
    _, values = embed(graph, jax.random.key(0), size=12, krylov=32, regularise=0.0)
    np.testing.assert_allclose(values, expected, atol=1e-3)
    made = coarsen(graph, HierarchyConfig(ratio=1 / 35, least=20))
    truth = np.arange(700) // 35
    assert adjusted_rand_score(truth, made.clusters()[-1]) == 1


@pytest.mark.parametrize(
    ("make", "size", "count"),
    [
        (lambda k: nx.star_graph(k - 1), 8, 32),
        (nx.complete_graph, 5, 200),
        (nx.path_graph, 3, 120),
        (lambda k: nx.complete_bipartite_graph(2, k - 2), 6, 60),
    ],
    ids=["stars", "cliques", "paths", "bipartite"],
)
def test_equal_pieces_are_clusters_even_if_there_are_more_than_vectors(make, size, count):
    """Up to 40 pieces told apart by 16 vectors, all of one eigenspace but for what ties them."""
    number = count // size
    graph = of_matrix(nx.to_numpy_array(pieces(count, size, make)))
    made = coarsen(graph, HierarchyConfig(ratio=1 / size, least=number))
    truth = np.arange(count) // size
    assert made.levels[0].count == number
    assert adjusted_rand_score(truth, made.clusters()[-1]) == 1


def test_no_node_stands_at_the_origin_where_an_eigenspace_is_cut():
    """Without edges every vector is an eigenvector: unit vectors would leave out most nodes."""
    rows, values = embed(weights([], [], [], 24), jax.random.key(0), size=5, krylov=24)
    np.testing.assert_allclose(values, [0, 1, 1, 1, 1], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert len(np.unique(np.round(rows, 4), axis=0)) == 24


def test_what_cannot_be_embedded_is_refused():
    graph, key = weights([0], [1], [1.0], 4), jax.random.key(0)
    for size, krylov in ((0, 4), (5, 9), (3, 2)):
        with pytest.raises(InputError, match="eigenvectors"):
            embed(graph, key, size=size, krylov=krylov)
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="regularise"):
            embed(graph, key, size=2, krylov=4, regularise=bad)
    for bad in (1e-40, 1e39):
        with pytest.raises(InputError, match="expected 1e-30 to 1e"):
            weights([0], [1], [bad], 2)
