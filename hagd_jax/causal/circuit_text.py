"""A circuit as a table in plain text: a line a unit, for `print(circuit)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hagd_jax.brief import one_line, quoted
from hagd_jax.units import Unit
from hagd_jax.units.unit import ATTENTION, BAND, CLUSTER, HEAD, INNER, MLP

if TYPE_CHECKING:
    from hagd_jax.causal.circuit import Circuit

# Lines of the table: it fits a terminal of 60 lines with its title, head and last sentence.
MOST = 54
# Columns of a terminal; a wider table stands closer.
_COLUMNS = 100
# Heads of one unit that are named one by one.
_FEW = 4
# Characters of a role: as many as the longest that a rule gives.
_WIDEST = 20


class Column(NamedTuple):
    """A column of the table has a name, and a text for each unit.

    Attributes:
        name: Its heading.
        cells: Circuit → texts, in the order of `Circuit.units`.
        right: Whether it is aligned at the right, as numbers are.
        meaning: What it says, as a sentence without its subject and full stop, for a legend;
            empty where the name says it all.
    """

    name: str
    cells: Callable[[Circuit], Sequence[str]]
    right: bool = True
    meaning: str = ""

    __repr__ = one_line


def kind_words(unit: Unit, leaf: str) -> str:
    """Describe what a unit is.

    Args:
        unit: The unit.
        leaf: Kind of the nodes inside MLPs, such as `neuron`.

    Example:
        >>> kind_words(Unit("cluster", (5, 5), 2, "mlp", ((40, 43),)), "neuron")
        'cluster of neurons'
    """
    if unit.leaf or unit.kind not in INNER:
        return "MLP" if unit.kind == MLP else unit.kind
    inside = HEAD if unit.block == ATTENTION else leaf
    return {BAND: "band of layers", ATTENTION: "attention block", MLP: "MLP",
            CLUSTER: f"cluster of {inside}s"}[unit.kind]  # fmt: skip


def shown_names(circuit: Circuit) -> list[str]:
    """Name each unit for a reader: as `Circuit.names`, but heads that are one unit by themselves.

    Args:
        circuit: The circuit.

    Example:
        >>> level = [0, 1, 0, 2, 2, 2, 2, 2, 3, 3]
        >>> tree = hagd.units.tree(hagd.testbeds.hand_built()[0].model, clusters=[level])
        >>> circuit = hagd.causal.Circuit.of_units(tree, ["cluster 0.0", "cluster 0.2"], [2.0, 1.5],
        ...                                        model="either", task="or")
        >>> shown_names(circuit)
        ['heads 0.0,2', 'cluster 0.2']
    """
    heads, found = circuit.space.heads, []
    for unit, name in zip(circuit.units, circuit.parts().names, strict=True):
        some = unit.kind == CLUSTER and unit.block == ATTENTION and not (unit.leaf or unit.span)
        if some and len(unit) <= _FEW:
            places = ",".join(str(place % heads) for place in unit.places().tolist())
            name = f"heads {unit.layers[0]}.{places}"
        found.append(name)
    return found


def layer_words(unit: Unit) -> str:
    """Name the layer of a unit, or its first and last one, as `0 to 3`."""
    first, last = unit.layers
    return str(first) if first == last else f"{first} to {last}"


def cut(role: str) -> str:
    """Shorten a role to the width of its column.

    Example:
        >>> cut("writer of the answer"), cut("w" * 40)
        ('writer of the answer', 'wwwwwwwwwwwwwwwwwww…')
    """
    return role if len(role) <= _WIDEST else f"{role[: _WIDEST - 1]}…"


def share(value: float) -> str:
    """Write a share in percent; large ones, of metrics that hardly change, with an exponent.

    Example:
        >>> share(0.4567), share(-0.0001), share(-1e308)
        ('45.7%', '0.0%', '-1e+310%')
    """
    percent = 100 * value
    # A hundred times the largest float is none.
    text = f"{percent:.1f}%" if abs(percent) < 9999.95 else f"{100 * Decimal(value):.0e}%"
    return "0.0%" if text == "-0.0%" else text


def radius_words(radius: int | None) -> str:
    """Write a certified radius; `-` where nothing is certified."""
    return "-" if radius is None else f"{radius:,}"


COLUMNS: tuple[Column, ...] = (
    Column("layer", lambda circuit: [layer_words(unit) for unit in circuit.units]),
    Column("unit", shown_names, right=False),
    Column("kind", lambda circuit: [kind_words(u, circuit.kind) for u in circuit.units], False),
    Column("nodes", lambda circuit: [f"{len(unit):,}" for unit in circuit.units]),
    Column("score", lambda circuit: [f"{score:.3g}" for score in circuit.parts().scores.tolist()]),
)
# What is known of units, where they were described.
DESCRIBED: tuple[Column, ...] = (
    Column(
        "role", lambda circuit: [cut(row.role) for row in circuit.about or ()], right=False,
        meaning="is the label that a tested rule gives to what the unit does, or unnamed where no "
        "rule fits; how often rules err was measured on small models whose units have known roles",
    ),
    Column(
        "necessity", lambda circuit: [share(row.necessity) for row in circuit.about or ()],
        meaning="is the share of the metric's change from clean prompts to counterfactuals that "
        "is lost when this unit alone takes its counterfactual values; shares need not add up to "
        "100%, and a negative one means that the unit works against the behaviour",
    ),
    Column(
        "radius", lambda circuit: [radius_words(row.radius) for row in circuit.about or ()],
        meaning="is the certified radius: so many of the prompts that were scored may change, "
        "whichever they are, before the unit leaves the core of what is discovered from random "
        "parts of them; - means that nothing is certified",
    ),
)  # fmt: skip


def columns_of(circuit: Circuit) -> tuple[Column, ...]:
    """Return the columns of the table of a circuit: the last three where its units are described.

    Example:
        >>> circuit = hagd.causal.Circuit((), (), (1, 2, 3), model="m", task="t").described([])
        >>> [column.name for column in columns_of(circuit)]
        ['layer', 'unit', 'kind', 'nodes', 'score', 'role', 'necessity', 'radius']
    """
    return COLUMNS if circuit.about is None else (*COLUMNS, *DESCRIBED)


def circuit_text(
    circuit: Circuit, columns: Sequence[Column] | None = None, *, most: int = MOST
) -> str:
    """Write a circuit as a table, layer by layer.

    Args:
        circuit: The circuit.
        columns: What is said of each unit; `columns_of` the circuit if None.
        most: Largest number of units listed: those with the highest scores.

    Returns:
        The table; a sentence at its end counts the units that are left out.

    Example:
        >>> tree = hagd.units.tree(hagd.testbeds.hand_built()[0].model)
        >>> circuit = hagd.causal.Circuit.of_units(tree, ["attention 0", "neuron 0.5"], [2.0, 1.5],
        ...                                        model="either", task="or")
        >>> print(circuit_text(circuit))
        circuit of 'or' in 'either': 2 units with 5 of 10 nodes
        layer  unit         kind             nodes  score
            0  attention 0  attention block      4      2
            0  neuron 0.5   neuron               1    1.5
    """
    units, scores = circuit.units, circuit.parts().scores
    columns = columns_of(circuit) if columns is None else columns
    best = np.argsort(-scores, kind="stable")[:most].tolist()
    rows = sorted(best, key=lambda i: (units[i].layers, -scores[i], i))
    lines = [f"circuit of {quoted(circuit.task)} in {quoted(circuit.model)}: {_size(circuit)}"]
    if rows:
        told = [[column.name, *(cells[i] for i in rows)]
                for column in columns for cells in [column.cells(circuit)]]  # fmt: skip
        width = [max(map(len, cells)) for cells in told]
        gap = "  " if sum(width) + 2 * len(width) - 2 <= _COLUMNS else " "
        for cells in zip(*told, strict=True):
            each = zip(cells, width, columns, strict=True)
            made = [text.rjust(n) if column.right else text.ljust(n) for text, n, column in each]
            lines.append(gap.join(made).rstrip())
    return "\n".join([*lines, left_out(units, best)] if len(rows) < len(units) else lines)


def left_out(units: Sequence[Unit], best: Sequence[int]) -> str:
    """Count the units that a table leaves out.

    Args:
        units: All units, at least one more than the table has.
        best: Places of those in the table.

    Example:
        >>> several = [Unit("head", (i, i), 0, "attention", ((i, i + 1),)) for i in range(3)]
        >>> left_out(several, [1])
        '2 more nodes of layers 0 to 2 are not shown'
    """
    rest = [units[i] for i in sorted(set(range(len(units))) - set(best))]
    ends = min(unit.layers[0] for unit in rest), max(unit.layers[1] for unit in rest)
    nodes = sum(map(len, rest))
    held = "" if nodes == len(rest) else f" with {nodes:,} nodes"
    what = "node" if len(units) == sum(map(len, units)) else "unit"
    where = f"layer {ends[0]}" if ends[0] == ends[1] else f"layers {ends[0]} to {ends[1]}"
    verb = "is" if len(rest) == 1 else "are"
    many = "" if len(rest) == 1 else "s"
    return f"{len(rest):,} more {what}{many}{held} of {where} {verb} not shown"


def _size(circuit: Circuit) -> str:
    finest = f"{circuit.leaves:,} of {circuit.space.nodes:,} nodes"
    size = len(circuit)
    return finest if size == circuit.leaves else f"{size:,} unit{'s' * (size != 1)} with {finest}"
