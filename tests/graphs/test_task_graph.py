"""Means over prompts against dictionaries and loops."""

import collections
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.graphs import influence, load_graph, save_graph, task_graph
from hagd_jax.graphs.graph import EMBEDDING, LOGIT, make_graph
from hagd_jax.tasks.prompts import make_prompts
from hagd_jax.tasks.seen import prompt_digests
from tests.graphs.made_up import made_up


def key(graph, node, positions):
    table = graph.nodes
    kind, index = int(table.kind[node]), int(table.index[node])
    if kind == LOGIT:
        index = int(node - graph.of_kind(LOGIT)[0])
    if kind == EMBEDDING and positions:
        index = -1
    place = int(table.position[node]) if positions else -1
    return kind, int(table.layer[node]), place, index


def plainly(graphs, positions):
    """Per prompt: key → value, and pair of keys → summed weight."""
    nodes, edges = [], []
    for graph in graphs:
        reach = influence(graph)
        values = collections.defaultdict(lambda: np.zeros(2))
        for node in range(len(graph.nodes.kind)):
            values[key(graph, node, positions)] += graph.nodes.activation[node], reach[node]
        weights = collections.defaultdict(float)
        for s, r, w in zip(graph.senders, graph.receivers, graph.weights, strict=True):
            weights[key(graph, r, positions), key(graph, s, positions)] += float(w)
        nodes.append(values)
        edges.append(weights)
    return nodes, edges


@given(seed=st.integers(0, 1000), count=st.integers(1, 5), positions=st.booleans())
@settings(max_examples=25)
def test_means_and_errors_equal_plain_loops(seed, count, positions):
    graphs = [made_up(seed + i, features=20, density=0.6) for i in range(count)]
    found = task_graph(iter(graphs), positions=positions)
    nodes, edges = plainly(graphs, positions)
    table = found.nodes
    keys = list(zip(*(np.asarray(x).tolist() for x in table[:4]), strict=True))
    assert keys == sorted({k for own in nodes for k in own})
    for i, own in enumerate(keys):
        having = [values[own] for values in nodes if own in values]
        assert table.frequency[i] == pytest.approx(len(having) / count)
        activation, reach = np.sum(having, 0) / count
        assert table.activation[i] == pytest.approx(activation, rel=1e-5, abs=1e-6)
        assert table.influence[i] == pytest.approx(reach, rel=1e-5, abs=1e-7)
    pairs = {pair for own in edges for pair in own}
    assert len(found.edges.mean) == len(pairs) > 10
    for s, r, *row in zip(found.graph.senders, found.graph.receivers, *found.edges, strict=True):
        every = np.array([own.get((keys[r], keys[s]), 0.0) for own in edges])
        mean, size, error, often = row
        assert mean == pytest.approx(every.mean(), rel=1e-4, abs=1e-6)
        assert size == pytest.approx(np.abs(every).mean(), rel=1e-4, abs=1e-6)
        spread = every.std(ddof=1) / count**0.5 if count > 1 else 0
        assert error == pytest.approx(spread, rel=1e-3, abs=1e-6)
        having = sum((keys[r], keys[s]) in own for own in edges)
        assert often == pytest.approx(having / count)


def test_the_strongest_edges_are_kept():
    graphs = [made_up(i, features=30, density=0.9) for i in range(3)]
    whole, few = task_graph(graphs), task_graph(graphs, edges_per_node=4)
    for row, small in zip(whole.to_dense("size"), few.to_dense("size"), strict=True):
        np.testing.assert_array_equal(np.sort(small)[::-1][:4], np.sort(row)[::-1][:4])
        assert np.count_nonzero(small) == min(4, np.count_nonzero(row))
    assert len(few.edges.mean) < len(whole.edges.mean)
    assert few.prompts == 3


BAD = {
    "none": ([], {}, "one or more"),
    "layers": ([made_up(0), made_up(1, layers=4)], {}, "3 layers"),
    "targets": ([made_up(0), made_up(1, logits=2)], {}, "3 targets"),
    "lengths": ([made_up(0), made_up(1, length=5)], {"positions": True}, "4 tokens"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_graphs_that_do_not_belong_together_are_refused(name):
    graphs, options, message = BAD[name]
    with pytest.raises(InputError, match=message):
        task_graph(graphs, **options)


def test_without_positions_lengths_may_differ():
    found = task_graph([made_up(0), made_up(1, length=5)])
    assert found.prompts == 2
    assert (found.nodes.position == -1).all()


def with_weights(graph, tokens, weights="0badcafe"):
    info = dataclasses.replace(graph.info, tokens=tokens, weights=weights, dictionary="mine#1234")
    return graph.replace(info=info)


def test_a_mean_has_seen_the_prompts_of_all_its_graphs(tmp_path):
    rows = [[5, 1, 2, 3], [5, 1, 2, 4]]
    graphs = [with_weights(made_up(i), tuple(row)) for i, row in enumerate(rows)]
    found = task_graph(graphs).seen
    expected = make_prompts(rows, rows, [1, 1], [2, 2], vocab_size=9)
    assert set(found.prompts) == set(prompt_digests(expected))
    assert len(found.prompts) == 2
    assert (found.models, found.dictionaries) == (("made up#0badcafe",), ("mine#1234",))
    assert found.known
    save_graph(graphs[0], tmp_path / "graph.safetensors")
    assert load_graph(tmp_path / "graph.safetensors").seen == graphs[0].seen
    # One of an older file, and nothing is known of the whole.
    assert not made_up(3).seen.known
    assert not task_graph([*graphs, made_up(3)]).seen.known


def test_graphs_without_nodes_have_a_mean():
    table = type(made_up().nodes)(*(np.asarray(column)[:0] for column in made_up().nodes))
    info = dataclasses.replace(made_up().info, targets=())
    nothing = make_graph(table, [], [], [], info)
    found = task_graph([nothing, nothing])
    assert (found.count, len(found.weights), found.prompts) == (0, 0, 2)
    assert found.to_dense().shape == (0, 0)
