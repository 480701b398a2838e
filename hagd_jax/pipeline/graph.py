"""The graph of a task and what follows from it, as functions of arrays: both executors run them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.hierarchy import HierarchyConfig, Weights
from hagd_jax.hierarchy.coarsen import centre_groups, level_of
from hagd_jax.meta import Learner, describe_arrays, logits
from hagd_jax.pipeline.config import ExtractConfig
from hagd_jax.scores.node_graph import EDGES_PER_NODE
from hagd_jax.search import Tree
from hagd_jax.units import Space

# Levels of clusters where the configuration leaves the number open.
_USUAL = 2


class GraphSize(NamedTuple):
    """The sizes of a graph and its levels, known before any work.

    Attributes:
        space: Layers, heads and features of the model.
        chosen: Features that are nodes of the graph; all heads are.
        levels: Supernodes of each level that the search opens, finest first, other features'
            clusters not among them.
    """

    space: Space
    chosen: int
    levels: tuple[int, ...]

    @property
    def heads(self) -> int:
        """Heads of the model."""
        return self.space.layers * self.space.heads

    @property
    def nodes(self) -> int:
        """Nodes of the graph."""
        return self.heads + self.chosen

    @property
    def rest(self) -> int:
        """Clusters of features that are not in the graph: one a layer, if there are any."""
        every = self.space.layers * self.space.features
        return self.space.layers if self.chosen < every else 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Clusters of each level, coarsest first."""
        return tuple(count + self.rest for count in self.levels[::-1])


def graph_size(config: ExtractConfig, space: Space) -> GraphSize:
    """The sizes of the graph that a configuration asks for.

    Args:
        config: The configuration.
        space: Layers, heads and features of the model.

    Returns:
        The sizes; with the number of levels left open, as many as there can be, two at most.

    Example:
        >>> graph_size(ExtractConfig(), Space(12, 12, 3072)).counts
        (29, 277)
    """
    every = space.layers * space.features
    chosen, own = min(config.candidates, every), config.hierarchy
    possible = levels_of(own, space.layers * space.heads + chosen, space)
    few = _USUAL if config.levels is None else config.levels
    return GraphSize(space, chosen, tuple(possible[:few]))


def levels_of(config: HierarchyConfig, count: int, space: Space) -> list[int]:
    """Supernodes of each level that a graph is large enough for, finest first.

    Args:
        config: How coarse each level is.
        count: Nodes of the graph.
        space: The nodes of the model. If a `ratio` of them is less than the coarsest level has,
            there are no levels.
    """
    found: list[int] = []
    if space.nodes * config.ratio < config.least:
        return found
    while True:
        groups = bands(config, space, len(found))
        fewer = max(int(np.ceil(config.ratio * count)), min(config.least, count), groups)
        if fewer >= count:
            return found
        found.append(count := fewer)


def bands(config: HierarchyConfig, space: Space, level: int) -> int:
    """Bands of layers that supernodes of a level are bound to; 1 for no bound."""
    return -(-space.layers // (config.band << level)) if config.band else 1


def choose(flow: jax.Array, size: GraphSize) -> jax.Array:
    """(M,) int32 features that are nodes of the graph: those with the largest |first-order score|.

    They ascend: what is drawn for a node depends on its place, and an order by score would change
    with rounding.

    Args:
        flow: (N,) first-order scores of all nodes.
        size: The sizes of the graph.
    """
    return jnp.sort(jax.lax.top_k(jnp.abs(flow[size.heads :]), size.chosen)[1].astype(jnp.int32))


def nodes_of(chosen: jax.Array, size: GraphSize) -> jax.Array:
    """(H + M,) int32 the nodes of the graph, heads first."""
    return jnp.concatenate([jnp.arange(size.heads), size.heads + chosen])


def strongest(edges: jax.Array, most: int = EDGES_PER_NODE) -> tuple[jax.Array, jax.Array]:
    """The largest |edges| into each node of a graph.

    Args:
        edges: (S, S) [reader, writer].
        most: Edges into a node.

    Returns:
        (S, E) writers, and (S, E) weights.
    """
    column = jax.lax.top_k(jnp.abs(edges), min(most, len(edges)))[1]
    return column, jnp.take_along_axis(edges, column, 1)


def clusters(
    edges: jax.Array, chosen: jax.Array, size: GraphSize, key: jax.Array, config: HierarchyConfig
) -> Tree:
    """Cluster the nodes of a graph by spectral coarsening, and all other features by layer.

    Args:
        edges: (S, S) [reader, writer] between all heads and the chosen features.
        chosen: (M,) int32 those features.
        size: The sizes of the graph.
        key: PRNG key.
        config: How coarse each level is.

    Returns:
        The tree, of fixed shapes.
    """
    some = nodes_of(chosen, size)
    column, weight = strongest(edges)
    kept = jnp.zeros_like(edges).at[jnp.arange(len(edges))[:, None], column].set(jnp.abs(weight))
    now, place = Weights((kept + kept.T) / 2, None, None, None, size.nodes), jnp.arange(size.nodes)
    layer = jnp.asarray(size.space.layer, jnp.int32)
    depth, found = layer[some], []
    for number, count in enumerate(size.levels):
        key, own = jax.random.split(key)
        group = depth // (config.band << number) if config.band else jnp.zeros_like(depth)
        centres = centre_groups(group, bands(config, size.space, number), count)
        level = level_of(now, group, centres, own, config)
        # A supernode is as deep as its first member.
        depth = jax.ops.segment_min(depth, level.cluster, count)
        place, now = level.cluster[place], level.weights
        found.append((count + layer).at[some].set(place).astype(jnp.int32))
    return Tree(tuple(found[::-1]), size.counts)


def membership(
    learner: Learner,
    edges: jax.Array,
    chosen: jax.Array,
    flow: jax.Array,
    scores: jax.Array,
    size: GraphSize,
) -> jax.Array:
    """Membership logits of the meta-learner, from the strongest edges into each node of a graph.

    Args:
        learner: The learner.
        edges: (S, S) [reader, writer], mean over prompts.
        chosen: (M,) int32 the features of the graph.
        flow: (N,) first-order scores of all nodes, mean over prompts.
        scores: (N,) signed integrated gradients of all nodes, mean over prompts.
        size: The sizes of the graph.

    Returns:
        (N,) float32.
    """
    some, total = nodes_of(chosen, size), size.space.nodes
    column, weight = strongest(edges)
    values = weight.ravel()
    # An edge of no weight is none: its ends are a node that does not exist.
    there = values != 0
    senders = jnp.where(there, some[column.ravel()], total)
    receivers = jnp.where(there, jnp.repeat(some, column.shape[1]), total)
    head = np.arange(total) < size.heads
    seen = describe_arrays(head, size.space.layer, flow, scores, senders, receivers, values).graph
    padded = seen._replace(nodes=jnp.pad(seen.nodes, ((0, 1), (0, 0))), n_node=seen.n_node + 1)
    return logits(learner, padded)[:total]
