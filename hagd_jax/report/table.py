"""What the terminal prints: the verdict, and the strongest nodes."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from hagd_jax.causal import Circuit
from hagd_jax.report.measures import Cell, checks, main_measures
from hagd_jax.report.record import Report
from hagd_jax.report.verdict_words import LEGEND, MARKS, STYLES, badge, verdict_sentence
from hagd_jax.report.words import found_under, inert, node_name, number
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


def circuit_table(circuit: Circuit, n: int = 10, scores: Nodes | Scores | None = None) -> Table:
    """Make a table of the members with the highest scores.

    Args:
        circuit: The circuit.
        n: How many.
        scores: Scores of all nodes, as a run's page lists them; the circuit's own if None, which
            are those it was chosen by: logits of masks, or scores.

    Returns:
        A table for `rich.print`.
    """
    given = (
        circuit.scores if scores is None else np.asarray(scores.flat())[circuit.places()].tolist()
    )
    ranked = sorted(zip(given, circuit.nodes, strict=True), key=lambda row: -row[0])
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Strongest {min(n, len(ranked)):,} of {len(ranked):,} nodes",
        title_justify="left",
    )
    for name in ("", "node", "kind"):
        table.add_column(name, justify="right" if not name else "left")
    table.add_column("score", justify="right")
    for place, (score, node) in enumerate(ranked[:n], start=1):
        table.add_row(str(place), node_name(node, circuit.per_expert), node.kind, number(score))
    return table


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
