"""What the terminal prints: the verdict, and the strongest units."""

from __future__ import annotations

import math
import shutil

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from hagd_jax.causal import Circuit, Node, ValidationReport
from hagd_jax.causal.circuit_text import (
    COLUMNS,
    columns_of,
    kind_words,
    layer_words,
    left_out,
    shown_names,
)
from hagd_jax.report.measures import Cell, checks, main_measures
from hagd_jax.report.record import Report
from hagd_jax.report.verdict_words import LEGEND, MARKS, STYLES, badge, verdict_sentence
from hagd_jax.report.words import counted, found_under, inert, node_name, number, percent
from hagd_jax.units import Nodes, Scores


def verdict_table(report: Report) -> Table:
    """Make a table of measures by ablation; four ablations fit 80 columns.

    Args:
        report: The report.

    Returns:
        A table for `rich.print`.

    Example:
        >>> from hagd_jax.causal import Circuit
        >>> from hagd_jax.report import Report
        >>> from hagd_jax.units import Nodes, Space
        >>> circuit = Circuit((), (), (1, 2, 3), model="small", task="copy")
        >>> report = Report("copy in small", circuit, None, Nodes.full(Space(1, 2, 3), 0.0))
        >>> str(verdict_table(report).title)
        '? Not tested: 0.0% of the model (0 of 5 nodes) is proposed to carry copy in small.'
    """
    said = report.validation
    _, mark, word = badge(said)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(f"{mark} {word}: {verdict_sentence(report.circuit, said, report.total)}"),
        title_justify="left",
        title_style="bold",
        caption=_caption(report),
        caption_justify="left",
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("measure", no_wrap=True)
    for found in report.evidence:
        # Text, not str: no markup is read out of a name.
        star = "*" if found.decides else ""
        table.add_column(Text(inert(found.ablation, 14) + star), justify="right")
    if said is None or not said.evidence:
        return table
    for measure in main_measures(said):
        table.add_row(measure.name, *map(_cell, measure.cells))
    table.add_section()
    for measure in checks(said):
        table.add_row(measure.name, *map(_cell, measure.cells))
    return table


def circuit_table(
    circuit: Circuit,
    n: int | None = None,
    scores: Nodes | Scores | None = None,
    found: ValidationReport | None = None,
) -> Table:
    """Make a table of the units with the highest scores, layer by layer.

    Args:
        circuit: The circuit.
        n: How many; as many as the terminal is high if None.
        scores: Scores of all nodes, as a run's page lists them, of which a unit has the highest;
            the circuit's own if None, which are those it was chosen by: logits of masks, or scores.
        found: The judge's report, for what leaving out each unit costs.

    Returns:
        A table for `rich.print`, with a sentence on the units that it leaves out.
    """
    units, parts, shown = circuit.units, circuit.parts(), shown_names(circuit)
    given = parts.scores
    if scores is not None:
        flat = np.asarray(scores.flat())
        given = np.array([flat[unit.places()].max() for unit in units])
    wide, high = shutil.get_terminal_size()
    n = max(high - _AROUND, _FEWEST) if n is None else n
    best = np.argsort(-given, kind="stable")[:n].tolist()
    mixed, cost = len(units) < circuit.leaves, _costs(found)
    told = columns_of(circuit)[len(COLUMNS) :]
    beside = list(zip(*(column.cells(circuit) for column in told), strict=True))
    table = Table(
        box=box.SIMPLE_HEAD,
        title=_strongest(circuit, len(best)),
        title_justify="left",
        caption=Text(left_out(units, best)) if len(best) < len(units) else None,
        caption_justify="left",
        collapse_padding=bool(told),
        padding=(0, 0 if told and wide < _CLOSER + _COST * bool(cost) else 1),
    )
    # Where there is more to say of units their names say of what kind they are.
    names = ["", "layer", *(["unit", *["kind"] * (not told), "nodes"] if mixed else ["node"])]
    for name in [*names, "score", *(column.name for column in told), *["KL added"] * bool(cost)]:
        # In a narrow terminal roles and names are broken, and nothing else.
        broken = name in ("role", "unit")
        table.add_column(name, justify="left" if name in _WORDS else "right",
                         overflow="fold" if broken else "ellipsis",
                         min_width=_NARROWEST.get(name) if told else None,
                         no_wrap=bool(told) and not broken)  # fmt: skip
    before = ""
    for place in sorted(best, key=lambda i: (units[i].layers, -given[i], best.index(i))):
        layer = layer_words(units[place])
        if mixed:
            kind = [] if told else [kind_words(units[place], circuit.kind)]
            cells = [shown[place], *kind, f"{len(units[place]):,}"]
        else:
            own = units[place]
            node = Node(own.kind, own.layers[0], own.index, span=own.span)
            cells = [node_name(node, circuit.per_expert)]
        cells = [str(best.index(place) + 1), "" if layer == before else layer, *cells]
        # Text, not str: no markup is read out of a role.
        known = map(Text, beside[place]) if told else ()
        last = [cost.get(parts.names[place], "")] * bool(cost)
        table.add_row(*cells, number(float(given[place])), *known, *last)
        before = layer
    return table


# Columns of words, the others are of numbers.
_WORDS = ("unit", "node", "kind", "role")
# `unnamed`, `induction` and `cluster` fit.
_NARROWEST = {"role": 9, "unit": 7}
# In a terminal of fewer columns what is known of units stands closer; so much wider is the cost.
_CLOSER, _COST = 72, 11
# Lines around the rows of the table, and the fewest rows.
_AROUND, _FEWEST = 8, 10


def _strongest(circuit: Circuit, shown: int) -> str:
    """The table's title."""
    if len(circuit) == circuit.leaves:
        return f"Strongest {shown:,} of {circuit.leaves:,} nodes"
    return f"Strongest {shown:,} of {counted(circuit, circuit.space.nodes)}"


def _costs(found: ValidationReport | None) -> dict[str, str]:
    """Name → what leaving a unit out adds to the KL, as a share of the empty circuit's."""
    tested = [e for e in found.evidence if e.members] if found else []
    if not tested:
        return {}
    # The first ablation that decides, or the first.
    e = next((e for e in tested if e.decides), tested[0])
    scale = e.kl[1] or math.nan
    pairs = zip(e.members, e.without, strict=True)
    return {name: percent((far - e.kl[2]) / scale) for name, far in pairs}


def _caption(report: Report) -> Text:
    said = report.validation
    if said is None:
        return Text("nothing was measured")
    parts = [
        f"{said.prompts:,} distinct {inert(said.split, 20)} prompts",
        found_under(report.circuit.seen),
        "* decides",
        "beneath: 95% intervals, in %",
        LEGEND.replace("not enough data", _SHORT["not enough data"]),
        *(f"set aside: {inert(each, 200)}" for each in said.aside),
    ]
    return Text("; ".join(parts))


def _cell(cell: Cell) -> Text:
    if cell.verdict:
        return Text(f"{MARKS[cell.verdict][0]} {_SHORT[cell.verdict]}", style=STYLES[cell.verdict])
    text = Text(cell.text, style="bold")
    if cell.note:
        text.append(f"\n{cell.note}", style="dim")
    return text


_SHORT = {
    "holds": "holds",
    "fails": "fails",
    "not enough data": "too little",
    "not tested": "not tested",
}
