"""The drawing of a circuit: every unit has a box of its own, where a reader expects it."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal import About, Circuit
from hagd_jax.errors import InputError
from hagd_jax.report import Report, svg
from hagd_jax.report.boxes import ACROSS, GAP, HEIGHT, MOST, WIDTH, drawing
from hagd_jax.report.page import page
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes, Space
from hagd_jax.units.tree import tree_of

SPACE = Space(3, 9, 6)
TREE = tree_of(SPACE, "neurons", (), 2, Seen.nothing())
LEAVES = [TREE.leaf(place) for place in range(SPACE.nodes)]


def made(places, about=None):
    units = [LEAVES[i] for i in sorted(places)]
    circuit = Circuit.of_units(TREE, units, [1.0] * len(units), model="m", task="t")
    return circuit if about is None else circuit.described(about)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, SPACE.nodes - 1), min_size=1))
def test_every_unit_has_a_box_in_the_order_of_layers(places):
    circuit = made(places)
    drawn = drawing(circuit)
    assert drawn is not None
    words = {box.words.partition(":")[0] for box in drawn.boxes}
    assert words == {unit.name for unit in circuit.units}
    corners = np.array([(box.x, box.y) for box in drawn.boxes])
    apart = np.abs(corners[:, None] - corners[None])
    free = (apart[..., 0] >= WIDTH + GAP) | (apart[..., 1] >= HEIGHT + GAP)
    assert (free | np.eye(len(corners), dtype=bool)).all()
    assert corners.min() >= 1
    assert corners[:, 0].max() + WIDTH <= drawn.width
    assert corners[:, 1].max() + HEIGHT <= drawn.height
    assert max((corners[:, 1] == y).sum() for y in corners[:, 1]) <= ACROSS
    # A higher layer stands above a lower one, and heads left of neurons within a line.
    layer = np.array([int(box.words.split()[1].split(".")[0]) for box in drawn.boxes])
    above = corners[:, None, 1] < corners[None, :, 1]
    assert (layer[:, None] >= layer[None])[above].all()
    heads = np.array([box.head for box in drawn.boxes])
    line = corners[:, None, 1] == corners[None, :, 1]
    left = corners[:, None, 0] < corners[None, :, 0]
    assert not (~heads[:, None] & heads[None] & line & left).any()


def test_several_heads_of_a_layer_are_named_while_they_are_few():
    """Two heads, six, and five neurons, each one unit."""
    level = np.arange(SPACE.nodes)
    level[[0, 3]], level[10:16], level[27:32] = 0, 10, 27
    tree = tree_of(SPACE, "neurons", [level], 2, Seen.nothing())
    names = [tree.parent(tree.leaf(place)).name for place in (0, 10, 27)]
    circuit = Circuit.of_units(tree, names, [1.0] * 3, model="m", task="t")
    found = {box.name: box.head for box in drawing(circuit).boxes}
    assert found == {"heads 0.0,3": True, "heads 1 (6)": True, "MLP 0 (5)": False}
    text = str(circuit)
    assert "heads 0.0,3" in text
    assert names[1] in text


def test_bars_are_shares_of_the_longest():
    lost = [0.5, -0.25, 0.0]
    rows = [About("induction", lost[0], 2), About("unnamed", lost[1]), About("x" * 40, lost[2])]
    boxes = drawing(made([0, 1, 2], rows)).boxes
    assert [(box.bar, box.minus) for box in boxes] == [(1.0, False), (0.5, True), (0.0, False)]
    assert [box.role for box in boxes] == ["induction", "", "x" * 19 + "…"]
    assert "role induction, necessity 50.0%, radius 2" in boxes[0].words


def test_walls_of_boxes_are_not_drawn():
    space = Space(2, 50, 1)
    tree = tree_of(space, "neurons", (), 2, Seen.nothing())
    units = [tree.leaf(i) for i in range(MOST + 1)]
    circuit = Circuit.of_units(tree, units, [1.0] * len(units), model="m", task="t")
    assert drawing(circuit) is None
    assert drawing(made([])) is None


def test_the_page_shows_the_drawing_and_trusts_no_role():
    circuit = made([0, 30], [About("<b>&induction", 0.5, 2), About("unnamed", -0.5)])
    shown = page(Report("t in m", circuit, None, Nodes.full(SPACE, 0.0)))
    assert shown.count('<rect class="head"') == 1
    assert shown.count('<rect class="other"') == 1
    assert "<b>&induction" not in shown
    assert "&lt;b&gt;&amp;induction" in shown
    assert re.search(r"<title>head 0.0: head, 1 node, score 1, role", shown)
    assert (
        page(Report("t in m", made([]), None, Nodes.full(SPACE, 0.0))).count('class="boxes"') == 0
    )


def test_the_picture_is_well_formed_and_stands_by_itself():
    circuit = made([0, 30], [About("<b>&induction", 0.5, 2), About("unnamed", -0.5)])
    root = ElementTree.fromstring(svg(circuit))
    names = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"head 0.0", "<b>&induction", "layer 0"} <= set(names)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}title"))) == 2
    with pytest.raises(InputError, match="circuit: got 0 units; expected 1 to 96"):
        svg(made([]))


def test_the_layers_of_a_band_fit_the_margin():
    """A label of more than 10 characters would reach below the boxes."""
    tree = tree_of(Space(126, 1, 1), "neurons", (), 2, Seen.nothing())
    circuit = Circuit.of_units(tree, ["layers 124-125", "head 101.0"], model="m", task="t")
    labels = re.findall(r'class="layer"[^>]*>([^<]*)<', svg(circuit))
    assert labels == ["124 to 125", "layer 101"]
