"""What the terminal prints of a validation: one line for each claim."""

from __future__ import annotations

import math

from rich import box
from rich.table import Table
from rich.text import Text

from hagd_jax.causal import Claim, ValidationReport
from hagd_jax.report.verdict_words import LEGEND, MARKS, STYLES, badge, verdict_sentence
from hagd_jax.report.words import found_under, inert


def claims_table(report: ValidationReport) -> Table:
    """Make a table of the claims under every ablation, decisive ones first, within 80 columns.

    Args:
        report: Of `causal.validate`.

    Returns:
        A table for `rich.print`.

    Example:
        >>> from hagd_jax.causal import Circuit, ValidationReport
        >>> circuit = Circuit((), (), (1, 2, 3), model="small", task="copy")
        >>> report = ValidationReport(circuit, (), prompts=9, split="test", units=5)
        >>> str(claims_table(report).title).endswith("may carry copy in small.")
        True
    """
    _, mark, _ = badge(report)
    sentence = verdict_sentence(report.circuit, report, report.units)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(f"{mark} {inert(report.headline, 200)}. {sentence}"),
        title_justify="left",
        title_style="bold",
        caption=Text(
            "; ".join(
                [
                    f"{report.prompts} distinct prompts of the {inert(report.split, 20)} split",
                    found_under(report.circuit.seen),
                    "claims marked * decide",
                    LEGEND,
                    "p: probability of such data if the claim were false, but for independence "
                    "and additivity, if it were true",
                    *(f"set aside: {inert(each, 200)}" for each in report.aside),
                ]
            )
        ),
        caption_justify="left",
    )
    for name in ("claim", "ablation", "p", "what was seen"):
        table.add_column(name, no_wrap=name != "what was seen")
    for claim in sorted(report.claims, key=lambda c: not c.decides):
        star = "*" if claim.decides else " "
        sign = Text(f"{MARKS[claim.standing][0]} {claim.name}{star}", style=STYLES[claim.standing])
        table.add_row(sign, Text(claim.ablation), Text(_p(claim)), Text(claim.says))
    return table


def _p(claim: Claim) -> str:
    return "" if math.isnan(claim.p_value) else f"{claim.p_value:.3f}"
