"""Influence, scores and pruning against dense linear algebra and plain loops."""

import dataclasses
import json

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.graphs import (
    graph_scores,
    influence,
    neuronpedia_json,
    prune,
    subgraph,
    task_graph,
    to_neuronpedia,
)
from hagd_jax.graphs.graph import EMBEDDING, ERROR, FEATURE, LOGIT, NodeTable, make_graph
from hagd_jax.hierarchy import supernodes
from hagd_jax.report.graph_data import graph_data
from hagd_jax.report.graph_page import claim
from tests.graphs.made_up import made_up

SEEDS = st.integers(0, 10_000)


def normalised(dense):
    size = np.abs(dense.astype(np.float64))
    total = size.sum(1, keepdims=True)
    return size / np.where(total, total, 1)


@given(seed=SEEDS, density=st.sampled_from([0.05, 0.4, 1.0]))
@settings(max_examples=40)
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
    assert graph_scores(graph).replacement == pytest.approx(words / (words + errors))
    clean, reach = 1 - share[:, kind == ERROR].sum(1), found + weight
    assert graph_scores(graph).completeness == pytest.approx(clean @ reach / reach.sum())


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
    assert graph_scores(folded).replacement == pytest.approx(
        graph_scores(graph).replacement, abs=1e-6
    )
    assert graph_scores(folded).completeness == pytest.approx(
        graph_scores(graph).completeness, abs=1e-6
    )
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
@settings(max_examples=40)
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


def without_edges(graph):
    nothing = np.zeros(0, np.int32)
    return make_graph(graph.nodes, nothing, nothing, np.zeros(0, np.float32), graph.info)


def without_nodes():
    table = NodeTable(*(np.asarray(column)[:0] for column in made_up().nodes))
    info = dataclasses.replace(made_up().info, targets=(), active=0)
    nothing = np.zeros(0, np.int32)
    return make_graph(table, nothing, nothing, np.zeros(0, np.float32), info)


EMPTY = {
    "no edges": lambda: without_edges(made_up()),
    "edges of nothing": lambda: scaled(made_up(), 0.0),
    "targets without weight": lambda: weightless(made_up()),
    "no features": lambda: made_up(features=0),
    "no nodes": without_nodes,
}


def scaled(graph, factor):
    return make_graph(
        graph.nodes, graph.senders, graph.receivers, graph.weights * factor, graph.info
    )


def weightless(graph):
    table = graph.nodes._replace(weight=np.zeros_like(graph.nodes.weight))
    return make_graph(table, graph.senders, graph.receivers, graph.weights, graph.info)


@pytest.mark.parametrize("name", EMPTY)
def test_graphs_in_which_nothing_moves_a_target_have_no_influence(name, tmp_path):
    graph = EMPTY[name]()
    found = graph_scores(graph)
    assert all(0 <= value <= 1 for value in found)
    kept = prune(graph)
    assert np.isfinite(kept.cumulative).all()
    if name != "no features":
        assert not influence(graph).any()
        assert not kept.cumulative.any()
        # None of it is needed for any share of nothing.
        assert not kept.edges.any()
        assert (kept.nodes == (graph.nodes.kind >= EMBEDDING)).all()
    to_neuronpedia(graph, tmp_path / "graph.json")
    record = json.loads((tmp_path / "graph.json").read_text())
    assert len(record["nodes"]) == kept.nodes.sum()
    assert len(supernodes(graph)) <= len(graph.of_kind(0))


@given(
    seed=SEEDS, features=st.integers(0, 3), logits=st.integers(0, 2),
    density=st.sampled_from([0.0, 0.3]), factor=st.sampled_from([0.0, 1e-30, 1.0]),
)  # fmt: skip
@settings(max_examples=30)
def test_small_graphs_have_a_result_everywhere(seed, features, logits, density, factor):
    """Whatever is missing: features, targets, edges, or all weight of these."""
    made = made_up(seed, layers=2, length=2, features=features, logits=logits, density=density)
    graph = scaled(made, factor)
    kept = prune(graph)
    small = subgraph(graph, kept)
    assert small.count == kept.nodes.sum() >= 2 + logits
    for found in (influence(graph), influence(small), np.array(graph_scores(graph))):
        assert np.isfinite(found).all()
        assert (found >= 0).all()
    json.dumps(neuronpedia_json(graph), allow_nan=False)
    json.dumps(graph_data(graph), allow_nan=False)
    assert claim(graph, graph_scores(graph)).endswith(".")
    assert supernodes(graph) is not None
    mean = task_graph([graph, small])
    assert mean.count >= 2
    assert np.isfinite(mean.nodes.influence).all()


@given(seed=SEEDS, power=st.sampled_from([-90, -40, 40]))
@settings(max_examples=20)
def test_shares_do_not_depend_on_the_unit_of_the_edges(seed, power):
    """Of a model whose logits are in billionths as of one whose logits are in units."""
    graph = made_up(seed)
    other = scaled(graph, np.float32(2.0**power))
    np.testing.assert_allclose(influence(other), influence(graph), rtol=1e-9)
    np.testing.assert_allclose(graph_scores(other), graph_scores(graph), rtol=1e-9)
    for one, two in zip(prune(other)[:2], prune(graph)[:2], strict=True):
        np.testing.assert_array_equal(one, two)
    assert influence(graph).max() > 0.02


@pytest.mark.parametrize("call", [influence, graph_scores, prune, neuronpedia_json, supernodes])
def test_weights_that_are_no_numbers_are_refused(call):
    graph = scaled(made_up(), np.nan)
    with pytest.raises(InputError, match="not finite"):
        call(graph)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
@settings(max_examples=25)
def test_every_node_has_an_id_of_its_own(tokens):
    """Targets may be the same token many times, and directions."""
    graph = made_up(logits=len(tokens))
    first = len(graph.nodes.kind) - len(tokens)
    index = graph.nodes.index.copy()
    index[first:] = [-1 if token == 3 else token for token in tokens]
    graph = make_graph(
        graph.nodes._replace(index=index), graph.senders, graph.receivers, graph.weights, graph.info
    )
    nodes = neuronpedia_json(graph)["nodes"]
    logits = [node for node in nodes if node["feature_type"] == "logit"]
    assert len(logits) == len(tokens)
    assert len({node["node_id"] for node in nodes}) == len(nodes)
    assert len({node["jsNodeId"] for node in logits}) == len(logits)
