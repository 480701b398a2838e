"""An attribution graph: a `jraph.GraphsTuple` with a table of nodes, and where it came from."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jraph
import numpy as np
from flax import struct

from hagd_jax.errors import InputError, require_index

KINDS = ("feature", "error", "embedding", "logit")
FEATURE, ERROR, EMBEDDING, LOGIT = range(4)


class NodeTable(NamedTuple):
    """N nodes in order: features by layer, position and index; errors; embeddings; logits.

    Attributes:
        kind: (N,) int8, an index into `KINDS`.
        layer: (N,) int32; −1 for embeddings, L for logits.
        position: (N,) int32.
        index: (N,) int32 feature, or token id of embeddings and of logits that are one token;
            −1 for errors and directions.
        activation: (N,) float32 of features; 0 for others.
        weight: (N,) float32 how much a logit counts: its probability; 0 for others.
        folded: (N, 2) float32 Σ|A| into a node from errors and from embeddings that are not among
            its edges; zero unless edges were capped.
        remainder: (N,) float32 Σ A into a node over all sources that are not among its edges.
    """

    kind: Any
    layer: Any
    position: Any
    index: Any
    activation: Any
    weight: Any
    folded: Any
    remainder: Any


@dataclasses.dataclass(frozen=True)
class LogitTarget:
    """A weighted sum of output logits at the last position, each taken from their mean.

    Attributes:
        label: What it is called.
        tokens: Ids.
        coefficients: One a token.
        weight: How much it counts for influence: of a token, its probability.
    """

    label: str
    tokens: tuple[int, ...]
    coefficients: tuple[float, ...] = (1.0,)
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class GraphInfo:
    """Where a graph came from.

    Attributes:
        model: Name of the model.
        dictionary: Label of the dictionary; a transcoder's ends with its digest.
        tokens: Ids of the prompt.
        words: Their texts, if the model has a tokenizer.
        targets: What the logit nodes are.
        layers: L.
        features: F, in the dictionary, a layer.
        active: Active features in the prompt; those that are no nodes were not chosen.
        settings: The configuration, as JSON values.
        weights: Digest of the model's weights, see `models.digest`; empty where a file is older
            than this field.
    """

    model: str
    dictionary: str
    tokens: tuple[int, ...]
    words: tuple[str, ...]
    targets: tuple[LogitTarget, ...]
    layers: int
    features: int
    active: int
    settings: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    weights: str = ""


class AttributionGraph(struct.PyTreeNode):
    """Which feature drives which, in one prompt.

    An edge s → t weighs A[t, s] = gradient of t's linear input with respect to what s writes to,
    times what s writes. The input of t is a feature's pre-activation, or a logit minus the mean
    logit; it is what A's row sums to, plus the constant that biases make.

    Attributes:
        graph: Nodes are a `NodeTable`, edges (E,) float32 weights, senders the sources.
        info: Where it came from.
    """

    graph: jraph.GraphsTuple
    info: GraphInfo = struct.field(pytree_node=False)

    @property
    def nodes(self) -> NodeTable:
        """The table of nodes."""
        return self.graph.nodes  # type: ignore[return-value]

    @property
    def senders(self) -> np.ndarray:
        """(E,) the source of each edge."""
        return np.asarray(self.graph.senders)

    @property
    def receivers(self) -> np.ndarray:
        """(E,) the target of each edge."""
        return np.asarray(self.graph.receivers)

    @property
    def weights(self) -> np.ndarray:
        """(E,) A[receiver, sender] of each edge."""
        return np.asarray(self.graph.edges)

    def of_kind(self, kind: int) -> np.ndarray:
        """Numbers of the nodes of a kind, such as `FEATURE`.

        Raises:
            InputError: If there is no such kind.
        """
        require_index("kind", kind, len(KINDS))
        return np.flatnonzero(np.asarray(self.nodes.kind) == kind)

    def to_dense(self) -> np.ndarray:
        """The adjacency matrix.

        Returns:
            (N, N) float32, [target, source].
        """
        count = len(self.nodes.kind)
        dense = np.zeros((count, count), np.float32)
        dense[self.receivers, self.senders] = self.weights
        return dense

    def target(self, node: int) -> LogitTarget:
        """What a logit node is.

        Args:
            node: Its number.

        Returns:
            The target.

        Raises:
            InputError: If there is no such node, or it is no logit.
        """
        count = len(self.nodes.kind)
        place = require_index("node", node, count) - count + len(self.info.targets)
        if place < 0:
            raise InputError("node", got=f"{node}, {self.label(node)}", expected="a logit")
        return self.info.targets[place]

    def label(self, node: int) -> str:
        """What a node is, in a few characters.

        Args:
            node: Its number.

        Returns:
            Such as `L3 #127 @4 " cat"`.

        Raises:
            InputError: If there is no such node.
        """
        table = self.nodes
        node = require_index("node", node, len(table.kind))
        kind, position = int(table.kind[node]), int(table.position[node])
        if kind == LOGIT:
            return f"logit {self.target(node).label!r}"
        info = self.info
        word = repr(info.words[position]) if info.words else f"#{info.tokens[position]}"
        if kind == EMBEDDING:
            return f"embedding {word} @{position}"
        what = "error" if kind == ERROR else f"#{int(table.index[node])}"
        return f"L{int(table.layer[node])} {what} @{position} {word}"

    def __str__(self) -> str:
        chosen, edges = len(self.of_kind(FEATURE)), len(self.weights)
        return (
            f"attribution graph of {len(self.info.tokens)} tokens: {chosen:,} of "
            f"{self.info.active:,} active features, {edges:,} edges, "
            f"targets {', '.join(repr(target.label) for target in self.info.targets)}"
        )


def make_graph(
    table: NodeTable, senders: Any, receivers: Any, weights: Any, info: GraphInfo
) -> AttributionGraph:
    """A graph from its parts.

    Args:
        table: N nodes.
        senders: (E,) sources of edges.
        receivers: (E,) their targets.
        weights: (E,).
        info: Where it comes from.

    Returns:
        The graph, in NumPy arrays.
    """
    arrays: Any = {
        "nodes": table,
        "edges": np.asarray(weights, np.float32),
        "senders": np.asarray(senders, np.int32),
        "receivers": np.asarray(receivers, np.int32),
        "n_node": np.array([len(table.kind)], np.int32),
        "n_edge": np.array([len(weights)], np.int32),
    }
    return AttributionGraph(jraph.GraphsTuple(**arrays, globals=None), info)
