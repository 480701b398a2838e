"""What the meta-learner sees of a graph: numbers that mean the same in any model."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jraph
import numpy as np

from hagd_jax.attribution import NodeGraph
from hagd_jax.attribution.node_graph import HEAD
from hagd_jax.hierarchy import embed, weights
from hagd_jax.interventions import Nodes

SPECTRAL = 4
NODE_COLUMNS = (
    "head", "depth", "score", "|score|", "rank of score", "rank of |score|", "rank of signed IG",
    "share of edges in", "share of edges out", "sign of edges in", "sign of edges out",
    "influence", "rank of influence", *(f"|eigenvector {i + 1}|" for i in range(SPECTRAL)),
)  # fmt: skip
EDGE_COLUMNS = ("signed share of the reader's", "share of the writer's", "layers between", "back")


class Described(NamedTuple):
    """A graph for the learner.

    Attributes:
        graph: Nodes (N, len(NODE_COLUMNS)) and edges (2 E, len(EDGE_COLUMNS)) float32, each edge
            there and back.
        singles: Name → (N,) scores that are beaten or not: `influence`, `|attribution|`, `ig`.
    """

    graph: jraph.GraphsTuple
    singles: dict[str, np.ndarray]


def describe(graph: NodeGraph, scores: Nodes | None = None) -> Described:
    """Numbers about every node and edge of a node graph.

    Scores are shares or ranks, eigenvectors have no sign, and layers count from 0 to 1: so that a
    node looks alike in models of any size. Influence is I = wM + wM² + …, M = |A| with rows
    normalised and w = |score|.

    Args:
        graph: Of a task.
        scores: Signed integrated gradients; the graph's own score if None.

    Returns:
        The description, NumPy arrays.

    Example:
        >>> seen = describe(node_graph(model, prompts), mean_scores(model, prompts))
        >>> seen.graph.nodes.shape
        (520, 17)
    """
    places, edges = graph.places, graph.graph
    count = len(places.kind)
    s, r = (np.asarray(ends, np.int64) for ends in (edges.senders, edges.receivers))
    a = np.asarray(edges.edges, np.float64)
    size, own = np.abs(a), np.asarray(graph.score, np.float64)
    ig = own if scores is None else np.asarray(scores.flat(), np.float64)
    into, out = (np.bincount(ends, size, count) for ends in (r, s))
    signed_in, signed_out = (np.bincount(ends, a, count) for ends in (r, s))
    share = size / np.maximum(into[r], 1e-30)
    influence = _influence(s, r, share, _share(np.abs(own)), count)
    depth = np.asarray(places.layer) / max(int(np.max(places.layer)), 1)
    columns = [
        np.asarray(places.kind) == HEAD, depth, _spread(own), np.abs(_spread(own)), _ranks(own),
        _ranks(np.abs(own)), _ranks(ig), _log(_share(into)), _log(_share(out)),
        signed_in / np.maximum(into, 1e-30), signed_out / np.maximum(out, 1e-30),
        _log(influence), _ranks(influence), *_spectral(s, r, a, count).T,
    ]  # fmt: skip
    nodes = np.stack(columns, 1).astype(np.float32)
    between = depth[r] - depth[s]
    back = size / np.maximum(out[s], 1e-30)
    there = np.stack([np.sign(a) * share, back, between, np.zeros(len(a))], 1)
    here = np.stack([np.sign(a) * back, share, between, np.ones(len(a))], 1)
    arrays: Any = {
        "nodes": nodes,
        "edges": np.concatenate([there, here]).astype(np.float32),
        "senders": np.concatenate([s, r]).astype(np.int32),
        "receivers": np.concatenate([r, s]).astype(np.int32),
        "n_node": np.array([count], np.int32),
        "n_edge": np.array([2 * len(a)], np.int32),
    }
    singles = {"influence": influence, "|attribution|": np.abs(own), "ig": ig}
    return Described(jraph.GraphsTuple(**arrays, globals=None), singles)


def _influence(
    s: np.ndarray, r: np.ndarray, share: np.ndarray, start: np.ndarray, count: int
) -> np.ndarray:
    """What flows down from nodes by how much they matter, over all paths; shares of the whole."""
    now, total = start, start.copy()
    for _ in range(200):
        now = np.bincount(s, share * now[r], count)
        total += now
        if now.sum() < 1e-9:
            break
    return _share(total)


def _spectral(s: np.ndarray, r: np.ndarray, a: np.ndarray, count: int) -> np.ndarray:
    """(N, 4) magnitudes of rows of the leading eigenvectors, the trivial one left out."""
    krylov = min(32, count)
    size = min(SPECTRAL + 1, krylov)
    rows, _ = embed(weights(s, r, a, count), jax.random.key(0), size=size, krylov=krylov)
    found = np.zeros((count, SPECTRAL))
    found[:, : size - 1] = np.abs(np.asarray(rows))[:, 1:]
    return found


def _share(x: np.ndarray) -> np.ndarray:
    return x / max(x.sum(), 1e-30)


def _spread(x: np.ndarray) -> np.ndarray:
    """Signed square root of the share of the whole: large differences made smaller."""
    return np.sign(x) * np.sqrt(_share(np.abs(x)))


def _log(x: np.ndarray) -> np.ndarray:
    """log(1 + n x) of shares: 0 for nothing, log 2 for an even share."""
    return np.log1p(len(x) * x)


def _ranks(x: np.ndarray) -> np.ndarray:
    """From −1 to 1; equal values have equal ranks."""
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count + 1) / 2
    return 2 * middle[place] / max(len(x) - 1, 1) - 1
