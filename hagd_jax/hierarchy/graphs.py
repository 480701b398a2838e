"""What the coarsening needs of every kind of graph: weights between nodes, and their layers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hagd_jax.attribution import AttributionGraph, ComponentGraph, NodeGraph, TaskGraph
from hagd_jax.errors import InputError
from hagd_jax.hierarchy.weights import DENSE, Weights, weights

Graph = AttributionGraph | ComponentGraph | NodeGraph | TaskGraph


class Coarsenable(NamedTuple):
    """A graph as the coarsening sees it.

    Attributes:
        weights: Symmetrised |A|.
        layer: (N,) of every node, from 0: embeddings come first, logits last.
    """

    weights: Weights
    layer: np.ndarray


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
        values, layer = graph.edges.score, graph.graph.nodes.layer
    elif isinstance(graph, NodeGraph):
        values, layer = graph.graph.edges, graph.places.layer
    else:
        raise InputError("graph", got=type(graph).__name__, expected="an attribution graph")
    edges, depth = graph.graph, np.asarray(layer, int)
    found = weights(edges.senders, edges.receivers, values, len(depth), dense=dense)
    return Coarsenable(found, depth - depth.min())
