"""A circuit as a drawing: a box for each unit, layer above layer, made without a script."""

from __future__ import annotations

import math
from typing import NamedTuple

from hagd_jax.brief import one_line
from hagd_jax.causal import Circuit
from hagd_jax.causal.circuit_text import columns_of, cut, kind_words, layer_words, shown_names
from hagd_jax.errors import InputError, require_is
from hagd_jax.report.html import environment
from hagd_jax.units import Unit
from hagd_jax.units.unit import ATTENTION, CLUSTER, MLP

# More units than these are a wall of boxes, which nobody reads.
MOST = 96
# In a row of boxes, and the sizes of one in units of the drawing.
ACROSS = 6
WIDTH, HEIGHT, GAP = 144, 42, 6
# Left of the boxes stands the layer.
MARGIN = 60


class Box(NamedTuple):
    """A box is a unit at its place in the drawing.

    Attributes:
        x: Of its left side.
        y: Of its upper side.
        name: What the unit is, in few words.
        role: What it does; empty where no rule says that.
        bar: Length of the bar of its necessity, from 0 to 1 of the longest.
        minus: Whether the behaviour gains when it is ablated.
        head: Whether it consists of attention heads.
        words: All that the table says of it, as a tooltip.
    """

    x: float
    y: float
    name: str
    role: str
    bar: float
    minus: bool
    head: bool
    words: str

    __repr__ = one_line


class Drawing(NamedTuple):
    """A drawing holds the boxes of a circuit, and how large it is.

    Attributes:
        width: Of all.
        height: Of all.
        box: Width and height of a box.
        boxes: One for each unit.
        layers: (y, words) of each layer that has units, from the top down.
    """

    width: float
    height: float
    box: tuple[int, int]
    boxes: tuple[Box, ...]
    layers: tuple[tuple[float, str], ...]

    __repr__ = one_line


def drawing(circuit: Circuit) -> Drawing | None:
    """Place the units of a circuit, the last layer at the top; heads stand left of others.

    Args:
        circuit: The circuit.

    Returns:
        The drawing; None if there are no units, or more than can be read.

    Example:
        >>> tree = hagd.units.tree(hagd.testbeds.hand_built()[0].model)
        >>> circuit = Circuit.of_units(tree, ["attention 0", "neuron 0.5"], [2.0, 1.5],
        ...                            model="either", task="or")
        >>> [(box.name, box.words) for box in drawing(circuit).boxes][1]
        ('neuron 0.5', 'neuron 0.5: neuron, 1 node, score 1.5')
    """
    units = circuit.units
    if not 0 < len(units) <= MOST:
        return None
    by_layer: dict[tuple[int, int], list[int]] = {}
    for place, unit in enumerate(units):
        by_layer.setdefault(unit.layers, []).append(place)
    lost = [row.necessity for row in circuit.about or ()]
    longest = max(map(abs, lost), default=0.0) or 1.0
    names, words = shown_names(circuit), _words(circuit)
    boxes, layers, y = [], [], 1.0
    for _, places in sorted(by_layer.items(), reverse=True):
        layers.append((y + HEIGHT / 2, layer_words(units[places[0]])))
        order = sorted(places, key=lambda i: (units[i].block != ATTENTION, i))
        for k, place in enumerate(order):
            row, at = divmod(k, ACROSS)
            unit, own = units[place], lost[place] if lost else 0.0
            role = circuit.about[place].role if circuit.about else ""
            boxes.append(Box(
                MARGIN + at * (WIDTH + GAP), y + row * (HEIGHT + GAP),
                _name(unit, names[place]),
                "" if role == "unnamed" else cut(role), abs(own) / longest, own < 0,
                unit.block == ATTENTION, words[place],
            ))  # fmt: skip
        y += math.ceil(len(places) / ACROSS) * (HEIGHT + GAP) + GAP
    across = min(ACROSS, max(map(len, by_layer.values())))
    return Drawing(MARGIN + across * (WIDTH + GAP), y, (WIDTH, HEIGHT), tuple(boxes), tuple(layers))


def svg(circuit: Circuit) -> str:
    """Draw a circuit as an SVG picture that stands by itself.

    Args:
        circuit: The circuit.

    Returns:
        The text of an SVG file; the bar of a box is the necessity of its unit.

    Raises:
        InputError: If it has no units, or more than can be read.

    Example:
        >>> tree = hagd.units.tree(hagd.testbeds.hand_built()[0].model)
        >>> circuit = Circuit.of_units(tree, ["head 0.0"], model="either", task="or")
        >>> svg(circuit).startswith("<svg xmlns"), svg(circuit).count("<title>")
        (True, 1)
    """
    require_is("circuit", circuit, Circuit)
    drawn = drawing(circuit)
    if drawn is None:
        raise InputError("circuit", got=f"{len(circuit):,} units", expected=f"1 to {MOST} units",
                         mend="Find a smaller one, with fewer --units.")  # fmt: skip
    return environment().get_template("circuit.svg").render(drawn=drawn).strip() + "\n"


def _name(unit: Unit, name: str) -> str:
    """What a unit is: its name, or for a part of a block how many of its nodes it holds."""
    if unit.kind != CLUSTER or unit.leaf or name.startswith("heads"):
        return cut(name)
    what = "MLP" if unit.block == MLP else "heads"
    own = f"{what} {layer_words(unit)} ({len(unit):,})"
    return cut(f"{own} at {unit.span}" if unit.span else own)


def _words(circuit: Circuit) -> list[str]:
    """What the columns of the table say of each unit, as one line."""
    columns = [column for column in columns_of(circuit) if column.name not in ("layer", "kind")]
    cells = {column.name: column.cells(circuit) for column in columns}
    named = cells.pop("unit")
    lines = []
    for i, unit in enumerate(circuit.units):
        told = [f"{own[i]} node{'s' * (own[i] != '1')}" if name == "nodes" else f"{name} {own[i]}"
                for name, own in cells.items()]  # fmt: skip
        lines.append(f"{named[i]}: {', '.join([kind_words(unit, circuit.kind), *told])}")
    return lines
