"""The nodes of circuits, and what circuits are made from."""

from __future__ import annotations

import dataclasses
import functools
import operator
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError, require_index, require_is, require_list
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Nodes, Scores, Selection, Space, unit_name
from hagd_jax.units.dictionary import spans_of
from hagd_jax.units.split import whole_space
from hagd_jax.units.unit import leaf_kind


@dataclasses.dataclass(frozen=True, order=True)
class Node:
    """A node is an attention head, an MLP neuron, or a feature of a transcoder.

    Attributes:
        kind: `head`, `neuron`, `mlp` or `feature`.
        layer: From 0.
        index: Within its layer, from 0.
        span: Name of the span of the prompt at which it is a node, in circuits whose nodes are
            split by span; empty in all others.
    """

    kind: str
    layer: int
    index: int
    span: str = dataclasses.field(default="", kw_only=True)

    def __repr__(self) -> str:
        span = f", span={self.span!r}" if self.span else ""
        return f"Node(kind={self.kind!r}, layer={self.layer!r}, index={self.index!r}{span})"


def read_nodes(values: Any) -> tuple[Node, ...]:
    """Read nodes with integers of Python, which files can hold.

    Args:
        values: Nodes, none of them twice.

    Raises:
        InputError: If one is something else, or is repeated.

    Example:
        >>> read_nodes([Node("head", np.int32(0), 1)])
        (Node(kind='head', layer=0, index=1),)
    """
    nodes = require_list("nodes", values, "a tuple of `Node`")
    for node in nodes:
        require_is("nodes", node, Node)
        require_is("kind of a node", node.kind, str)
        require_is("layer of a node", node.layer, int, np.integer)
        require_is("index of a node", node.index, int, np.integer)
        require_is("span of a node", node.span, str)
    plain = tuple(
        node if type(node.layer) is type(node.index) is int
        else Node(node.kind, int(node.layer), int(node.index), span=node.span)
        for node in nodes
    )  # fmt: skip
    if len(set(plain)) != len(plain):
        raise InputError("circuit", got="a node twice", expected="distinct nodes")
    return plain


def require_inside(
    nodes: Iterable[Node], space: Space, kind: str, names: Sequence[str] = ()
) -> None:
    """Refuse nodes that a space does not have.

    Args:
        nodes: The nodes.
        space: Numbers of layers, heads and features.
        kind: Kind of the nodes that are not heads.
        names: Names of the spans by which nodes are split.

    Raises:
        InputError: Naming the first that is outside.
    """
    layers, heads, features = whole_space(space, len(names))
    widths = {"head": heads, kind: features}
    for node in nodes:
        if not (0 <= node.layer < layers and 0 <= node.index < widths.get(node.kind, 0)):
            raise InputError(
                "node of the circuit",
                got=f"{quoted(node.kind)} {node.index} of layer {node.layer}",
                expected=f"one of {layers} layers of {heads} heads and {features} {kind}s",
            )
        if node.span not in (names or ("",)):
            raise InputError("span of a node", got=quoted(node.span),
                             expected=f"one of {names}" if names else "none")  # fmt: skip


def members_of(
    mask: Nodes, scores: Nodes, dictionary: str
) -> tuple[tuple[Node, ...], tuple[float, ...]]:
    """List the members of a mask and their scores, heads first.

    Args:
        mask: `Nodes` of bool, (L, H) and (L, F).
        scores: `Nodes` of float, same shapes.
        dictionary: Label of the dictionary.
    """
    nodes, values, names = [], [], spans_of(dictionary)
    parts = (("head", mask.heads, scores.heads),
             (kind_of(dictionary), mask.features, scores.features))  # fmt: skip
    for kind, members, score in parts:
        score = np.asarray(score)
        for layer, index in np.argwhere(np.asarray(members)).tolist():
            nodes.append(node_at(kind, layer, index, score.shape[1], names))
            values.append(float(score[layer, index]))
    return tuple(nodes), tuple(values)


