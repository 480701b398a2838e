"""What the coarsening needs of every kind of graph: weights between nodes, and their layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.graphs import AttributionGraph, TaskGraph
from hagd_jax.hierarchy.coarsen import HierarchyConfig, coarsen
from hagd_jax.hierarchy.weights import DENSE, Weights, weights
from hagd_jax.scores import ComponentGraph, NodeGraph

Graph = AttributionGraph | ComponentGraph | NodeGraph | TaskGraph


class Coarsenable(NamedTuple):
    """A graph as the coarsening sees it.

    Attributes:
        weights: Symmetrised |A|.
        layer: (N,) of every node, from 0: embeddings come first, logits last.
    """

    weights: Weights
    layer: np.ndarray

    __repr__ = one_line


def as_weights(graph: Graph, *, dense: int = DENSE) -> Coarsenable:
    """Weights of a graph: |A| there and back.

    Args:
        graph: Of a prompt, a task, components or nodes. Edges between the same two nodes add up,
            as those into queries, keys and values of one head do.
        dense: Up to so many nodes weights are a matrix.

    Returns:
        What `coarsen` takes.

    Raises:
        InputError: If it is no graph, or a weight is not finite.

    Example:
        >>> own = as_weights(component_graph(model, prompts))
        >>> coarsen(own.weights, HierarchyConfig(band=4), layer=own.layer)
    """
    if isinstance(graph, AttributionGraph):
        values, layer = graph.weights, graph.nodes.layer
    elif isinstance(graph, TaskGraph):
        values, layer = graph.edges.size, graph.nodes.layer
    elif isinstance(graph, ComponentGraph):
        values, layer = graph.edges.score, graph.nodes.layer
    elif isinstance(graph, NodeGraph):
        values, layer = graph.weights, graph.places.layer
    else:
        raise InputError("graph", got=type(graph).__name__, expected="an attribution graph")
    edges, depth = graph.graph, np.asarray(layer, int)
    ends = np.asarray(edges.senders), np.asarray(edges.receivers)
    found = weights(*ends, np.asarray(values), len(depth), dense=dense)
    return Coarsenable(found, depth - depth.min())


def clusters_of(graph: NodeGraph, config: HierarchyConfig, *, seed: int = 0) -> list[np.ndarray]:
    """Levels over all nodes of a node graph; those without an edge are clustered by layer and kind.

    Args:
        graph: Of a task.
        config: How coarse.
        seed: Of the coarsening.

    Returns:
        (N,) int32 supernodes, one array a level, coarsest first.
    """
    places = graph.places
    some = np.unique(np.concatenate([graph.senders, graph.receivers]))
    if not len(some):
        some = np.arange(len(places.kind))
    number = np.full(len(places.kind), -1)
    number[some] = np.arange(len(some))
    ends = number[graph.senders], number[graph.receivers]
    tied = weights(*ends, graph.weights, len(some))
    found = coarsen(tied, config, layer=np.asarray(places.layer)[some], seed=seed)
    group = 2 * np.asarray(places.layer) + np.asarray(places.kind)
    return with_rest(found.clusters(), some, group)


def with_rest(
    clusters: Sequence[np.ndarray], nodes: np.ndarray, group: np.ndarray
) -> list[np.ndarray]:
    """Levels over all nodes from levels over some: the rest form a cluster a group.

    Args:
        clusters: (M,) supernodes of some nodes, one array a level.
        nodes: (M,) which nodes those are.
        group: (N,) what each node would be clustered by, such as its layer.

    Returns:
        (N,) int32 supernodes of all nodes, one array a level.

    Example:
        >>> with_rest([np.array([0, 1])], np.array([2, 0]), np.array([0, 0, 0, 1]))[0].tolist()
        [1, 2, 0, 3]
    """
    rest = np.ones(len(group), bool)
    rest[nodes] = False
    found = []
    for level in clusters:
        row = np.zeros(len(group), np.int32)
        row[nodes] = level
        row[rest] = level.max() + 1 + np.unique(group[rest], return_inverse=True)[1]
        found.append(row)
    return found
