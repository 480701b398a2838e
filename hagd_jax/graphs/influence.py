"""How much each node of an attribution graph matters to its targets, and which part suffices.

M is |A| with rows that sum to one: of all that comes into t, the share that comes from s. With w
the weights of the logits, influence is what arrives over paths of any length.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sparse

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is, require_number
from hagd_jax.graphs.graph import (
    EMBEDDING,
    ERROR,
    FEATURE,
    LOGIT,
    AttributionGraph,
    NodeTable,
    make_graph,
)


class GraphScores(NamedTuple):
    """Replacement and completeness tell how much of a prompt a graph explains.

    Attributes:
        replacement: I_emb / (I_emb + I_err): of the influence that ends somewhere, the share that
            ends at tokens rather than errors.
        completeness: Σ_t (1 − Σ_err M[t]) (I + w)_t / Σ_t (I + w)_t: the share of input, weighed
            by influence, that is not errors.
    """

    replacement: float
    completeness: float


class Pruned(NamedTuple):
    """A pruning marks the nodes and edges of a graph that are kept.

    Attributes:
        nodes: (N,) bool.
        edges: (E,) bool.
        cumulative: (N,) the share of all influence that the nodes down to this one have.
    """

    nodes: np.ndarray
    edges: np.ndarray
    cumulative: np.ndarray

    __repr__ = one_line


def influence(graph: AttributionGraph) -> np.ndarray:
    """Compute the influence of every node on the targets: I = wM + wM² + wM³ + ….

    The graph has no cycles, so the sum ends. Capped edges count where they go, as long as they
    come from errors and embeddings: what is folded of features is left out, as are features that
    are no nodes.

    Args:
        graph: The graph.

    Returns:
        (N,) float64. A logit has none: it is where influence starts.

    Raises:
        InputError: If an edge or a target's weight is not finite.
    """
    require_is("graph", graph, AttributionGraph)
    table = graph.nodes
    return _influence(_normalised(graph), np.asarray(table.weight, np.float64))


def graph_scores(graph: AttributionGraph) -> GraphScores:
    """Compute the replacement and completeness scores of a graph.

    Args:
        graph: The graph.

    Returns:
        Two numbers from 0 to 1; 0 where nothing moves a target.

    Raises:
        InputError: If an edge or a target's weight is not finite.
    """
    require_is("graph", graph, AttributionGraph)
    table, matrix = graph.nodes, _normalised(graph)
    weight = np.asarray(table.weight, np.float64)
    found = _influence(matrix, weight)
    reach = found + weight
    folded = _folded_shares(graph)
    into_errors, into_embeddings = reach @ folded
    errors = found[graph.of_kind(ERROR)].sum() + into_errors
    embeddings = found[graph.of_kind(EMBEDDING)].sum() + into_embeddings
    erring = np.asarray(matrix[:, graph.of_kind(ERROR)].sum(1)).ravel()
    clean = 1 - erring - folded[:, 0]
    total, ends = embeddings + errors, into_errors + into_embeddings
    weighed = reach.sum() + ends
    return GraphScores(
        replacement=float(embeddings / total) if total else 0.0,
        # What is folded would have ended at nodes without input, of which nothing is an error.
        completeness=float((clean @ reach + ends) / weighed) if weighed else 0.0,
    )


def prune(
    graph: AttributionGraph, *, node_threshold: float = 0.8, edge_threshold: float = 0.98
) -> Pruned:
    """Select the nodes and edges that carry most of the influence.

    Nodes of the highest influence that have `node_threshold` of it together are kept, and all
    embeddings and logits. Influence is then taken again among them: edges that carry
    `edge_threshold` of it are kept, an edge s → t carrying M[t, s] (I + w)_t. Features and errors
    without an edge out, and features without an edge in, are dropped until none is left.

    Args:
        graph: The graph.
        node_threshold: Share of influence, above 0 and at most 1.
        edge_threshold: The same of edges.

    Returns:
        What is kept.

    Raises:
        ConfigError: If a threshold is not above 0 and at most 1.
        InputError: If an edge or a target's weight is not finite.
    """
    require_is("graph", graph, AttributionGraph)
    require_number("node_threshold", node_threshold, above=0, most=1)
    require_number("edge_threshold", edge_threshold, above=0, most=1)
    table = graph.nodes
    weight = np.asarray(table.weight, np.float64)
    found = influence(graph)
    kind = np.asarray(table.kind)
    fixed = (kind == EMBEDDING) | (kind == LOGIT)
    nodes = fixed | (found >= _threshold(found, node_threshold))
    senders, receivers = graph.senders, graph.receivers
    among = nodes[senders] & nodes[receivers]
    size = np.abs(graph.weights.astype(np.float64)) * among
    matrix = _matrix(size, receivers, senders, len(kind), np.bincount(receivers, size, len(kind)))
    reach = _influence(matrix, weight) + weight
    mass = np.bincount(receivers, size, len(kind))
    carried = size / _divisor(mass)[receivers] * reach[receivers]
    edges = (carried >= _threshold(carried, edge_threshold)) & among
    nodes, edges = _connected(nodes, edges, senders, receivers, kind)
    order = np.argsort(-found, kind="stable")
    cumulative = np.zeros(len(found))
    # Where nothing moves a target there is no influence to share out.
    cumulative[order] = np.cumsum(found[order]) / (found.sum() or 1.0)
    return Pruned(nodes, edges, cumulative)


def subgraph(graph: AttributionGraph, kept: Pruned) -> AttributionGraph:
    """Make a graph of the nodes and edges that are kept.

    Edges that are left out go into the sums of their receivers, as if they had been folded.

    Args:
        graph: The graph.
        kept: From `prune`, of this graph.

    Returns:
        The smaller graph; its nodes are numbered anew, in the same order.

    Raises:
        InputError: If what is kept is not of this graph.
    """
    require_kept(graph, kept)
    table = graph.nodes
    count = len(table.kind)
    senders, receivers = graph.senders, graph.receivers
    chosen = kept.edges & kept.nodes[senders] & kept.nodes[receivers]
    gone, weights = ~chosen, graph.weights.astype(np.float64)
    remainder = np.bincount(receivers[gone], weights[gone], count)
    folded = np.zeros((count, 2))
    for column, kind in enumerate((ERROR, EMBEDDING)):
        these = gone & (np.asarray(table.kind)[senders] == kind)
        folded[:, column] = np.bincount(receivers[these], np.abs(weights[these]), count)
    whole = table._replace(
        folded=table.folded + folded.astype(np.float32),
        remainder=table.remainder + remainder.astype(np.float32),
    )
    place = np.cumsum(kept.nodes) - 1
    return make_graph(
        NodeTable(*(np.asarray(column)[kept.nodes] for column in whole)),
        place[senders[chosen]],
        place[receivers[chosen]],
        graph.weights[chosen],
        graph.info,
    )


def require_kept(graph: AttributionGraph, kept: Pruned) -> None:
    """Refuse a selection made for another graph.

    Args:
        graph: The graph.
        kept: From `prune`.

    Raises:
        InputError: If it has other numbers of nodes or edges.
    """
    require_is("graph", graph, AttributionGraph)
    require_is("kept", kept, Pruned)
    ours = len(graph.nodes.kind), len(graph.weights)
    theirs = np.size(kept.nodes), np.size(kept.edges)
    if ours != theirs:
        raise InputError(
            "kept",
            got="{} nodes and {} edges".format(*theirs),
            expected="{} and {}, as in the graph".format(*ours),
            mend="Prune this graph.",
        )


def _normalised(graph: AttributionGraph) -> sparse.csr_matrix:
    """M[t, s] = |A[t, s]| / (Σ_s |A[t, s]| + what is folded)."""
    table = graph.nodes
    for name, values in (("edges", graph.weights), ("folded", table.folded),
                         ("targets", table.weight)):  # fmt: skip
        bad = int((~np.isfinite(np.asarray(values))).sum())
        if bad:
            raise InputError(
                f"{name} of the graph", got=f"{bad} weights that are not finite",
                expected="numbers", mend="Look for infinities in the model's weights.",
            )  # fmt: skip
    count = len(table.kind)
    size = np.abs(graph.weights.astype(np.float64))
    receivers = graph.receivers
    mass = np.bincount(receivers, size, count) + np.asarray(table.folded, np.float64).sum(1)
    return _matrix(size, receivers, graph.senders, count, mass)


def _folded_shares(graph: AttributionGraph) -> np.ndarray:
    """(N, 2) what of each node's input is folded, from errors and from embeddings."""
    folded = np.asarray(graph.nodes.folded, np.float64)
    size = np.abs(graph.weights.astype(np.float64))
    mass = np.bincount(graph.receivers, size, len(folded)) + folded.sum(1)
    return folded / _divisor(mass)[:, None]


