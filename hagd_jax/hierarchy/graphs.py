"""What the coarsening needs of every kind of graph: weights between nodes, and their layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is, require_list
from hagd_jax.graphs import AttributionGraph, TaskGraph
from hagd_jax.hierarchy.coarsen import HierarchyConfig, coarsen
from hagd_jax.hierarchy.weights import DENSE, Weights, relative, weights
from hagd_jax.models.arrays import read_array, read_indices
from hagd_jax.scores import ComponentGraph, NodeGraph
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Graph as UnitGraph

Graph = AttributionGraph | ComponentGraph | NodeGraph | TaskGraph


class Coarsenable(NamedTuple):
    """A coarsenable graph has symmetric weights and a layer for each node.

    Attributes:
        weights: Symmetrised |A|.
        layer: (N,) of every node, from 0: embeddings come first, logits last.
        seen: The data that the graph was made from.
    """

    weights: Weights
    layer: np.ndarray
    seen: Seen

    __repr__ = one_line


@dataclasses.dataclass(frozen=True, eq=False)
class Levels(Sequence[np.ndarray]):
    """Levels hold clusters of all nodes, one array per level, and the data that decided them.

    Attributes:
        rows: (N,) int32 supernode of every node for each level, coarsest first.
        seen: What the clusters were made by looking at.

    Example:
        >>> import numpy as np
        >>> from hagd_jax.hierarchy import Levels
        >>> from hagd_jax.tasks.seen import Seen
        >>> levels = Levels((np.array([0, 0, 0]), np.array([0, 1, 1])), Seen.nothing())
        >>> len(levels), levels[-1:].seen
        (2, Seen(nothing))
    """

    rows: tuple[np.ndarray, ...]
    seen: Seen

    @overload
    def __getitem__(self, which: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, which: slice) -> Levels: ...

    def __getitem__(self, which: int | slice) -> np.ndarray | Levels:
        """One level; or several, which have seen the same."""
        if isinstance(which, slice):
            return Levels(self.rows[which], self.seen)
        return self.rows[which]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        counts = [len(np.unique(row)) for row in self.rows]
        return f"Levels({counts} clusters, {self.seen})"


def history(graph: Graph) -> Seen:
    """Return the data that a graph was made from; unknown where it is not recorded.

    Args:
        graph: A graph of any kind.

    Returns:
        Its record.

    Raises:
        InputError: If it is no graph.
    """
    require_is("graph", graph, AttributionGraph, ComponentGraph, NodeGraph, TaskGraph)
    return graph.seen


def as_weights(graph: Graph, *, dense: int = DENSE) -> Coarsenable:
    """Convert a graph to symmetric weights |A|.

    Args:
        graph: Of a prompt, a task, components or nodes. Edges between the same two nodes add up,
            as those into queries, keys and values of one head do.
        dense: Up to so many nodes weights are a matrix.

    Returns:
        What `coarsen` takes.

    Raises:
        InputError: If it is no graph, or a weight is not finite.

    Example:
        >>> from hagd_jax.hierarchy import HierarchyConfig, as_weights, coarsen
        >>> from hagd_jax.scores import component_graph
        >>> from hagd_jax.testbeds import hand_built
        >>> case = hand_built()[0]
        >>> own = as_weights(component_graph(case.model, case.prompts))
        >>> made = coarsen(own.weights, HierarchyConfig(least=3, band=2), layer=own.layer)
        >>> made.clusters()[0].shape == own.layer.shape
        True
    """
    require_is("graph", graph, UnitGraph)
    depth, ends = graph.layer.astype(int), (graph.senders, graph.receivers)
    found = weights(*ends, graph.strength, len(depth), dense=dense)
    return Coarsenable(found, depth - depth.min(), history(graph))


def clusters_of(
    graph: NodeGraph, config: HierarchyConfig = HierarchyConfig(), *, seed: int = 0
) -> Levels:
    """Cluster all nodes of a node graph; isolated ones are clustered by layer and kind.

    Args:
        graph: Node graph of a task.
        config: How coarse each level is.
        seed: Seed of the coarsening.

    Returns:
        (N,) int32 supernodes, one array a level, coarsest first, which have seen what the graph
        has seen; what `search.Tree.of` takes.

    Raises:
        InputError: If it is another kind of graph.

    Example:
        >>> from hagd_jax.hierarchy import HierarchyConfig, clusters_of
        >>> from hagd_jax.scores import node_graph
        >>> from hagd_jax.testbeds import hand_built
        >>> case = hand_built()[0]
        >>> graph = node_graph(case.model, case.prompts)
        >>> int(clusters_of(graph, HierarchyConfig(ratio=0.5, least=2))[-1].max()) + 1
        4
    """
    if not isinstance(graph, NodeGraph):
        raise InputError("graph", got=type(graph).__name__, expected="a NodeGraph",
                         mend="Make one with scores.node_graph.")  # fmt: skip
    places = graph.nodes
    some = np.unique(np.concatenate([graph.senders, graph.receivers]))
    if not len(some):
        some = np.arange(len(places.kind))
    number = np.full(len(places.kind), -1)
    number[some] = np.arange(len(some))
    ends = number[graph.senders], number[graph.receivers]
    tied = weights(*ends, relative(graph.weights), len(some))
    found = coarsen(tied, config, layer=np.asarray(places.layer)[some], seed=seed)
    group = 2 * np.asarray(places.layer) + np.asarray(places.kind)
    return Levels(tuple(with_rest(found.clusters(), some, group)), history(graph))


def with_rest(
    clusters: Sequence[np.ndarray], nodes: np.ndarray, group: np.ndarray
) -> list[np.ndarray]:
    """Extend levels to all nodes: the nodes not covered form one cluster per group.

    Args:
        clusters: (M,) supernodes of some nodes, one array a level.
        nodes: (M,) which nodes those are.
        group: (N,) what each node would be clustered by, such as its layer.

    Returns:
        (N,) int32 supernodes of all nodes, one array a level.

    Raises:
        InputError: If levels are not of so many nodes, or a node does not exist.

    Example:
        >>> import numpy as np
        >>> from hagd_jax.hierarchy import with_rest
        >>> with_rest([np.array([0, 1])], np.array([2, 0]), np.array([0, 0, 0, 1]))[0].tolist()
        [1, 2, 0, 3]
    """
    group = np.asarray(read_array("group", group))
    if group.ndim != 1 or not len(group):
        raise InputError("group", got=f"shape {group.shape}", expected="one number for each node")
    count = len(group)
    nodes = np.asarray(read_indices("nodes", nodes, count, (None,)))
    clusters = [
        np.asarray(read_indices("clusters", level, np.iinfo(np.int32).max, nodes.shape))
        for level in require_list("clusters", clusters, "supernodes of each level")
    ]
    rest = np.ones(count, bool)
    rest[nodes] = False
    found = []
    for level in clusters:
        row = np.zeros(count, np.int32)
        row[nodes] = level
        row[rest] = level.max() + 1 + np.unique(group[rest], return_inverse=True)[1]
        found.append(row)
    return found