def node_at(kind: str, layer: int, index: int, width: int, names: Sequence[str]) -> Node:
    """Return the node of a column of a mask.

    Args:
        kind: Its kind.
        layer: Its layer.
        index: Its column.
        width: Number of columns.
        names: Names of the spans by which nodes are split; none if they are whole.

    Example:
        >>> node_at("head", 3, 7, 10, ("s2", "end"))
        Node(kind='head', layer=3, index=2, span='end')
    """
    if not names:
        return Node(kind, layer, index)
    span, own = divmod(index, max(width // len(names), 1))
    return Node(kind, layer, own, span=names[span])


def column_of(node: Node, width: int, names: Sequence[str]) -> int:
    """Return the column of a mask that a node has, see `node_at`."""
    if not names:
        return node.index
    return list(names).index(node.span) * (width // len(names)) + node.index


def places_of(
    nodes: Iterable[Node], space: Space, kind: str, names: Sequence[str] = ()
) -> np.ndarray:
    """Return the (n,) places of nodes in `Nodes.flat`; names are those of spans, if there are any.

    Example:
        >>> places_of([Node("head", 1, 0), Node("neuron", 0, 4)], Space(2, 3, 5), "neuron").tolist()
        [3, 10]
    """
    layers, heads, features = space
    start = {"head": (0, heads), kind: (layers * heads, features)}
    found = [first + node.layer * width + column_of(node, width, names)
             for node in nodes for first, width in [start[node.kind]]]  # fmt: skip
    return np.array(found, int)


def names_of(nodes: Iterable[Node], per_expert: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of nodes, see `Circuit.names`."""

    def name(node: Node) -> str:
        if node.kind == "neuron" and per_expert:
            return f"neuron {unit_name(node.kind, node.layer, node.index, per_expert)}"
        return f"{node.kind} {node.layer}.{node.index}"

    return tuple(f"{name(node)} at {node.span}" if node.span else name(node) for node in nodes)


def space_of(value: Any) -> Space:
    """Read a space, which files keep as a list.

    Args:
        value: Three sizes.

    Raises:
        InputError: If it is something else.

    Example:
        >>> space_of([2, 3, 5])
        Space(layers=2, heads=3, features=5)
    """
    sizes = [require_index("space", size) for size in require_list("space", value, "three sizes")]
    if len(sizes) != 3:
        raise InputError("space", got=sizes, expected="layers, heads and units of a layer")
    return Space(*sizes)


def per_expert_of(value: Any, space: Space) -> tuple[int, ...]:
    """Read the numbers of neurons of an expert in each layer, which files keep as a list."""
    each = tuple(require_list("per_expert", value, "a number for each layer, or none"))
    if each and len(each) != space.layers:
        raise InputError("per_expert", got=f"{len(each)} numbers", expected=f"{space.layers}")
    return tuple(require_index("per_expert", size, space.features + 1) for size in each)


def plain_scores(what: str, values: Any) -> tuple[int | float, ...]:
    """Read scores as numbers of Python, which files can hold.

    Args:
        what: Name of the argument.
        values: Finite numbers of Python or NumPy.

    Raises:
        InputError: If one is something else.

    Example:
        >>> plain_scores("scores", [np.float32(0.5), 2])
        (0.5, 2)
    """
    found: list[int | float] = []
    for value in values:
        require_is(what, value, int, float, np.integer, np.floating)
        found.append(int(value) if isinstance(value, int | np.integer) else float(value))
        if not -_MOST_SCORE <= found[-1] <= _MOST_SCORE:
            raise InputError(what, got="one that is not finite", expected="numbers")
    return tuple(found)


# The largest float64.
_MOST_SCORE = sys.float_info.max


def kind_of(dictionary: str) -> str:
    """Return the kind of a dictionary's nodes, as circuits record it.

    Args:
        dictionary: Its label.

    Example:
        >>> kind_of("neurons"), kind_of("runs/transcoder#1a2b3c4d")
        ('neuron', 'feature')
    """
    require_is("dictionary", dictionary, str)
    return leaf_kind(dictionary)


def unpacked(mask: Any, scores: Any, provenance: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Separate a mask and scores from the records of what they have seen.

    Args:
        mask: Units, or a `Selection` of them.
        scores: Values, or `Scores`.
        provenance: Fields of a circuit; what its `seen` names is kept.

    Returns:
        The mask, the scores, and the fields, whose `seen` is the union of all three; the history of
        a plain mask is what `provenance` says of it, or else unknown.
    """
    seen = [part.seen for part in (mask, scores) if isinstance(part, Selection | Scores)]
    whole = isinstance(mask, Selection)
    told = provenance.get("seen", Seen.nothing() if whole else Seen.unknown())
    provenance = provenance | {"seen": functools.reduce(operator.or_, seen, told)}
    mask = mask.mask if whole else mask
    return mask, scores.values if isinstance(scores, Scores) else scores, provenance
