"""What the terminal prints: the verdict, and the strongest nodes."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from hagd_jax.causal import Circuit
from hagd_jax.report.measures import Cell, checks, main_measures
from hagd_jax.report.record import Report, claim
from hagd_jax.report.words import found_under, inert, node_name, number


def verdict_table(report: Report) -> Table:
    """Measures by ablation, with ticks and crosses; fits 80 columns with four ablations.

    Args:
        report: The report.

    Returns:
        A table for `rich.print`.

    Example:
        >>> rich.print(verdict_table(report))
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(claim(report)),
        title_justify="left",
        title_style="bold",
        caption=_caption(report),
        caption_justify="left",
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("measure", no_wrap=True)
    for verdict in report.verdicts:
        # Text, not str: no markup is read out of a name.
        table.add_column(Text(inert(verdict.ablation, 14)), justify="right")
    for measure in main_measures(report.verdicts):
        table.add_row(measure.name, *map(_cell, measure.cells))
    table.add_section()
    for measure in checks(report.verdicts):
        table.add_row(measure.name, *map(_cell, measure.cells))
    return table


def circuit_table(circuit: Circuit, n: int = 10) -> Table:
    """The members with the highest scores.

    Args:
        circuit: The circuit.
        n: How many.

    Returns:
        A table for `rich.print`.
    """
    ranked = sorted(zip(circuit.scores, circuit.nodes, strict=True), key=lambda row: -row[0])
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Strongest {min(n, len(ranked)):,} of {len(ranked):,} nodes",
        title_justify="left",
    )
    for name in ("", "node", "kind"):
        table.add_column(name, justify="right" if not name else "left")
    table.add_column("score", justify="right")
    for place, (score, node) in enumerate(ranked[:n], start=1):
        table.add_row(str(place), node_name(node), node.kind, number(score))
    return table


def _caption(report: Report) -> Text:
    counts = {f"{v.prompts:,} {inert(v.split, 20)} prompts" for v in report.verdicts}
    parts = [*sorted(counts), found_under(report.circuit.seen), "beneath: 95% intervals, in %"]
    return Text("; ".join(parts))


def _cell(cell: Cell) -> Text:
    if cell.good is not None:
        return Text("✓ yes" if cell.good else "✗ no", style="green" if cell.good else "red")
    text = Text(cell.text, style="bold")
    if cell.note:
        text.append(f"\n{cell.note}", style="dim")
    return text
