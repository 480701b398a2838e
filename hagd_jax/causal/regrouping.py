"""Circuits of units are made, opened and closed: which nodes, scores and grouping they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hagd_jax.brief import quoted
from hagd_jax.causal.grouping import Grouping
from hagd_jax.causal.node import Node
from hagd_jax.errors import InputError, require_is, require_list
from hagd_jax.tasks.seen import Seen
from hagd_jax.tasks.spans import span_names
from hagd_jax.units import Space, Unit, UnitTree
from hagd_jax.units.dictionary import spanned_label, spans_of
from hagd_jax.units.split import split_leaf, split_unit
from hagd_jax.units.tree import BANDWIDTH, tree_of
from hagd_jax.units.unit import leaf_kind

if TYPE_CHECKING:
    from hagd_jax.causal.circuit import Circuit


def nodes_of(
    tree: UnitTree, units: Iterable[str | Unit], scores: Iterable[float] | None
) -> tuple[tuple[Node, ...], tuple[float, ...], Grouping]:
    """List the nodes of some units, and how they group.

    Args:
        tree: The tree.
        units: An antichain of it.
        scores: A number for each; 1 if None.

    Returns:
        The nodes in the order of `Nodes.flat`, the score of each, which is its unit's, and the
        grouping.

    Raises:
        InputError: If there is no such unit, two overlap, or a score is missing.
    """
    require_is("tree", tree, UnitTree, mend="Make one with `hagd.units.tree(model)`.")
    chain = tree.antichain(units)
    scores = [1.0] * len(chain) if scores is None else scores
    values = require_list("scores", scores, "a number for each unit")
    if len(values) != len(chain):
        raise InputError("scores", got=f"{len(values)}", expected=f"{len(chain)}, one a unit")
    own = _Frame(tree.space, tree.dictionary, tree.band, tree.digest, tree)
    return _grouped(list(zip(chain, values, strict=True)), own)


class _Frame(NamedTuple):
    """Where units are: the sizes and label of a dictionary, and the tree, which may be missing."""

    space: Space
    dictionary: str
    band: int
    digest: str
    tree: UnitTree | None


def _grouped(
    pairs: Sequence[tuple[Unit, float]], frame: _Frame
) -> tuple[tuple[Node, ...], tuple[float, ...], Grouping]:
    """Nodes, their scores, and the grouping of units with scores."""
    larger = [(unit, score) for unit, score in pairs if not unit.leaf]
    own = Grouping(
        tuple(unit for unit, _ in larger), tuple(score for _, score in larger), frame.band,
        frame.digest, frame.tree,
    )  # fmt: skip
    rows = [(place, score) for unit, score in pairs for place in unit.places().tolist()]
    rows.sort(key=lambda row: row[0])
    kind, names = leaf_kind(frame.dictionary), spans_of(frame.dictionary)
    leaves = [split_leaf(frame.space, kind, place, names) for place, _ in rows]
    nodes = tuple(Node(unit.kind, unit.layers[0], unit.index, span=unit.span) for unit in leaves)
    return nodes, tuple(score for _, score in rows), own


def split(
    circuit: Circuit, names: Iterable[str], at: Mapping[str, Iterable[str]]
) -> dict[str, Any]:
    """Return the fields of a circuit whose nodes are split by span, see `Circuit.by_span`.

    Args:
        circuit: The circuit, of whole nodes.
        names: Names of the spans.
        at: Name of a unit → the spans at which it stays; others stay whole.

    Raises:
        InputError: If nodes are split already, or there is no such unit or span.
    """
    names, space, own = span_names(names), circuit.space, circuit.grouping
    if circuit.spans:
        raise InputError("circuit to split", got="one that is split by span already",
                         expected="one of whole units")  # fmt: skip
    units = circuit.units
    strange = set(at) - {unit.name for unit in units}
    if strange:
        raise InputError("unit to split", got=quoted(sorted(strange)[0]),
                         expected="one of the circuit's")  # fmt: skip
    scores = circuit.parts().scores.tolist()
    pairs = [
        (split_unit(unit, space, names, span), score)
        for unit, score in zip(units, scores, strict=True)
        for span in dict.fromkeys(at.get(unit.name, ("",)))
    ]
    tree = own.tree if own else tree_of(space, circuit.dictionary, (), BANDWIDTH, Seen.nothing())
    band, digest = (own.band, own.digest) if own else (tree.band, tree.digest)  # type: ignore[union-attr]
    layers, heads, features = space
    frame = _Frame(
        Space(layers, len(names) * heads, len(names) * features),
        spanned_label(circuit.dictionary, names), band, digest, tree and tree.by_span(names),
    )  # fmt: skip
    nodes, values, grouping = _grouped(pairs, frame)
    return {"nodes": nodes, "scores": values, "grouping": grouping, "space": frame.space,
            "dictionary": frame.dictionary}  # fmt: skip


def opened(circuit: Circuit, name: str | Unit, only: Iterable[str | Unit] | None) -> dict[str, Any]:
    """Return the fields of a circuit whose unit is replaced by its children, see `Circuit.opened`.

    Args:
        circuit: The circuit.
        name: One of its units.
        only: The children to keep; all if None.

    Raises:
        InputError: If there is no such unit, or what should be kept is none of its children.
    """
    tree = _tree(circuit)
    unit = tree.unit(name)
    below = tree.children(unit)
    kept = below if only is None else tree.antichain(only)
    if not set(kept) <= set(below):
        raise InputError("only", got=quoted([each.name for each in kept]),
                         expected=f"children of {unit.name!r}")  # fmt: skip
    out = set(below) - set(kept)
    chain = [each for each in tree.opened(circuit.units, unit) if each not in out]
    return _fields(circuit, tree, chain, dict.fromkeys(below, unit))


def closed(circuit: Circuit, name: str | Unit) -> dict[str, Any]:
    """Return the fields of a circuit whose units are replaced by a larger one that they fill.

    Args:
        circuit: The circuit.
        name: The larger unit; it gets the highest of their scores.

    Raises:
        InputError: If they do not fill it.
    """
    tree = _tree(circuit)
    return _fields(circuit, tree, tree.closed(circuit.units, name), {})


def _tree(circuit: Circuit) -> UnitTree:
    if circuit.grouping is None or circuit.grouping.tree is None:
        raise InputError("circuit", got="one whose tree is not at hand",
                         expected="one from Circuit.of_units, or circuit.on(tree)")  # fmt: skip
    return circuit.grouping.tree


def _fields(
    circuit: Circuit, tree: UnitTree, units: Iterable[Unit], above: dict[Unit, Unit]
) -> dict[str, Any]:
    """Nodes, scores and grouping of other units, whose scores come from those they overlap."""
    chosen, (first, scores, *_) = tuple(units), circuit.parts()
    before = dict(zip(circuit.units, scores.tolist(), strict=True))
    value = dict(zip(first.tolist(), scores.tolist(), strict=True))

    def score(unit: Unit) -> float:
        if (whole := above.get(unit, unit)) in before:
            return before[whole]
        return max(value[place] for place in unit.places().tolist() if place in value)

    nodes, own, grouping = nodes_of(tree, chosen, map(score, chosen))
    return {"nodes": nodes, "scores": own, "grouping": grouping}
