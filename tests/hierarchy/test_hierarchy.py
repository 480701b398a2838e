"""Coarsening: against scikit-learn, on graphs whose clusters are known, and odd ones."""

import itertools

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.hierarchy import HierarchyConfig, coarsen, kmeans, weights
from hagd_jax.search import Tree


def of_matrix(matrix, **options):
    senders, receivers = np.nonzero(matrix)
    return weights(senders, receivers, matrix[senders, receivers], len(matrix), **options)


def planted(groups=6, size=20, seed=0):
    """A graph with dense groups and few edges between them; nodes in random order."""
    graph = nx.planted_partition_graph(groups, size, 0.6, 0.01, seed=seed)
    order = np.random.default_rng(seed).permutation(groups * size)
    matrix = nx.to_numpy_array(graph)[np.ix_(order, order)]
    return np.triu(matrix), order // size


def test_weights_are_symmetric_sums_of_absolute_values():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(7, 7)) * (rng.random((7, 7)) < 0.4)
    expected = (abs(matrix) + abs(matrix).T) / 2
    assert expected.max() > 0.5
    x = rng.normal(size=(7, 2)).astype(np.float32)
    cluster, count = np.array([0, 1, 1, 2, 0, 2, 2]), 3
    one_hot = np.eye(3)[cluster]
    for dense in (100, 1):
        found = of_matrix(matrix, dense=dense)
        assert (found.dense is None) == (dense == 1)
        np.testing.assert_allclose(found.times(jnp.eye(7)), expected, atol=1e-6)
        np.testing.assert_allclose(found.times(x), expected @ x, atol=1e-5)
        np.testing.assert_allclose(found.degree(), expected.sum(0), atol=1e-6)
        merged = found.merged(jnp.asarray(cluster), count)
        np.testing.assert_allclose(merged.dense, one_hot.T @ expected @ one_hot, atol=1e-5)


def test_known_groups_are_found():
    matrix, truth = planted()
    made = coarsen(of_matrix(matrix), HierarchyConfig(ratio=0.05, least=6))
    assert [level.count for level in made.levels] == [6]
    assert adjusted_rand_score(truth, made.clusters()[0]) == 1
    assert set(made.members(0, 0)) == set(np.flatnonzero(truth == truth[0]))


def test_clusters_are_as_tight_as_scikit_learns():
    """Inertia within 10% of the best of ten runs."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(300, 5)) + 3 * rng.normal(size=(12, 5))[rng.integers(0, 12, 300)]
    same = np.zeros(300, int)
    expected = KMeans(12, n_init=10, random_state=0).fit(points).inertia_
    inertia = []
    for seed in range(5):
        found = kmeans(jnp.asarray(points), same, np.zeros(12, int), jax.random.key(seed))
        assert set(np.unique(found)) == set(range(12))
        inertia.append(sum(((points[found == c] - points[found == c].mean(0)) ** 2).sum()
                           for c in range(12)))  # fmt: skip
    assert min(inertia) < 1.1 * expected


@settings(max_examples=15)
@given(st.sampled_from([1, 2, 24]), st.integers(0, 2), st.integers(0, 10_000))
def test_levels_nest_and_shrink_whatever_the_graph(count, band, seed):
    """No edges, one node, disconnected parts, all-equal weights: every node has its place."""
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, 4) * count // 2
    ends = rng.integers(0, count, (2, edges))
    values = rng.choice([0.0, 1.0, 1.0, -2.0], edges)
    layer = np.sort(rng.integers(0, 6, count))
    config = HierarchyConfig(ratio=0.4, least=3, band=band)
    made = coarsen(weights(*ends, values, count), config, layer=layer, seed=seed)
    sizes = [count, *(level.count for level in made.levels)]
    assert all(a > b for a, b in itertools.pairwise(sizes))
    total = float(made.levels[0].weights.degree().sum()) if made.levels else 0.0
    for depth, level in enumerate(made.levels):
        assert sorted(set(np.asarray(level.cluster).tolist())) == list(range(level.count))
        assert level.weights.degree().sum() == pytest.approx(total, rel=1e-4, abs=1e-4)
        if band:
            place = made.clusters()[::-1][depth]
            wide = band * 2**depth
            for supernode in range(level.count):
                assert np.ptp(layer[place == supernode]) < 2 * wide
    if made.levels:
        tree = Tree.of(made.clusters())
        assert tree.counts[-1] == made.levels[0].count


def test_bands_bound_how_many_layers_a_supernode_spans():
    matrix, _ = planted()
    layer = np.arange(120) // 10
    made = coarsen(of_matrix(matrix), HierarchyConfig(ratio=0.2, least=4, band=3), layer=layer)
    place = made.clusters()[-1]
    spans = [layer[place == s] // 3 for s in range(made.levels[0].count)]
    assert all(len(set(span)) == 1 for span in spans)
    assert made.levels[0].count == 24
    free = coarsen(of_matrix(matrix), HierarchyConfig(ratio=0.2, least=4))
    assert any(len(set(layer[free.clusters()[-1] == s] // 3)) > 1 for s in range(24))


def test_the_same_seed_gives_the_same_levels():
    matrix, _ = planted()
    config = HierarchyConfig()
    one, two, other = (coarsen(of_matrix(matrix), config, seed=s) for s in (0, 0, 1))
    for a, b in zip(one.clusters(), two.clusters(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [level.count for level in other.levels] == [30, 8]


def test_what_is_no_graph_is_refused():
    for bad, words in (
        (([0], [1], [np.nan], 2), "not finite"),
        (([0], [1], [np.inf], 2), "not finite"),
        (([0], [2], [1.0], 2), "0 to 1"),
        (([], [], [], 0), "one or more nodes"),
        (([0, 1], [1], [1.0], 2), "as many of each"),
    ):
        with pytest.raises(InputError, match=words):
            weights(*bad)
    graph = weights([0], [1], [1.0], 20)
    with pytest.raises(InputError, match="one of each of 20"):
        coarsen(graph, HierarchyConfig(band=2))
    made = coarsen(graph, HierarchyConfig(ratio=0.3, least=2))
    for level, supernode in ((len(made.levels), 0), (-1, 0), (0, 6), (0, -1)):
        with pytest.raises(InputError, match="an integer from 0 to"):
            made.members(level, supernode)
    for change in ({"ratio": 1}, {"least": 0}, {"band": -1}, {"regularise": 0}, {"krylov": 0}):
        with pytest.raises(ConfigError):
            HierarchyConfig(**change)
