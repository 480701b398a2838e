"""The explorer: what it embeds, and that foreign text stays text."""

import dataclasses
import json
import re

import numpy as np
import pytest

from hagd_jax.graphs import LogitTarget, neuronpedia_json, prune
from hagd_jax.graphs.graph import EMBEDDING, LOGIT
from hagd_jax.report.graph_data import graph_data
from hagd_jax.report.graph_page import graph_page
from tests.graphs.made_up import made_up
from tests.report.test_page import HOSTILE, URLS, Read, figures

LONG = "z" * 100_000


def hostile(text):
    graph = made_up(3, density=0.6, words=[text] * 4)
    info = dataclasses.replace(
        graph.info, targets=(LogitTarget(text, (1,)),) * 3, model=text, settings={text: text}
    )
    return graph.replace(info=info)


def page(text):
    return graph_page(
        hostile(text),
        title=text,
        facts={text: text, "command": text},
        supernodes=[(text, range(9))],
    )


def test_hostile_text_changes_no_tag():
    attacked, calm = Read(page(HOSTILE)), Read(page("x" * len(HOSTILE)))
    shape = [(tag, sorted(attrs)) for tag, attrs in attacked.tags]
    assert shape == [(tag, sorted(attrs)) for tag, attrs in calm.tags]
    assert not [a for _, attrs in attacked.tags for a in attrs if a.startswith("on")]
    assert len(attacked.scripts) == 5
    # The two that run are the same, byte for byte.
    assert attacked.scripts[3:] == calm.scripts[3:]
    html = page(HOSTILE)
    assert not set("\u202e\x1b\ud800") & set(html)
    html.encode()


def test_a_page_loads_nothing():
    read = Read(graph_page(made_up(3)))
    for tag, attrs in read.tags:
        for name in URLS:
            assert attrs.get(name, "data:,") == "data:,", (tag, attrs)


def test_endless_tokens_are_cut():
    short = len(page("z" * 100))
    assert len(page(LONG)) < short + 60_000
    json.dumps(neuronpedia_json(hostile(LONG)))


def test_what_is_embedded_is_the_strongest():
    graph = made_up(5, layers=6, length=5, features=60, density=0.7)
    shown = graph_data(graph, most_nodes=20, edges_per_node=3)
    kept = prune(graph, node_threshold=1.0, edge_threshold=1.0)
    kind, nodes = graph.nodes.kind, np.array(shown["nodes"]["node"])
    chosen = nodes[(kind[nodes] != EMBEDDING) & (kind[nodes] != LOGIT)]
    others = np.setdiff1d(np.flatnonzero(kept.nodes & (kind < EMBEDDING)), chosen)
    assert len(chosen) == 20 < len(others)
    assert kept.cumulative[chosen].max() < kept.cumulative[others].min()
    assert np.isin(np.flatnonzero(kind >= EMBEDDING), nodes).all()
    dense = graph.to_dense()
    mass = np.abs(dense).sum(1)
    edges = shown["edges"]
    assert len(edges["weight"]) > 40
    for a, b, weight, share in zip(
        *(edges[k] for k in ("from", "to", "weight", "share")), strict=True
    ):
        sender, receiver = nodes[a], nodes[b]
        assert weight == pytest.approx(dense[receiver, sender], rel=1e-3)
        assert share == pytest.approx(abs(weight) / mass[receiver], rel=2e-3)
    for b in range(len(nodes)):
        mine = sorted(abs(w) for w, to in zip(edges["weight"], edges["to"], strict=True) if to == b)
        best = np.sort(np.abs(dense[nodes[b], nodes]))[::-1]
        best = best[best > 0][:3]
        np.testing.assert_allclose(mine[::-1], best, rtol=1e-3)


def test_nodes_stand_at_their_layer_and_position():
    graph = made_up(5, layers=6, length=5, features=60)
    shown = graph_data(graph)
    nodes, left = shown["nodes"], shown["columns"]
    assert len(left) == 6
    for i, position in enumerate(nodes["position"]):
        assert left[position] < nodes["x"][i] < left[position + 1]
        assert abs(nodes["y"][i] - (nodes["layer"][i] + 1)) < 0.5
    places = set(zip(nodes["x"], nodes["y"], strict=True))
    assert len(places) == len(nodes["x"])  # none hides another


def test_groups_name_the_nodes_that_are_shown():
    graph = made_up(5, features=30, density=0.8)
    shown = graph_data(graph, most_nodes=5, supernodes=[("mine", range(30)), ("gone", [])])
    (group,) = shown["supernodes"]
    assert group["name"] == "mine"
    numbers = {shown["nodes"]["node"][place] for place in group["members"]}
    assert numbers == {n for n in shown["nodes"]["node"] if n < 30}
    assert numbers


def test_the_picture_is_one_bokeh_document():
    graph = made_up(4, density=0.6)
    read = Read(graph_page(graph))
    (document,) = figures(read).values()
    (source,) = document.select({"name": "nodes"})
    shown = graph_data(graph)
    assert list(source.data["name"]) == shown["nodes"]["name"]
    assert re.search("of what leads to|All that leads to", " ".join(read.words))
