"""What graphs have in common, against NetworkX and plain loops."""

import dataclasses
import sys

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError, MissingDependencyError
from hagd_jax.graphs import task_graph
from hagd_jax.graphs.graph import FEATURE, LOGIT
from hagd_jax.models import DecoderConfig
from hagd_jax.units import Space
from hagd_jax.units.graph import graph_parts
from tests.graphs.made_up import made_up

CONFIG = DecoderConfig(
    vocab_size=9, n_layers=2, d_model=8, n_heads=4, n_kv_heads=2, d_mlp=16, positions="rotary"
)


def of_components(seed):
    rng = np.random.default_rng(seed)
    writers, readers = 1 + 2 * (4 + 1), 2 * (4 + 2 + 2 + 1) + 1
    from hagd_jax.scores.component_graph import _graph

    return _graph(CONFIG, rng.normal(size=(writers, readers)), np.ones((writers, readers)), 3)


def of_nodes(seed):
    from hagd_jax.scores.node_graph import _graph

    rng, space = np.random.default_rng(seed), Space(2, 2, 3)
    receivers, senders = np.nonzero(rng.random((space.nodes, space.nodes)) < 0.4)
    later = space.layer[receivers] > space.layer[senders]
    receivers, senders = receivers[later], senders[later]
    edges = [(senders, receivers, rng.normal(size=len(senders)))]
    return _graph(space, edges, rng.normal(size=space.nodes), 3)


GRAPHS = {
    "prompt": made_up,
    "task": lambda seed: task_graph([made_up(seed), made_up(seed + 1)]),
    "components": of_components,
    "nodes": of_nodes,
}
SEEDS = st.integers(0, 1000)


@pytest.mark.parametrize("name", GRAPHS)
@given(seed=SEEDS)
@settings(max_examples=5)
def test_networkx_has_the_same_nodes_and_edges(name, seed):
    graph = GRAPHS[name](seed)
    net = graph.to_networkx()
    assert net.is_multigraph() == (name == "components")
    assert net.number_of_nodes() == graph.count
    assert net.number_of_edges() == len(graph.weights) > 0
    # NetworkX writes [source, target], and adds up parallel edges.
    dense = nx.to_numpy_array(net, nodelist=range(graph.count)).T
    np.testing.assert_allclose(graph.to_dense(), dense, atol=1e-6)
    assert all(net.nodes[n]["label"] == graph.label(n) for n in net)
    assert [net.nodes[n]["layer"] for n in net] == graph.layer.tolist()


@pytest.mark.parametrize("name", GRAPHS)
@given(seed=SEEDS, count=st.integers(0, 8), into=st.booleans())
@settings(max_examples=8)
def test_the_strongest_edges_come_first(name, seed, count, into):
    graph = GRAPHS[name](seed)
    node = int(graph.receivers[0]) if into else None
    found = graph.top(count, into=node)
    rest = [e for e in range(len(graph.weights)) if node is None or graph.receivers[e] == node]
    best = sorted(rest, key=lambda e: (-graph.strength[e], e))[:count]
    assert [edge.number for edge in found] == best
    for edge in found:
        assert edge.source == graph.label(int(graph.senders[edge.number]))
        assert edge.target == graph.label(int(graph.receivers[edge.number]))
        assert edge.weight == graph.weights[edge.number]


@pytest.mark.parametrize("name", GRAPHS)
def test_nodes_have_labels_of_their_own_and_graphs_one_line(name):
    graph = GRAPHS[name](3)
    labels = [graph.label(node) for node in range(graph.count)]
    assert len(set(labels)) == graph.count
    text = repr(graph)
    assert text.startswith(type(graph).__name__)
    assert f"{graph.count:,} nodes" in text
    assert "\n" not in text
    assert len(text) < 200


def test_labels_say_what_a_node_is():
    prompt, parts, nodes = made_up(3), of_components(0), of_nodes(0)
    assert [parts.label(n) for n in (0, 1, 6, 9, 11)] == [
        "embedding", "L0 head 0", "L1 head 1", "L0 MLP", "logits"
    ]  # fmt: skip
    assert [nodes.label(n) for n in (0, 3, 4, 9)] == ["L0 head 0", "L1 head 1", "L0 #0", "L1 #2"]
    first = int(prompt.of_kind(FEATURE)[0])
    table = prompt.nodes
    place = int(table.position[first])
    word = repr(prompt.info.words[place])
    assert prompt.label(first) == f"L{table.layer[first]} #{table.index[first]} @{place} {word}"


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("node", [-1, 10_000, 1.5, "a", None])
def test_nodes_that_do_not_exist_are_refused(name, node):
    graph = GRAPHS[name](0)
    with pytest.raises(InputError, match="node: got"):
        graph.label(node)
    if node is not None:
        with pytest.raises(InputError, match="into: got"):
            graph.top(into=node)
    with pytest.raises(InputError, match="count: got -1"):
        graph.top(-1)


def test_only_logits_are_targets():
    graph = made_up(0)
    for place, node in enumerate(graph.of_kind(LOGIT)):
        assert graph.target(int(node)) == graph.info.targets[place]
    for node in (0, graph.count - len(graph.info.targets) - 1):
        with pytest.raises(InputError, match="expected a logit"):
            graph.target(node)
    with pytest.raises(InputError, match="expected an integer"):
        graph.target(graph.count)


@pytest.mark.parametrize(
    ("senders", "receivers"), [([0], [99]), ([-1], [0]), ([0, 1], [1])], ids=str
)
def test_edges_to_no_node_are_refused(senders, receivers):
    table = made_up(0).nodes
    with pytest.raises(InputError, match="edges"):
        graph_parts(table, np.ones(len(senders), np.float32), senders, receivers)


def test_without_networkx_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(MissingDependencyError, match="pip install networkx"):
        made_up(0).to_networkx()


def test_graphs_are_compared_by_identity():
    """Comparing arrays would ask whether an array is true."""
    graph = made_up(0)
    assert graph == graph
    assert graph != made_up(0)
    assert dataclasses.is_dataclass(graph)
