"""What the meta-learner sees of a graph: numbers that mean the same in any model."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is
from hagd_jax.hierarchy import Weights, embed, history
from hagd_jax.scores import NodeGraph
from hagd_jax.scores.node_graph import HEAD
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Nodes, Scores, Space

SPECTRAL = 4
NODE_COLUMNS = (
    "head", "depth", "score", "|score|", "rank of score", "rank of |score|", "rank of signed IG",
    "share of edges in", "share of edges out", "sign of edges in", "sign of edges out",
    "influence", "rank of influence", *(f"|eigenvector {i + 1}|" for i in range(SPECTRAL)),
)  # fmt: skip
EDGE_COLUMNS = ("signed share of the reader's", "share of the writer's", "layers between", "back")


class Described(NamedTuple):
    """A described graph holds features of nodes and edges for the learner.

    Attributes:
        graph: Nodes (N, len(NODE_COLUMNS)) and edges (2 E, len(EDGE_COLUMNS)) float32, each edge
            there and back.
        singles: Name → (N,) scores that are beaten or not: `influence`, `|attribution|`, `ig`.
        space: Numbers of layers, heads and features; None inside a program.
        seen: The data that the graph and its scores were made from; None inside a program.
    """

    graph: jraph.GraphsTuple
    singles: dict[str, Any]
    space: Space | None = None
    seen: Seen | None = None

    __repr__ = one_line


def describe(graph: NodeGraph, scores: Nodes | Scores | None = None) -> Described:
    """Compute input features of every node and edge of a node graph.

    Scores are shares or ranks, eigenvectors have no sign, and layers count from 0 to 1: so that a
    node looks alike in models of any size. Influence is I = wM + wM² + …, M = |A| with rows
    normalised and w = |score|.

    Args:
        graph: Node graph of a task.
        scores: Signed integrated gradients; the graph's own score if None.

    Returns:
        The description, NumPy arrays. It has seen what the graph and the scores have seen.

    Raises:
        InputError: If it is another kind of graph, or scores of other nodes, or a weight or a score
            is not finite.

    Example:
        >>> from hagd_jax.meta import describe
        >>> from hagd_jax.scores import mean_scores, node_graph
        >>> from hagd_jax.testbeds import hand_built
        >>> case = hand_built()[0]
        >>> graph = node_graph(case.model, case.prompts)
        >>> describe(graph, mean_scores(case.model, case.prompts)).graph.nodes.shape
        (10, 17)
    """
    if not isinstance(graph, NodeGraph):
        raise InputError("graph", got=type(graph).__name__, expected="a NodeGraph",
                         mend="Make one with scores.node_graph.")  # fmt: skip
    if scores is not None:
        require_is("scores", scores, Nodes, Scores)
    places, edges = graph.nodes, graph.graph
    own, seen = np.asarray(graph.score, np.float32), history(graph)
    ig = own if scores is None else np.asarray(scores.flat(), np.float32)
    if scores is not None:
        seen |= scores.seen if isinstance(scores, Scores) else Seen.unknown()
    if len(ig) != len(own):
        raise InputError("scores", got=f"{len(ig)} values", expected=f"{len(own)}, as the graph",
                         mend="Score the same model with the same dictionary.")  # fmt: skip
    if not all(np.isfinite(x).all() for x in (own, ig, graph.weights)):
        raise InputError("graph", got="a weight or score that is not finite", expected="numbers")
    found = describe_arrays(
        np.asarray(places.kind) == HEAD, np.asarray(places.layer), own, ig,
        np.asarray(edges.senders), np.asarray(edges.receivers),
        np.asarray(edges.edges, np.float32),
    )  # fmt: skip
    return jax.tree.map(np.asarray, found)._replace(space=graph.space, seen=seen)


@jax.jit
def describe_arrays(
    head: jax.Array, layer: jax.Array, score: jax.Array, ig: jax.Array, senders: jax.Array,
    receivers: jax.Array, values: jax.Array,
) -> Described:  # fmt: skip
    """Compute what `describe` returns, under `jit`.

    Args:
        head: (N,) bool; the others are features.
        layer: (N,) int32.
        score: (N,) float32 first-order scores.
        ig: (N,) float32 signed integrated gradients.
        senders: (E,) int32 of each edge; N where there is none.
        receivers: (E,) int32.
        values: (E,) float32; 0 where there is none.

    Returns:
        The description, of N nodes and 2 E edges.

    Example:
        >>> import jax.numpy as jnp
        >>> from hagd_jax.meta import describe_arrays
        >>> ends = jnp.array([0]), jnp.array([1])
        >>> x = jnp.array([1.0, -2.0])
        >>> describe_arrays(x > 0, jnp.array([0, 1]), x, x, *ends, x[1:]).graph.nodes.shape
        (2, 17)
    """
    count, s, r = len(head), senders, receivers
    total = lambda x, ends: jax.ops.segment_sum(x, ends, count)  # noqa: E731
    size = jnp.abs(values)
    into, out = total(size, r), total(size, s)
    share, back = size / jnp.maximum(into[r], 1e-30), size / jnp.maximum(out[s], 1e-30)
    influence = _influence(s, r, share, _share(jnp.abs(score)))
    depth = layer / jnp.maximum(layer.max(), 1)
    columns = [
        head, depth, _spread(score), jnp.abs(_spread(score)), _ranks(score),
        _ranks(jnp.abs(score)), _ranks(ig), _log(_share(into)), _log(_share(out)),
        total(values, r) / jnp.maximum(into, 1e-30), total(values, s) / jnp.maximum(out, 1e-30),
        _log(influence), _ranks(influence), *_spectral(s, r, size, count).T,
    ]  # fmt: skip
    between, sign = depth[r] - depth[s], jnp.sign(values)
    there = jnp.stack([sign * share, back, between, jnp.zeros_like(size)], 1)
    here = jnp.stack([sign * back, share, between, jnp.ones_like(size)], 1)
    arrays: Any = {
        "nodes": jnp.stack(columns, 1).astype(jnp.float32),
        "edges": jnp.concatenate([there, here]),
        "senders": jnp.concatenate([s, r]),
        "receivers": jnp.concatenate([r, s]),
        "n_node": jnp.array([count], jnp.int32),
        "n_edge": jnp.array([2 * len(values)], jnp.int32),
    }
    singles = {"influence": influence, "|attribution|": jnp.abs(score), "ig": ig}
    return Described(jraph.GraphsTuple(**arrays, globals=None), singles)


def _influence(s: jax.Array, r: jax.Array, share: jax.Array, start: jax.Array) -> jax.Array:
    """What flows down from nodes by how much they matter, over all paths; shares of the whole."""

    def more(state: tuple) -> tuple:
        now, total, steps = state
        now = jax.ops.segment_sum(share * now[r], s, len(start))
        return now, total + now, steps + 1

    def going_on(state: tuple) -> jax.Array:
        return (state[0].sum() >= 1e-9) & (state[2] < 200)

    return _share(jax.lax.while_loop(going_on, more, (start, start, 0))[1])


def _spectral(s: jax.Array, r: jax.Array, size: jax.Array, count: int) -> jax.Array:
    """(N, 4) magnitudes of rows of the leading eigenvectors, the trivial one left out."""
    krylov = min(32, count)
    leading = min(SPECTRAL + 1, krylov)
    both = jnp.concatenate([s, r]), jnp.concatenate([r, s])
    tied = Weights(None, *both, jnp.concatenate([size, size]) / 2, count)
    rows, _ = embed(tied, jax.random.key(0), size=leading, krylov=krylov)
    return jnp.zeros((count, SPECTRAL)).at[:, : leading - 1].set(jnp.abs(rows)[:, 1:])


def _share(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(x.sum(), 1e-30)


def _spread(x: jax.Array) -> jax.Array:
    """Signed square root of the share of the whole: large differences made smaller."""
    return jnp.sign(x) * jnp.sqrt(_share(jnp.abs(x)))


def _log(x: jax.Array) -> jax.Array:
    """log(1 + n x) of shares: 0 for nothing, log 2 for an even share."""
    return jnp.log1p(len(x) * x)


def _ranks(x: jax.Array) -> jax.Array:
    """From −1 to 1; equal values have equal ranks."""
    ordered = jnp.sort(x)
    below, upto = (jnp.searchsorted(ordered, x, side=side) for side in ("left", "right"))
    return (below + upto - 1) / max(len(x) - 1, 1) - 1
