"""What the terminal prints of a validation: one line for each claim."""

from __future__ import annotations

import math

from rich import box
from rich.table import Table
from rich.text import Text

from hagd_jax.causal import Claim, EdgeCircuit, ValidationReport
from hagd_jax.report.words import found_under, inert

_STYLES = {"holds": "green", "fails": "red", "not enough data": "yellow"}
_SIGNS = {"holds": "✓", "fails": "✗", "not enough data": "?"}


def claims_table(report: ValidationReport) -> Table:
    """The claims under every ablation, those that decide first; fits 80 columns.

    Args:
        report: Of `causal.validate`.

    Returns:
        A table for `rich.print`.

    Example:
        >>> rich.print(claims_table(validate(model, circuit, task)))
    """
    decisive = set(map(id, report.decisive))
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(f"{report.verdict}: {_size(report)} for {_short(report)}"),
        title_justify="left",
        title_style="bold",
        caption=Text(
            f"{report.prompts} prompts of the {inert(report.split, 20)} split; "
            f"{found_under(report.circuit.seen)}; claims marked * decide"
        ),
        caption_justify="left",
    )
    for name in ("claim", "ablation", "p", "what was seen"):
        table.add_column(name, no_wrap=name != "what was seen")
    for claim in sorted(report.claims, key=lambda c: id(c) not in decisive):
        mark = "*" if id(claim) in decisive else " "
        sign = Text(f"{_SIGNS[claim.verdict]} {claim.name}{mark}", style=_STYLES[claim.verdict])
        table.add_row(sign, Text(claim.ablation), Text(_p(claim)), Text(claim.says))
    return table


def _size(report: ValidationReport) -> str:
    what = "edges" if isinstance(report.circuit, EdgeCircuit) else "nodes"
    return f"{len(report.circuit):,} {what}"


def _short(report: ValidationReport) -> str:
    return f"{inert(report.circuit.task, 30)} in {inert(report.circuit.model, 30)}"


def _p(claim: Claim) -> str:
    return "" if math.isnan(claim.p_value) else f"{claim.p_value:.3f}"
