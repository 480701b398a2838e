"""The nodes of circuits, and what circuits are made from."""

from __future__ import annotations

import dataclasses
import functools
import operator
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError, require_index, require_is, require_list
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Nodes, Scores, Selection, Space, unit_name
from hagd_jax.units.unit import leaf_kind


@dataclasses.dataclass(frozen=True, order=True)
class Node:
    """A node is an attention head, an MLP neuron, or a feature of a transcoder.

    Attributes:
        kind: `head`, `neuron`, `mlp` or `feature`.
        layer: From 0.
        index: Within its layer, from 0.
    """

    kind: str
    layer: int
    index: int


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
    plain = tuple(
        node if type(node.layer) is type(node.index) is int
        else Node(node.kind, int(node.layer), int(node.index))
        for node in nodes
    )  # fmt: skip
    if len(set(plain)) != len(plain):
        raise InputError("circuit", got="a node twice", expected="distinct nodes")
    return plain


def require_inside(nodes: Iterable[Node], space: Space, kind: str) -> None:
    """Refuse nodes that a space does not have.

    Args:
        nodes: The nodes.
        space: Numbers of layers, heads and features.
        kind: Kind of the nodes that are not heads.

    Raises:
        InputError: Naming the first that is outside.
    """
    layers, heads, features = space
    widths = {"head": heads, kind: features}
    for node in nodes:
        if not (0 <= node.layer < layers and 0 <= node.index < widths.get(node.kind, 0)):
            raise InputError(
                "node of the circuit",
                got=f"{quoted(node.kind)} {node.index} of layer {node.layer}",
                expected=f"one of {layers} layers of {heads} heads and {features} {kind}s",
            )


def members_of(
    mask: Nodes, scores: Nodes, dictionary: str
) -> tuple[tuple[Node, ...], tuple[float, ...]]:
    """List the members of a mask and their scores, heads first.

    Args:
        mask: `Nodes` of bool, (L, H) and (L, F).
        scores: `Nodes` of float, same shapes.
        dictionary: Label of the dictionary.
    """
    nodes, values = [], []
    parts = (("head", mask.heads, scores.heads),
             (kind_of(dictionary), mask.features, scores.features))  # fmt: skip
    for kind, members, score in parts:
        score = np.asarray(score)
        for layer, index in np.argwhere(np.asarray(members)).tolist():
            nodes.append(Node(kind, layer, index))
            values.append(float(score[layer, index]))
    return tuple(nodes), tuple(values)


def places_of(nodes: Iterable[Node], space: Space, kind: str) -> np.ndarray:
    """Return the (n,) places of nodes in `Nodes.flat`.

    Example:
        >>> places_of([Node("head", 1, 0), Node("neuron", 0, 4)], Space(2, 3, 5), "neuron").tolist()
        [3, 10]
    """
    layers, heads, features = space
    start = {"head": (0, heads), kind: (layers * heads, features)}
    found = [first + node.layer * width + node.index
             for node in nodes for first, width in [start[node.kind]]]  # fmt: skip
    return np.array(found, int)


def names_of(nodes: Iterable[Node], per_expert: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of nodes, see `Circuit.names`."""
    return tuple(
        f"{node.kind} {unit_name(node.kind, node.layer, node.index, per_expert)}"
        if node.kind == "neuron" and per_expert
        else f"{node.kind} {node.layer}.{node.index}"
        for node in nodes
    )


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
