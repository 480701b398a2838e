"""One graph for a whole task: edges of many prompts' graphs, averaged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import (
    InputError,
    require_choice,
    require_index,
    require_is,
    require_number,
    shown,
)
from hagd_jax.graphs.graph import EMBEDDING, ERROR, KINDS, LOGIT, AttributionGraph
from hagd_jax.graphs.influence import influence
from hagd_jax.tasks.seen import Seen
from hagd_jax.units.graph import Graph, graph_parts, strongest_into
from hagd_jax.units.naming import unit_name

_BITS = 31


class TaskNodes(NamedTuple):
    """A table lists N nodes, each of them in at least one prompt's graph.

    Attributes:
        kind: (N,) int8, as in prompts' graphs.
        layer: (N,) int32.
        position: (N,) int32; −1 where positions were summed over.
        index: (N,) int32 feature, or which target; −1 for errors. Of embeddings the token id, or
            −1 where positions are kept: there each prompt has its own token.
        frequency: (N,) float32 share of prompts whose graph has the node.
        activation: (N,) float32 mean over prompts, 0 where inactive; positions are summed.
        influence: (N,) float32 mean over prompts.
    """

    kind: Any
    layer: Any
    position: Any
    index: Any
    frequency: Any
    activation: Any
    influence: Any

    __repr__ = one_line


class TaskEdges(NamedTuple):
    """Edges are averaged over prompts; a prompt without an edge counts as zero.

    Attributes:
        mean: (E,) float32 mean of A, signs and all.
        size: (E,) float32 mean of |A|.
        error: (E,) float32 standard error of the mean.
        frequency: (E,) float32 share of prompts that have the edge.
    """

    mean: Any
    size: Any
    error: Any
    frequency: Any

    __repr__ = one_line


class TaskGraph(Graph):
    """A task graph is the mean of attribution graphs.

    Attributes:
        graph: Nodes are `TaskNodes`, edges `TaskEdges`.
        prompts: How many were averaged.
        layers: L.
        seen: What the graphs were made by looking at; unknown if one of them does not say.
        per_expert: Neurons of an expert in each layer, see `Dictionary.per_expert`.
    """

    prompts: int = struct.field(pytree_node=False)
    layers: int = struct.field(pytree_node=False)
    seen: Seen = struct.field(pytree_node=False, default=Seen.unknown())
    per_expert: tuple[int, ...] = struct.field(pytree_node=False, default=())

    @property
    def nodes(self) -> TaskNodes:
        """Return the table of nodes."""
        return self.graph.nodes  # type: ignore[return-value]

    @property
    def edges(self) -> TaskEdges:
        """Return the table of edges."""
        return self.graph.edges  # type: ignore[return-value]

    @property
    def weights(self) -> np.ndarray:
        """Return the (E,) mean of A over prompts."""
        return np.asarray(self.edges.mean)

    @property
    def strength(self) -> np.ndarray:
        """Return the (E,) mean of |A| over prompts."""
        return np.asarray(self.edges.size)

    def to_dense(self, column: str = "mean") -> np.ndarray:
        """Build the matrix of one column of edges.

        Args:
            column: A field of `TaskEdges`.

        Returns:
            (N, N) float32, [target, source].

        Raises:
            ConfigError: If there is no such field.
        """
        require_choice("column", column, TaskEdges._fields)
        return self._dense(getattr(self.edges, column))

    def label(self, node: int) -> str:
        """Describe a node, such as `L3 #127 @4` or `target 0`; see `Graph.label`."""
        node, table = require_index("node", node, self.count), self.nodes
        kind, index, place = (int(x[node]) for x in (table.kind, table.index, table.position))
        where = "" if place < 0 else f" @{place}"
        if kind == LOGIT:
            return f"target {index}"
        if kind == EMBEDDING:
            return f"embedding{'' if index < 0 else f' #{index}'}{where}"
        layer = int(table.layer[node])
        if kind != ERROR and self.per_expert:
            return f"{unit_name('neuron', layer, index, self.per_expert)}{where}"
        what = KINDS[ERROR] if kind == ERROR else f"#{index}"
        return f"L{layer} {what}{where}"

    def _about(self) -> tuple[str, ...]:
        return (f"mean of {self.prompts:,} prompts",)


def task_graph(
    graphs: Iterable[AttributionGraph],
    *,
    positions: bool = False,
    edges_per_node: int | None = None,
) -> TaskGraph:
    """Average the graphs of a task's prompts.

    Within a prompt, edges between the same two nodes at different positions add up: a node
    without positions is a feature wherever it fires. Targets are matched by their order, so
    that of prompts with different answers, the first target of each is one node. Every prompt
    counts alike.

    Args:
        graphs: Of prompts, made with one dictionary; read one at a time.
        positions: Keep positions apart, for prompts of one template and length.
        edges_per_node: Keep the strongest edges into a node, by mean |A|; None keeps all.

    Returns:
        The mean.

    Raises:
        InputError: If there is no graph, or they are of different dictionaries, targets, or, with
            `positions`, lengths.
        ConfigError: If `edges_per_node` is not a positive whole number.

    Example:
        >>> import jax
        >>> from hagd_jax.graphs import attribute
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> prompts = [[1, 2, 3], [4, 5, 6]]
        >>> task_graph(attribute(model, None, prompt, targets=5) for prompt in prompts)
        TaskGraph(38 nodes, ... edges, mean of 2 prompts)
    """
    if edges_per_node is not None:
        require_number("edges_per_node", edges_per_node, least=1, whole=True)
    require_is("positions", positions, bool)
    sums = _Sums(positions)
    if not hasattr(graphs, "__iter__") or getattr(graphs, "ndim", 1) == 0:
        raise InputError("graphs", got=shown(graphs), expected="graphs, in a list or one by one")
    for graph in graphs:
        sums.add(graph)
    if not sums.count:
        raise InputError("graphs", got="none", expected="one or more")
    return sums.finish(edges_per_node)


class _Table:
    """Sums of rows by key, merged as they come."""

    def __init__(self, width: int):
        self.keys, self.sums = np.zeros(0, np.int64), np.zeros((0, width))

    def add(self, keys: np.ndarray, values: np.ndarray) -> None:
        every = np.concatenate([self.keys, keys])
        self.keys, place = np.unique(every, return_inverse=True)
        rows = np.concatenate([self.sums, values])
        self.sums = np.stack(
            [np.bincount(place, column, len(self.keys)) for column in rows.T], axis=1
        )


class _Sums:
    """What the graphs so far add up to."""

    def __init__(self, positions: bool):
        self.positions, self.count = positions, 0
        self.about: tuple | None = None
        self.per_expert: tuple[int, ...] = ()
        self.seen = Seen.nothing()
        self.numbers: dict[tuple[int, int, int, int], int] = {}
        self.nodes, self.edges = _Table(3), _Table(4)

    def add(self, graph: AttributionGraph) -> None:
        """One more prompt."""
        require_is("graphs", graph, AttributionGraph)
        self._check(graph)
        table, own = graph.nodes, self._numbers(graph)
        self.seen = self.seen | graph.seen
        # Once a prompt, whatever positions a node has: sums of what it does, not of how often.
        ones = np.zeros(len(own))
        ones[np.unique(own, return_index=True)[1]] = 1
        values = np.stack([ones, np.asarray(table.activation), influence(graph)], 1)
        self.nodes.add(own, values)
        pairs = (own[graph.receivers] << _BITS) | own[graph.senders]
        keys, place = np.unique(pairs, return_inverse=True)
        weight = np.bincount(place, graph.weights, len(keys))
        self.edges.add(keys, np.stack([weight, abs(weight), weight**2, np.ones(len(keys))], 1))
        self.count += 1

    def finish(self, edges_per_node: int | None) -> TaskGraph:
        """Means, in the order of layers."""
        columns = np.array(list(self.numbers), np.int64).reshape(-1, 4)
        order = np.lexsort((columns[:, 3], columns[:, 2], columns[:, 1], columns[:, 0]))
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        kind, layer, position, index = columns[order].T.astype(np.int32)
        sums = np.zeros((len(order), 3))
        sums[place[self.nodes.keys]] = self.nodes.sums
        frequency, activation, reach = (sums / self.count).T.astype(np.float32)
        receivers, senders = (place[x] for x in np.divmod(self.edges.keys, 1 << _BITS))
        total, size, squares, often = self.edges.sums.T / self.count
        spread = np.maximum(squares - total**2, 0) / max(self.count - 1, 1)
        keep = strongest_into(receivers, size, edges_per_node)
        mean = TaskEdges(*(x[keep].astype(np.float32) for x in (total, size, spread**0.5, often)))
        table = TaskNodes(
            kind.astype(np.int8), layer, position, index, frequency, activation, reach
        )
        assert self.about is not None
        parts = graph_parts(table, mean, senders[keep], receivers[keep])
        return TaskGraph(parts, self.count, self.about[0], self.seen, self.per_expert)

    def _check(self, graph: AttributionGraph) -> None:
        info = graph.info
        about = info.layers, info.features, len(info.targets)
        names = ["layers", "features", "targets"]
        if self.positions:
            about, names = (*about, len(info.tokens)), [*names, "tokens"]
        if self.about is not None and about != self.about:
            words = [f"{value} {name}" for value, name in zip(about, names, strict=True)]
            first = [f"{value} {name}" for value, name in zip(self.about, names, strict=True)]
            raise InputError(
                f"graph {self.count}",
                got=", ".join(words),
                expected=", ".join(first) + ", as before",
            )
        self.about, self.per_expert = about, info.per_expert

    def _numbers(self, graph: AttributionGraph) -> np.ndarray:
        """(N,) the number of each node among those of the task, new ones at the end."""
        table = graph.nodes
        kind, index = np.asarray(table.kind, np.int64), np.asarray(table.index, np.int64).copy()
        position = np.asarray(table.position, np.int64)
        index[kind == LOGIT] = np.arange((kind == LOGIT).sum())
        if self.positions:
            index[kind == EMBEDDING] = -1
        else:
            position = np.full_like(position, -1)
        keys = np.stack([kind, np.asarray(table.layer, np.int64), position, index], 1)
        numbers = self.numbers
        found = [numbers.setdefault(tuple(key), len(numbers)) for key in keys.tolist()]
        return np.array(found, np.int64)
