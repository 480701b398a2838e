"""What every graph of units is: a table of nodes, weighted edges, and ways to look at them."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jraph
import numpy as np

from hagd_jax import struct
from hagd_jax.errors import InputError, MissingDependencyError, require_index, require_number
from hagd_jax.models.arrays import read_array


class NamedEdge(NamedTuple):
    """A named edge holds one edge with the labels of its ends.

    Attributes:
        number: Its place among the graph's edges.
        source: Label of the node that it leaves.
        target: Label of the node that it enters.
        weight: Its weight, signed.
    """

    number: int
    source: str
    target: str
    weight: float


class Graph(struct.PyTreeNode, repr=False, eq=False):
    """A graph holds nodes and weighted edges between them, on the host.

    Attributes:
        graph: N nodes and E edges. `nodes` is a table of the nodes, a `NamedTuple` of (N, ...)
            arrays with a `layer`; `edges` is the (E,) float32 weights, or a table of them.
    """

    graph: jraph.GraphsTuple

    # Whether two nodes may have several edges between them.
    parallel: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**({"repr": False, "eq": False} | kwargs))

    @property
    def nodes(self) -> Any:
        """Return the table of nodes."""
        return self.graph.nodes

    @property
    def edges(self) -> Any:
        """Return the weights, or the table of edges."""
        return self.graph.edges

    @property
    def senders(self) -> np.ndarray:
        """Return the (E,) node that each edge leaves."""
        return np.asarray(self.graph.senders)

    @property
    def receivers(self) -> np.ndarray:
        """Return the (E,) node that each edge enters."""
        return np.asarray(self.graph.receivers)

    @property
    def weights(self) -> np.ndarray:
        """Return A[receiver, sender] of each edge, (E,)."""
        return np.asarray(self.graph.edges)

    @property
    def strength(self) -> np.ndarray:
        """Return the (E,) magnitudes of the edges."""
        return np.abs(self.weights)

    @property
    def layer(self) -> np.ndarray:
        """Return the (N,) layer of each node."""
        return np.asarray(self.nodes.layer)

    @property
    def count(self) -> int:
        """Return the number of nodes."""
        return len(self.layer)

    def label(self, node: int) -> str:
        """Describe a node in a few characters.

        Args:
            node: Number of the node.

        Returns:
            The label.

        Raises:
            InputError: If there is no such node.
        """
        return f"node {require_index('node', node, self.count)}"

    def to_dense(self) -> np.ndarray:
        """Build the adjacency matrix; parallel edges add up.

        Returns:
            (N, N) float32, [target, source].
        """
        return self._dense(self.weights)

    def _dense(self, values: np.ndarray) -> np.ndarray:
        dense = np.zeros((self.count, self.count), np.float32)
        np.add.at(dense, (self.receivers, self.senders), values)
        return dense

    def top(self, count: int = 10, *, into: int | None = None) -> list[NamedEdge]:
        """Name the strongest edges, in falling order.

        Args:
            count: Number of edges, or fewer where there are fewer.
            into: Only edges into this node; into all nodes by default.

        Returns:
            The edges, in words.

        Raises:
            InputError: If there is no such node, or the count is not a whole number from 0.
        """
        count = require_index("count", count, 10**9)
        order = np.argsort(-self.strength, kind="stable")
        if into is not None:
            order = order[self.receivers[order] == require_index("into", into, self.count)]
        return [
            NamedEdge(
                int(edge),
                self.label(int(self.senders[edge])),
                self.label(int(self.receivers[edge])),
                float(self.weights[edge]),
            )
            for edge in order[:count]
        ]

    def to_networkx(self) -> Any:
        """Convert the graph to NetworkX, with columns as attributes of nodes and edges.

        Returns:
            A `networkx.DiGraph`, or a `MultiDiGraph` where nodes have several edges between them.
            Nodes are their numbers and have a `label`; edges have a `weight`.

        Raises:
            MissingDependencyError: If NetworkX is not installed.
        """
        try:
            import networkx
        except ImportError as error:
            raise MissingDependencyError(
                "to_networkx needs the package networkx", mend="pip install networkx"
            ) from error
        made = networkx.MultiDiGraph() if self.parallel else networkx.DiGraph()
        columns = _columns(self.nodes)
        for node in range(self.count):
            own = {name: column[node] for name, column in columns.items()}
            made.add_node(node, label=self.label(node), **own)
        columns = {"weight": self.weights.tolist()} | _columns(self.edges)
        ends = zip(self.senders.tolist(), self.receivers.tolist(), strict=True)
        for edge, (sender, receiver) in enumerate(ends):
            own = {name: column[edge] for name, column in columns.items()}
            made.add_edge(sender, receiver, **own)
        return made

    def _about(self) -> tuple[str, ...]:
        """What its one-line description says beside its size."""
        return ()

    def __repr__(self) -> str:
        parts = f"{self.count:,} nodes", f"{len(self.weights):,} edges", *self._about()
        return f"{type(self).__name__}({', '.join(parts)})"


def _columns(table: Any) -> dict[str, list]:
    """The columns of a table as Python values; none where it is an array."""
    fields = table._asdict() if hasattr(table, "_asdict") else {}
    return {name: np.asarray(column).tolist() for name, column in fields.items()}


def graph_parts(nodes: Any, edges: Any, senders: Any, receivers: Any) -> jraph.GraphsTuple:
    """Build a `jraph.GraphsTuple` of one graph from NumPy arrays.

    Args:
        nodes: Table of N nodes.
        edges: (E,) weights, or a table of them.
        senders: (E,) numbers of the nodes that edges leave.
        receivers: (E,) numbers of the nodes that they enter.

    Returns:
        The graph.

    Raises:
        InputError: If an edge has no node at one of its ends, or no receiver.

    Example:
        >>> from typing import NamedTuple
        >>> class Table(NamedTuple):
        ...     layer: list
        >>> graph = Graph(graph_parts(Table([0, 1]), np.array([-0.5]), [0], [1]))
        >>> graph
        Graph(2 nodes, 1 edges)
        >>> graph.top()
        [NamedEdge(number=0, source='node 0', target='node 1', weight=-0.5)]
    """
    senders, receivers = np.asarray(senders, np.int32), np.asarray(receivers, np.int32)
    count = len(nodes[0])
    if senders.shape != receivers.shape:
        raise InputError(
            "edges",
            got=f"{len(senders)} senders, {len(receivers)} receivers",
            expected="a pair each",
        )
    if len(senders):
        ends = np.stack([senders, receivers])
        if ends.min() < 0 or ends.max() >= count:
            raise InputError("edges", got=f"nodes {ends.min()} to {ends.max()}",
                             expected=f"nodes from 0 to {count - 1}")  # fmt: skip
    arrays: Any = {
        "nodes": nodes, "edges": edges, "senders": senders, "receivers": receivers,
        "n_node": np.array([count], np.int32), "n_edge": np.array([len(senders)], np.int32),
    }  # fmt: skip
    return jraph.GraphsTuple(**arrays, globals=None)


def strongest_into(receivers: np.ndarray, size: np.ndarray, most: int | None) -> np.ndarray:
    """Select the strongest edges into each node.

    Args:
        receivers: (E,) node that each edge enters.
        size: (E,) strength of each edge.
        most: Number of edges to keep into one node; None keeps all.

    Returns:
        Numbers of the edges that are kept, by receiver, the strongest first.

    Raises:
        InputError: If there is not one strength for each receiver.
        ConfigError: If `most` is not a positive whole number.

    Example:
        >>> strongest_into(np.array([1, 0, 1, 1]), np.array([3.0, 1.0, 5.0, 4.0]), 2).tolist()
        [1, 2, 3]
    """
    receivers = np.asarray(read_array("receivers", receivers))
    size = np.asarray(read_array("strengths of edges", size))
    if receivers.ndim != 1 or size.shape != receivers.shape:
        raise InputError(
            "strengths of edges",
            got=f"shape {size.shape} for receivers of shape {receivers.shape}",
            expected="one strength for each receiver",
        )
    if most is not None:
        require_number("most", most, least=1, whole=True)
    order = np.lexsort((-size, receivers))
    if most is None or not len(order):
        return order
    starts = np.flatnonzero(np.r_[True, np.diff(receivers[order]) != 0])
    before = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return order[before < most]
