"""Graphs of every kind as the coarsening sees them, and supernodes with names."""

import jraph
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.graphs import influence, task_graph
from hagd_jax.graphs.graph import FEATURE
from hagd_jax.hierarchy import (
    HierarchyConfig,
    as_weights,
    clusters_of,
    coarsen,
    supernodes,
    with_rest,
)
from hagd_jax.scores import GradientConfig, component_graph, node_graph
from hagd_jax.search import Tree
from tests.graphs.made_up import made_up
from tests.models.noise import noisy
from tests.scores.test_node_graph import PLAIN, some_prompts


def symmetric(graph, values):
    count = len(graph.nodes.kind)
    found = np.zeros((count, count))
    ends = np.asarray(graph.graph.receivers), np.asarray(graph.graph.senders)
    np.add.at(found, ends, np.abs(np.asarray(values, np.float64)))
    return (found + found.T) / 2


@pytest.fixture(scope="module")
def nodes():
    """A node graph in which some features have no edge."""
    return node_graph(noisy(PLAIN), some_prompts(PLAIN), GradientConfig(steps=(1.0,)), candidates=8)


def test_every_kind_of_graph_has_weights_and_layers(nodes):
    model, prompts = noisy(PLAIN), some_prompts(PLAIN)
    prompt = made_up(1, features=20)
    mean = task_graph([made_up(2, features=9), made_up(3, features=9)])
    parts = component_graph(model, prompts, GradientConfig(steps=(1.0,)))
    for graph, values in (
        (prompt, prompt.weights), (mean, mean.edges.size), (parts, parts.edges.score),
        (nodes, nodes.weights),
    ):  # fmt: skip
        found = as_weights(graph)
        expected = symmetric(graph, values)
        np.testing.assert_allclose(found.weights.dense, expected, atol=1e-6, rtol=1e-5)
        assert expected.max() > 0
        assert found.layer.min() == 0
        assert len(found.layer) == len(expected)
        levels = coarsen(found.weights, HierarchyConfig(ratio=0.3, least=2)).clusters()
        Tree.of(levels)
    with pytest.raises(InputError, match="expected Graph"):
        as_weights(jraph.GraphsTuple(*[None] * 7))
    with pytest.raises(InputError, match="a NodeGraph"):
        clusters_of(prompt)
    with pytest.raises(InputError, match="an AttributionGraph"):
        supernodes(nodes)
    for clusters, chosen in (([np.zeros(2, int)], [0]), ([np.zeros(1, int)], [3])):
        with pytest.raises(InputError, match="expected"):
            with_rest(clusters, np.array(chosen), np.zeros(3, int))


def test_nodes_without_edges_are_clustered_by_layer_and_kind(nodes):
    graph = nodes
    some = np.unique(np.concatenate([graph.senders, graph.receivers]))
    assert len(some) < len(graph.score)
    levels = clusters_of(graph, HierarchyConfig(ratio=0.4, least=2))
    Tree.of(levels)
    rest = np.setdiff1d(np.arange(len(graph.score)), some)
    group = 2 * graph.nodes.layer + graph.nodes.kind
    for level in levels:
        pairs = np.unique(np.stack([group[rest], level[rest]]), axis=1)
        assert len(np.unique(pairs[1])) == len(pairs[0]) == len(np.unique(group[rest]))
        assert not np.isin(level[rest], level[some]).any()
    assert with_rest([np.array([0])], np.array([1]), np.array([5, 5, 6]))[0].tolist() == [1, 0, 2]
    # Without any edge at all there are still levels.
    bare = graph.replace(
        graph=graph.graph._replace(
            edges=np.zeros(0, np.float32), senders=np.zeros(0, np.int32),
            receivers=np.zeros(0, np.int32),
        )
    )  # fmt: skip
    Tree.of(clusters_of(bare, HierarchyConfig(ratio=0.4, least=2)))


def test_supernodes_hold_every_feature_once_and_have_names():
    graph = made_up(4, layers=6, features=60, density=0.3)
    worth = influence(graph)
    found = supernodes(graph, most=8)
    assert 1 < len(found) <= 8
    members = [node for _, group in found for node in group]
    assert len(members) == len(set(members))
    assert (np.asarray(graph.nodes.kind)[members] == FEATURE).all()
    sums = [worth[group].sum() for _, group in found]
    assert sums == sorted(sums, reverse=True)
    for name, group in found:
        layers = np.asarray(graph.nodes.layer)[group]
        assert name.startswith(f"L{layers.min()}")
        assert any(graph.info.words[int(graph.nodes.position[n])].strip() in name for n in group)
    for most in (1, 3):
        few = supernodes(graph, HierarchyConfig(ratio=1 / 8, band=1), most=most)
        assert 1 <= len(few) <= most
        assert sorted(node for _, group in few for node in group) == sorted(members)
    told = supernodes(graph, most=8, names=lambda node: [f"word{node % 2}"])
    assert all("word" in name for name, _ in told)
    with pytest.raises(ConfigError, match="most"):
        supernodes(graph, most=0)
