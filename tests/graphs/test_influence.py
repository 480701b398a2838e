"""Influence, scores and pruning against dense linear algebra and plain loops."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import ConfigError
from hagd_jax.graphs import influence, prune, scores, subgraph
from hagd_jax.graphs.graph import EMBEDDING, ERROR, FEATURE, LOGIT
from tests.graphs.made_up import made_up

SEEDS = st.integers(0, 10_000)


def normalised(dense):
    size = np.abs(dense.astype(np.float64))
    return size / np.maximum(size.sum(1, keepdims=True), 1e-10)


@given(seed=SEEDS, density=st.sampled_from([0.05, 0.4, 1.0]))
@settings(max_examples=40, deadline=None)
def test_influence_is_the_neumann_series(seed, density):
    graph = made_up(seed, density=density)
    weight = graph.nodes.weight.astype(np.float64)
    share = normalised(graph.to_dense())
    # w (M + M² + …) = w ((1 − M)⁻¹ − 1)
    expected = weight @ (np.linalg.inv(np.eye(len(share)) - share) - np.eye(len(share)))
    np.testing.assert_allclose(influence(graph), expected, atol=1e-12)


def test_scores_equal_their_definition():
    graph = made_up(3)
    weight, share = graph.nodes.weight.astype(np.float64), normalised(graph.to_dense())
    found, kind = influence(graph), graph.nodes.kind
    words, errors = found[kind == EMBEDDING].sum(), found[kind == ERROR].sum()
    assert 0.1 < words / (words + errors) < 0.9
    assert scores(graph).replacement == pytest.approx(words / (words + errors))
    clean, reach = 1 - share[:, kind == ERROR].sum(1), found + weight
    assert scores(graph).completeness == pytest.approx(clean @ reach / reach.sum())


def test_folded_edges_count_in_scores_as_the_edges_did():
    """Edges from errors and embeddings to two nodes are folded: no score moves."""
    graph = made_up(5, density=0.7)
    kept = prune(graph, node_threshold=1.0, edge_threshold=1.0)
    kind = graph.nodes.kind[graph.senders]
    fold = (kind == ERROR) | (kind == EMBEDDING)
    fold &= np.isin(graph.receivers, [2, 5, len(graph.nodes.kind) - 1])
    assert fold.sum() > 5
    folded = subgraph(graph, kept._replace(nodes=kept.nodes | True, edges=~fold))
    assert len(folded.weights) == len(graph.weights) - fold.sum()
    assert scores(folded).replacement == pytest.approx(scores(graph).replacement, abs=1e-6)
    assert scores(folded).completeness == pytest.approx(scores(graph).completeness, abs=1e-6)
    total = graph.to_dense().sum(1)
    np.testing.assert_allclose(folded.to_dense().sum(1) + folded.nodes.remainder, total, atol=1e-5)


def plainly_pruned(graph, node_threshold, edge_threshold):
    """Pruning as its definition says, with dense matrices and loops."""
    dense, kind = graph.to_dense(), graph.nodes.kind
    weight = graph.nodes.weight.astype(np.float64)

    def reach(matrix):
        total = flow = weight
        for _ in range(len(weight)):
            flow = flow @ matrix
            total = total + flow
        return total

    def cut(values, share):
        falling = np.sort(values)[::-1]
        running, total, place = 0.0, falling.sum(), 0
        while place < len(falling) - 1:
            running += falling[place]
            if running / total >= share:
                break
            place += 1
        return falling[place]

    found = reach(normalised(dense)) - weight
    nodes = [
        found[i] >= cut(found, node_threshold) or kind[i] >= EMBEDDING for i in range(len(found))
    ]
    nodes = np.array(nodes)
    dense = dense * nodes[:, None] * nodes[None]
    share = normalised(dense)
    carried = share * reach(share)[:, None]
    edges = (carried >= cut(carried.ravel(), edge_threshold)) & (dense != 0)
    changed = True
    while changed:
        changed = False
        for i in np.flatnonzero(nodes):
            stranded = kind[i] in (FEATURE, ERROR) and not edges[:, i].any()
            stranded |= kind[i] == FEATURE and not edges[i].any()
            if stranded:
                nodes[i], edges[i], edges[:, i], changed = False, False, False, True
    return nodes, edges


@given(
    seed=SEEDS,
    density=st.sampled_from([0.1, 0.5]),
    node=st.sampled_from([0.3, 0.8, 1.0]),
    edge=st.sampled_from([0.5, 0.98]),
)
@settings(max_examples=40, deadline=None)
def test_pruning_equals_plain_loops(seed, density, node, edge):
    graph = made_up(seed, density=density)
    kept = prune(graph, node_threshold=node, edge_threshold=edge)
    nodes, edges = plainly_pruned(graph, node, edge)
    np.testing.assert_array_equal(kept.nodes, nodes)
    dense = np.zeros(edges.shape, bool)
    dense[graph.receivers[kept.edges], graph.senders[kept.edges]] = True
    np.testing.assert_array_equal(dense, edges)


def test_what_is_kept_hangs_together():
    """Every kept feature lies on a path to an output, by networkx."""
    graph = made_up(7, layers=5, features=40, density=0.2)
    small = subgraph(graph, prune(graph))
    assert 0 < len(small.of_kind(FEATURE)) < 40
    net = nx.DiGraph(zip(small.senders.tolist(), small.receivers.tolist(), strict=True))
    assert nx.is_directed_acyclic_graph(net)
    leading = set().union(*(nx.ancestors(net, n) for n in small.of_kind(LOGIT) if n in net))
    assert set(small.of_kind(FEATURE).tolist()) <= leading
    assert len(small.info.targets) == len(small.of_kind(LOGIT))


def test_cumulative_rises_to_one():
    kept = prune(made_up(2))
    assert kept.cumulative.max() == pytest.approx(1)
    found = influence(made_up(2))
    order = np.argsort(-found, kind="stable")
    assert (np.diff(kept.cumulative[order]) >= -1e-12).all()


@pytest.mark.parametrize("name", ["node_threshold", "edge_threshold"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1.1, float("nan")])
def test_thresholds_are_shares(name, value):
    with pytest.raises(ConfigError, match=name):
        prune(made_up(), **{name: value})
