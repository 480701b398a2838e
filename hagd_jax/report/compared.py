"""Two circuits that were compared: the terminal's table, and a drawing of who corresponds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from hagd_jax.brief import one_line
from hagd_jax.causal.circuit_text import cut
from hagd_jax.report.boxes import GAP, HEIGHT, MOST, WIDTH, Box, Drawing
from hagd_jax.report.words import inert
from hagd_jax.transfer import Comparison, Match, Portrait
from hagd_jax.units.unit import ATTENTION

# Between the two columns of boxes, and beside them, where the layer stands.
BETWEEN, MARGIN = 200, 60


class Link(NamedTuple):
    """A link joins two boxes that correspond.

    Attributes:
        first: Number of the box on the left.
        second: Number of the box on the right.
        path: Of the curve, as SVG writes it.
        width: How much of the units is matched, from 0 to 1 of the most.
        similarity: Of the pair.
        words: The pair and its similarity, as a tooltip.
    """

    first: int
    second: int
    path: str
    width: float
    similarity: float
    words: str

    __repr__ = one_line


class Plan(NamedTuple):
    """A plan holds the drawings of both circuits, and what joins them.

    Attributes:
        left: Boxes of the first circuit.
        right: Boxes of the second.
        at: Where the second drawing begins.
        width: Of all.
        height: Of all.
        links: The weaker ones first.
    """

    left: Drawing
    right: Drawing
    at: float
    width: float
    height: float
    links: tuple[Link, ...]

    __repr__ = one_line


def plan_of(found: Match) -> Plan | None:
    """Draw both circuits side by side, the last layers at the top, and join what corresponds.

    Args:
        found: The match.

    Returns:
        The plan; None if a circuit has more units than can be read.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> own = hagd.transfer.portrait(case.model, case.prompts, ["head 0.3", "head 1.2"])
        >>> [link.words for link in plan_of(hagd.transfer.match(own, own)).links]
        ['head 0.3 and head 0.3: 1.00', 'head 1.2 and head 1.2: 1.00']
    """
    if max(len(found.first), len(found.second)) > MOST:
        return None
    left, right = _column(found.first, MARGIN), _column(found.second, 0)
    at, most = left.width + BETWEEN, found.plan.max(initial=0) or 1.0
    links = []
    for i, j in np.argwhere(found.plan > 1e-9).tolist():
        one, other = left.boxes[i], right.boxes[j]
        start, stop = (one.x + WIDTH, one.y + HEIGHT / 2), (at + other.x, other.y + HEIGHT / 2)
        bend = (stop[0] - start[0]) / 2
        path = (f"M{start[0]:g} {start[1]:g}C{start[0] + bend:g} {start[1]:g} "
                f"{stop[0] - bend:g} {stop[1]:g} {stop[0]:g} {stop[1]:g}")  # fmt: skip
        value = float(found.pairs[i, j])
        words = f"{found.first.names[i]} and {found.second.names[j]}: {value:.2f}"
        links.append(Link(i, j, path, float(found.plan[i, j] / most), value, words))
    links.sort(key=lambda link: link.width * link.similarity)
    height = max(left.height, right.height)
    return Plan(left, right, at, at + right.width + MARGIN, height, tuple(links))


def compared_table(found: Comparison, rows: int = 40) -> Table:
    """Make a table of who corresponds, at most 80 columns wide.

    Args:
        found: The comparison.
        rows: Most units that are shown.

    Returns:
        The table, for `rich.print`.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> own = hagd.transfer.portrait(case.model, case.prompts, ["head 0.3", "head 1.2"])
        >>> str(compared_table(hagd.transfer.compare(own, own)).title)
        'similarity 1.00, 100% of the units matched'
    """
    match = found.match
    title, *_ = str(match).partition("\n")
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(title), title_style="bold", title_justify="left",
        caption=Text("\n".join(found.lines())), caption_justify="left",
    )  # fmt: skip
    for own in (match.first, match.second):
        table.add_column(Text(inert(words_of(own), 34)), overflow="fold", max_width=34)
    table.add_column("similarity", justify="right")
    partners = match.partners()
    for one, other, value in partners[:rows]:
        table.add_row(one, other or "-", f"{value:.2f}" if other else "")
    if len(partners) > rows:
        table.add_row(f"and {len(partners) - rows} more", "", "")
    for name in match.left_over()[:rows]:
        table.add_row("-", name, "")
    return table


def _column(own: Portrait, left: int) -> Drawing:
    """Boxes in one column, the last layer at the top."""
    order = sorted(range(len(own)), key=lambda i: (-own.depth[i], own.units[i].block == ATTENTION))
    step, boxes, layers, before = HEIGHT + GAP, list[Box | None]([None] * len(own)), [], ""
    for row, i in enumerate(order):
        unit, y = own.units[i], 1.0 + row * step
        first, last = unit.layers
        layer = str(first) if first == last else f"{first} to {last}"
        if layer != before:
            layers.append((y + HEIGHT / 2, layer))
        before = layer
        boxes[i] = Box(left, y, cut(own.names[i]), "", 0.0, False, unit.block == ATTENTION,
                       own.names[i])  # fmt: skip
    placed = tuple(one for one in boxes if one is not None)
    return Drawing(left + WIDTH + 1, 1.0 + len(own) * step, (WIDTH, HEIGHT), placed, tuple(layers))


def words_of(own: Portrait) -> str:
    """Say of which task and model a portrait is."""
    return f"{own.task or 'a task'} in {own.model}"