def _matrix(
    size: np.ndarray, receivers: np.ndarray, senders: np.ndarray, count: int, mass: np.ndarray
) -> sparse.csr_matrix:
    share = size / _divisor(mass)[receivers]
    return sparse.csr_matrix((share, (receivers, senders)), shape=(count, count))


def _divisor(mass: np.ndarray) -> np.ndarray:
    """The mass, or 1 where nothing comes in: shares must not depend on the unit of the edges."""
    return np.where(mass > 0, mass, 1.0)


def _influence(matrix: sparse.csr_matrix, weight: np.ndarray) -> np.ndarray:
    total, flow = np.zeros(len(weight)), weight
    # No path is longer than the number of nodes.
    for _ in range(len(weight)):
        flow = matrix.T @ flow
        if not flow.any():
            break
        total += flow
    return total


def _threshold(values: np.ndarray, share: float) -> float:
    """The smallest of the largest values that have a share of the total; ∞ where it is zero."""
    falling = np.sort(values)[::-1]
    running = np.cumsum(falling)
    if not len(values) or not running[-1]:
        return np.inf
    place = np.searchsorted(running / running[-1], share)
    return float(falling[min(place, len(falling) - 1)])


def _connected(
    nodes: np.ndarray,
    edges: np.ndarray,
    senders: np.ndarray,
    receivers: np.ndarray,
    kind: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Drop what leads nowhere and features that nothing leads to, to a fixed point."""
    count = len(nodes)
    while True:
        leads = np.bincount(senders[edges], minlength=count) > 0
        led = np.bincount(receivers[edges], minlength=count) > 0
        left = nodes & (leads | (kind == EMBEDDING) | (kind == LOGIT))
        left &= led | (kind != FEATURE)
        if (left == nodes).all():
            return nodes, edges
        nodes = left
        edges = edges & nodes[senders] & nodes[receivers]
