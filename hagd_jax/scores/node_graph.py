"""The node graph: how much each head and feature matters through each later one, over a task."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import require_index, require_number
from hagd_jax.models import LanguageModel
from hagd_jax.scores.flow import Directions, Flow, directions, flow
from hagd_jax.scores.flow_edges import block, chosen_edges
from hagd_jax.scores.gradient_config import GradientConfig, check_scored
from hagd_jax.scores.path import PATH, Metric
from hagd_jax.tasks.batching import padded_batches
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen, look
from hagd_jax.units import Directed, Nodes, Scores, Source, Space, directed, unit_name
from hagd_jax.units.graph import Graph, graph_parts, strongest_into

EDGES_PER_NODE = 32
HEAD, FEATURE = range(2)
# Senders, receivers and weights of some edges.
_Ends = tuple[np.ndarray, np.ndarray, np.ndarray]


class NodePlaces(NamedTuple):
    """A table gives kind, layer and index of each node, in the order of `Nodes.flat`.

    Attributes:
        kind: (N,) int8: `HEAD` or `FEATURE`.
        layer: (N,) int32.
        index: (N,) int32 head or feature within its layer.
    """

    kind: Any
    layer: Any
    index: Any

    __repr__ = one_line

    @classmethod
    def of(cls, space: Space) -> NodePlaces:
        """List the nodes of a space, on the host."""
        each = (space.heads, space.features)
        kind = np.repeat([HEAD, FEATURE], [space.layers * n for n in each])
        index = np.concatenate([np.tile(np.arange(n), space.layers) for n in each])
        return cls(kind.astype(np.int8), space.layer, index.astype(np.int32))


class NodeGraph(Graph):
    """A node graph holds all nodes of a space and the strongest edges into each.

    An edge s → t weighs how much the metric changes, to first order, when t alone reads s from
    the counterfactual, everything between them being the residual stream (see `flow`). Attention
    is in the heads, which are nodes.

    Attributes:
        graph: Nodes are `NodePlaces`, edges (E,) float32, mean over prompts.
        score: (N,) float32 how much each node moves the metric, to first order (EAP-IG).
        space: How many nodes there are.
        prompts: How many were averaged.
        seen: What its edges were scored by looking at.
        per_expert: Neurons of an expert in each layer, see `Dictionary.per_expert`.
    """

    score: Any
    space: Space = struct.field(pytree_node=False)
    prompts: int = struct.field(pytree_node=False)
    seen: Seen = struct.field(pytree_node=False, default=Seen.unknown())
    per_expert: tuple[int, ...] = struct.field(pytree_node=False, default=())

    @property
    def nodes(self) -> NodePlaces:
        """Return the table of nodes."""
        return self.graph.nodes  # type: ignore[return-value]

    def label(self, node: int) -> str:
        """Describe a node, such as `L3 head 2`, `L3 #127` or `L3.E5.N12`; see `Graph.label`."""
        node, table = require_index("node", node, self.count), self.nodes
        if table.kind[node] == FEATURE and self.per_expert:
            place = int(table.layer[node]), int(table.index[node])
            return unit_name("neuron", *place, self.per_expert)
        sign = "head " if table.kind[node] == HEAD else "#"
        return f"L{int(table.layer[node])} {sign}{int(table.index[node])}"

    def _about(self) -> tuple[str, ...]:
        return (f"mean of {self.prompts:,} prompts",)

    @property
    def scores(self) -> Scores:
        """Return `score` as scores of `Nodes`."""
        return Scores(Nodes.from_flat(self.space, self.score), self.seen)


def node_graph(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig = GradientConfig(steps=PATH),
    *,
    dictionary: Source | None = None,
    candidates: int | None = None,
    edges_per_node: int = EDGES_PER_NODE,
    metric: Metric = logit_difference,
    on_layer: Callable[[int, int], None] | None = None,
) -> NodeGraph:
    """Score the edges between nodes, and keep the strongest into each.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals. All that nodes do on them is kept in
            memory: 4 · B · T · (3 F + H D) bytes a layer.
        config: Where on the path gradients are taken, and batching.
        dictionary: Neurons by default, or a transcoder.
        candidates: Of how many features edges are scored, those with the largest |score|; None
            for all, which takes N² · D products. Heads are always among them.
        edges_per_node: How many edges into a node are kept.
        metric: (logits (B, T, V), prompts) → (B,); a module-level function (others recompile).
        on_layer: Called as on_layer(layers done, layers) after each layer's readers.

    Returns:
        The graph, on the host.

    Raises:
        ConfigError: If `edges_per_node` or `candidates` is not positive.
        InputError: If prompts do not fit, or the dictionary's nodes do not read along directions.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> graph = node_graph(case.model, case.prompts)
        >>> levels = hagd.hierarchy.coarsen(hagd.hierarchy.as_weights(graph).weights)
    """
    check_scored(model, prompts, config)
    require_number("edges_per_node", edges_per_node, least=1, whole=True)
    if candidates is not None:
        require_number("candidates", candidates, least=1, whole=True)
    named = directed(model, dictionary)
    seen = look(prompts, ablation="counterfactual", model=model, dictionary=named)
    nodes = named.bare()
    along, found = directions(model, nodes), _flows(model, nodes, prompts, config, metric)
    space, parallel = nodes.space, model.config.parallel_residual
    if candidates is not None and candidates < space.layers * space.features:
        blocks = _among(along, found, space, edges_per_node, parallel, candidates)
    else:
        blocks = _by_layer(along, found, space, edges_per_node, parallel)
    kept = []
    for layers, edges in blocks:
        kept.append(edges)
        if on_layer is not None:
            on_layer(layers, space.layers)
    made = _graph(space, kept, np.asarray(found.score), len(prompts))
    return made.replace(seen=seen, per_expert=named.per_expert)


def _among(
    along: Directions, found: Flow, space: Space, most: int, parallel: bool, candidates: int
) -> Iterator[tuple[int, _Ends]]:
    """The strongest edges into heads and candidate features, all layers at once."""
    heads = space.layers * space.heads
    chosen = np.argsort(-np.abs(np.asarray(found.score)[heads:]), kind="stable")[:candidates]
    rows = _chosen(along, found, jnp.asarray(chosen, jnp.int32), parallel=parallel)
    row, column, weight = _strongest(np.asarray(rows), most)
    place = np.concatenate([np.arange(heads), heads + chosen])
    yield space.layers, (place[column], place[row], weight)


def _by_layer(
    along: Directions, found: Flow, space: Space, most: int, parallel: bool
) -> Iterator[tuple[int, _Ends]]:
    """The strongest edges into the nodes of each layer, with the number of layers done."""
    own = _own(space)
    for layer in range(space.layers):
        rows = [
            np.asarray(block(along, found, np.int32(layer), np.int32(below), parallel))
            for below in range(layer + 1)
        ]
        row, column, weight = _strongest(np.concatenate(rows, 1), most)
        yield layer + 1, (own[: layer + 1].ravel()[column], own[layer][row], weight)


_chosen = jax.jit(chosen_edges, static_argnames="parallel")


def _flows(
    model: LanguageModel, nodes: Directed, prompts: Prompts, config: GradientConfig,
    metric: Metric,
) -> Flow:  # fmt: skip
    """The flow of all prompts, one behind the other."""
    steps = jnp.asarray(config.steps, jnp.float32)
    parts = [
        flow(model.bare(), nodes, batch, weight, steps, metric=metric, remat=config.remat)
        for batch, weight in padded_batches(model, prompts, config.batch_size)
    ]

    def joined(name: str, axis: int) -> jax.Array:
        # Copies that filled up the last batch pull at nothing.
        return jnp.concatenate([getattr(part, name) for part in parts], axis)

    return Flow(
        joined("move", 2), joined("pull", 3), joined("head_move", 2), joined("head_read", 2),
        functools.reduce(jnp.add, [part.score for part in parts]),
    )  # fmt: skip


def _own(space: Space) -> np.ndarray:
    """(L, H + F) number of every node, heads of a layer before its features."""
    heads = np.arange(space.layers * space.heads).reshape(space.layers, -1)
    features = np.arange(space.layers * space.features).reshape(space.layers, -1)
    return np.concatenate([heads, heads.size + features], 1)


def _strongest(rows: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and value of the largest entries of each row."""
    size = np.abs(rows)
    if most < rows.shape[1]:
        column = np.argpartition(-size, most - 1, axis=1)[:, :most]
    else:
        column = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    row = np.repeat(np.arange(len(rows)), column.shape[1])
    value = rows[row, column.ravel()]
    there = value != 0
    return row[there], column.ravel()[there], value[there]


def _graph(space: Space, edges: list[_Ends], total: np.ndarray, prompts: int) -> NodeGraph:
    """The graph of means over prompts, from sums over them."""
    s, r, w = (np.concatenate(part) for part in zip(*edges, strict=True))
    score, w = total / prompts, w / prompts
    order = strongest_into(r, np.abs(w), None)
    parts = graph_parts(NodePlaces.of(space), w[order].astype(np.float32), s[order], r[order])
    return NodeGraph(parts, score.astype(np.float32), space, prompts)
