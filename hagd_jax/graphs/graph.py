"""An attribution graph: a `jraph.GraphsTuple` with a table of nodes, and where it came from."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen, prompt_digests
from hagd_jax.units.feature_edits import FeatureEdit
from hagd_jax.units.graph import Graph, graph_parts
from hagd_jax.units.naming import unit_name

KINDS = ("feature", "error", "embedding", "logit")
FEATURE, ERROR, EMBEDDING, LOGIT = range(4)
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class NodeTable(NamedTuple):
    """A table lists N nodes: features by layer, position and index; errors; embeddings; logits.

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

    __repr__ = one_line


@dataclasses.dataclass(frozen=True)
class LogitTarget:
    """A target is a weighted sum of centred output logits at the last position.

    Attributes:
        label: What it is called.
        tokens: Ids.
        coefficients: One a token.
        weight: How much it counts for influence: of a token, its probability.
    """

    label: str
    tokens: tuple[Count, ...]
    coefficients: tuple[float, ...] = (1.0,)
    weight: float = 1.0

    __repr__ = one_line


@dataclasses.dataclass(frozen=True)
class GraphInfo:
    """The provenance of a graph records the prompt, model, dictionary and settings it came from.

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
        per_expert: Neurons of an expert in each layer, see `Dictionary.per_expert`.
    """

    model: str
    dictionary: str
    tokens: tuple[Count, ...]
    words: tuple[str, ...]
    targets: tuple[LogitTarget, ...]
    layers: Annotated[int, Meta(ge=1, le=2**14)]
    features: Count
    active: Count
    settings: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    weights: str = ""
    per_expert: tuple[Count, ...] = ()

    __repr__ = one_line


class AttributionGraph(Graph):
    """An attribution graph holds the direct effects between features in one prompt.

    An edge s → t weighs A[t, s] = gradient of t's linear input with respect to what s writes to,
    times what s writes. The input of t is a feature's pre-activation, or a logit minus the mean
    logit; it is what A's row sums to, plus the constant that biases and the tangent of a soft cap
    make.

    Attributes:
        graph: Nodes are a `NodeTable`, edges (E,) float32 weights, senders the sources.
        info: Where it came from.
    """

    info: GraphInfo = struct.field(pytree_node=False)

    @property
    def nodes(self) -> NodeTable:
        """Return the table of nodes."""
        return self.graph.nodes  # type: ignore[return-value]

    def of_kind(self, kind: int) -> np.ndarray:
        """List the numbers of the nodes of a kind, such as `FEATURE`.

        Raises:
            InputError: If there is no such kind.
        """
        require_index("kind", kind, len(KINDS))
        return np.flatnonzero(np.asarray(self.nodes.kind) == kind)

    def target(self, node: int) -> LogitTarget:
        """Return the target of a logit node.

        Args:
            node: Number of the node.

        Returns:
            The target.

        Raises:
            InputError: If there is no such node, or it is no logit.
        """
        place = require_index("node", node, self.count) - self.count + len(self.info.targets)
        if place < 0:
            raise InputError("node", got=f"{node}, {self.label(node)}", expected="a logit")
        return self.info.targets[place]

    def edit(self, node: int, value: float = 0.0, *, scale: float = 0.0) -> FeatureEdit:
        """Make an edit of a feature node for `units.intervene`: f ← scale · f + value.

        Args:
            node: Number of the node.
            value: What is added; the new activation, where `scale` is 0.
            scale: What the activation is multiplied by first; by default the feature is ablated.

        Returns:
            The edit, which another dictionary than the graph's refuses.

        Raises:
            InputError: If it is no feature node of this graph.
        """
        node, table = require_index("node", node, self.count), self.nodes
        if table.kind[node] != FEATURE:
            raise InputError("node", got=f"{node}, {self.label(node)}", expected="a feature")
        place = int(table.layer[node]), int(table.position[node]), int(table.index[node])
        label = self.info.dictionary if self.info.weights else ""
        return FeatureEdit(*place, value=value, scale=scale, dictionary=label)

    @property
    def seen(self) -> Seen:
        """Return the prompt that decided its nodes; unknown in an older file."""
        info = self.info
        if not info.weights:
            return Seen.unknown()
        tokens, last = np.array([info.tokens]), np.array([len(info.tokens) - 1])
        prompt = Prompts(tokens, tokens, last, tokens[:, -1], tokens[:, -1], last + 1)
        return Seen(
            prompts=prompt_digests(prompt),
            models=(f"{info.model}#{info.weights}",),
            dictionaries=(info.dictionary,),
        )

    def label(self, node: int) -> str:
        """Describe a node in a few characters.

        Args:
            node: Number of the node.

        Returns:
            Such as `L3 #127 @4 " cat"`, or of a mixture's neuron `L3.E5.N12 @4 " cat"`.

        Raises:
            InputError: If there is no such node.
        """
        node, table = require_index("node", node, self.count), self.nodes
        kind, position = int(table.kind[node]), int(table.position[node])
        if kind == LOGIT:
            return f"logit {self.target(node).label!r}"
        info = self.info
        word = repr(info.words[position]) if info.words else f"#{info.tokens[position]}"
        if kind == EMBEDDING:
            return f"embedding {word} @{position}"
        layer, index = int(table.layer[node]), int(table.index[node])
        if kind == FEATURE and info.per_expert:
            return f"{unit_name('neuron', layer, index, info.per_expert)} @{position} {word}"
        what = "error" if kind == ERROR else f"#{index}"
        return f"L{layer} {what} @{position} {word}"

    def _about(self) -> tuple[str, ...]:
        chosen, info = len(self.of_kind(FEATURE)), self.info
        named = [repr(target.label) for target in info.targets[:3]]
        more = [f"{len(info.targets) - 3} more"] if len(info.targets) > 3 else []
        return (
            f"{chosen:,} of {info.active:,} active features",
            f"{len(info.tokens):,} tokens",
            f"targets {', '.join(named + more) or 'none'}",
        )


def make_graph(
    table: NodeTable, senders: Any, receivers: Any, weights: Any, info: GraphInfo
) -> AttributionGraph:
    """Make a graph from its parts.

    Args:
        table: N nodes.
        senders: (E,) sources of edges.
        receivers: (E,) their targets.
        weights: (E,).
        info: Where it comes from.

    Returns:
        The graph, in NumPy arrays.
    """
    edges = np.asarray(weights, np.float32)
    return AttributionGraph(graph_parts(table, edges, senders, receivers), info)
