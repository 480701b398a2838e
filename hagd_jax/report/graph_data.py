"""An attribution graph as data for a page: where nodes stand, and the edges worth embedding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hagd_jax.graphs import AttributionGraph, Pruned, prune
from hagd_jax.graphs.graph import EMBEDDING, ERROR, FEATURE, LOGIT
from hagd_jax.report.words import inert
from hagd_jax.units import unit_name
from hagd_jax.units.graph import strongest_into

# Nodes of one layer and position stand in rows of so many.
_ACROSS = 12
LONGEST_WORD = 40
_SIGNS = str.maketrans({"\n": "↵", "\t": "⇥"})


def graph_data(
    graph: AttributionGraph,
    *,
    most_nodes: int = 2000,
    edges_per_node: int = 40,
    supernodes: Iterable[tuple[str, Sequence[int]]] = (),
) -> dict[str, Any]:
    """Collect the nodes and edges of a graph that a page embeds.

    Args:
        graph: The graph.
        most_nodes: Features and errors of the highest influence are kept, so many; all
            embeddings and logits are.
        edges_per_node: The strongest edges into each node are kept.
        supernodes: (name, node numbers in the graph) of each.

    Returns:
        `nodes`: columns `node` (its number in the graph), `kind`, `layer`, `position`, `index`,
        `activation`, `chance`, `cumulative` (share of influence down to it), `x`, `y`, `word`,
        `name`; `edges`: columns `from`, `to` (places in `nodes`), `weight`, `share` of all that
        comes into the receiver; `words` of the prompt, `columns` (left edge of each position),
        `rows` (labels from the bottom), and `supernodes` with places of their members.
    """
    kept = prune(graph, node_threshold=1.0, edge_threshold=1.0)
    table = graph.nodes
    kind = np.asarray(table.kind)
    fixed = (kind == EMBEDDING) | (kind == LOGIT)
    worth = np.where(fixed, -1.0, kept.cumulative)
    inside = kept.nodes | fixed
    numbers = np.sort(
        np.argsort(np.where(inside, worth, 2), kind="stable")[: most_nodes + fixed.sum()]
    )
    numbers = numbers[inside[numbers]]
    place = np.full(len(kind), -1)
    place[numbers] = np.arange(len(numbers))
    x, y, columns = _layout(graph, numbers, kept)
    words = _words(graph)
    members = [(inert(name, 80), [int(place[n]) for n in group if place[n] >= 0])
               for name, group in supernodes]  # fmt: skip
    return {
        "nodes": {
            "node": numbers.tolist(),
            "kind": kind[numbers].tolist(),
            "layer": np.asarray(table.layer)[numbers].tolist(),
            "position": np.asarray(table.position)[numbers].tolist(),
            "index": np.asarray(table.index)[numbers].tolist(),
            "activation": _short(np.asarray(table.activation)[numbers]),
            "chance": _short(np.asarray(table.weight)[numbers]),
            "cumulative": _short(np.where(fixed, 0, kept.cumulative)[numbers]),
            "x": _short(x),
            "y": _short(y),
            "name": [_name(graph, int(n)) for n in numbers],
        },
        "edges": _edges(graph, place, edges_per_node),
        "words": words,
        "columns": _short(columns),
        "rows": ["tokens", *map(str, range(graph.info.layers)), "output"],
        "supernodes": [{"name": name, "members": group} for name, group in members if group],
    }


def _edges(graph: AttributionGraph, place: np.ndarray, most: int) -> dict[str, list]:
    """The strongest into each node, strongest first."""
    senders, receivers = graph.senders, graph.receivers
    weights = graph.weights.astype(np.float64)
    mass = np.bincount(receivers, np.abs(weights), len(place))
    among = np.flatnonzero((place[senders] >= 0) & (place[receivers] >= 0) & (weights != 0))
    order = among[strongest_into(receivers[among], np.abs(weights[among]), most)]
    share = np.abs(weights[order]) / mass[receivers[order]]
    return {
        "from": place[senders[order]].tolist(),
        "to": place[receivers[order]].tolist(),
        "weight": _short(weights[order]),
        "share": _short(share),
    }


def _layout(
    graph: AttributionGraph, numbers: np.ndarray, kept: Pruned
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where nodes stand, and the left edges of the positions' columns."""
    table = graph.nodes
    row, position = np.asarray(table.layer)[numbers] + 1, np.asarray(table.position)[numbers]
    length = len(graph.info.tokens)
    cell = row * length + position
    order = np.lexsort((kept.cumulative[numbers], np.asarray(table.kind)[numbers], cell))
    size = np.bincount(cell, minlength=(graph.info.layers + 2) * length)
    first = np.concatenate([[0], np.cumsum(size)])[cell[order]]
    rank = np.empty(len(numbers), int)
    rank[order] = np.arange(len(numbers)) - first
    widest = np.minimum(size.reshape(-1, length).max(0), _ACROSS)
    width = np.maximum(widest, 2) + 1.0
    left = np.concatenate([[0], np.cumsum(width)])
    across = np.minimum(size[cell], _ACROSS)
    x = left[position] + width[position] / 2 + rank % _ACROSS - (across - 1) / 2
    deep = np.maximum(-(-size[cell] // _ACROSS), 1)
    y = row + 0.7 * ((rank // _ACROSS + 0.5) / deep - 0.5)
    return x, y, left


def _words(graph: AttributionGraph) -> list[str]:
    words = graph.info.words or [f"#{token}" for token in graph.info.tokens]
    return [word_of(word) for word in words]


def word_of(word: str) -> str:
    """Format a token for readers: invisible characters shown, long ones cut."""
    return inert(word.translate(_SIGNS), LONGEST_WORD)


def _name(graph: AttributionGraph, node: int) -> str:
    table = graph.nodes
    kind = int(table.kind[node])
    if kind == FEATURE:
        return feature_name(graph, node)
    if kind == ERROR:
        return f"L{int(table.layer[node])} error"
    if kind == LOGIT:
        return f"output {word_of(graph.target(node).label)}"
    return f"token {_words(graph)[int(table.position[node])]}"


def feature_name(graph: AttributionGraph, node: int) -> str:
    """Return the short name of a feature node, such as `L3.F12`; in a mixture `L3.E5.N12`."""
    layer, index = (int(x[node]) for x in (graph.nodes.layer, graph.nodes.index))
    each = graph.info.per_expert
    return unit_name("neuron" if each else "feature", layer, index, each)


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in np.asarray(values, np.float64)]
