"""One self-contained HTML page about a validation: from each claim to its verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from bokeh.embed import json_item

from hagd_jax.brief import one_line
from hagd_jax.causal import Circuit, Claim, ValidationReport
from hagd_jax.causal.claim import plain
from hagd_jax.report import validation_plots as draw
from hagd_jax.report.claim_words import meaning
from hagd_jax.report.html import render
from hagd_jax.report.record import ABLATION_WORDS
from hagd_jax.report.verdict_words import (
    MARKS,
    badge,
    findings,
    gates_in_words,
    verdict_sentence,
)
from hagd_jax.report.words import percent, probability


class Cell(NamedTuple):
    """A cell states the result of a claim under one ablation."""

    ablation: str
    verdict: str
    mark: str
    kind: str
    value: str
    note: str


class Row(NamedTuple):
    """A row states a claim under every ablation; `whole` if it is of no ablation."""

    name: str
    meaning: str
    cells: list[Cell]
    whole: bool

    __repr__ = one_line


def validation_page(report: ValidationReport, facts: Mapping[str, str] | None = None) -> str:
    """Render a validation as one self-contained HTML page.

    Args:
        report: Of `causal.validate`.
        facts: Name → value, shown as provenance; `command` is shown as code.

    Returns:
        The page; write it as UTF-8.

    Example:
        >>> from hagd_jax.causal import Circuit, ValidationReport
        >>> circuit = Circuit((), (), (1, 2, 3), model="small", task="copy")
        >>> report = ValidationReport(circuit, (), prompts=9, split="test", units=5)
        >>> "Not enough data" in validation_page(report)
        True
    """
    circuit = report.circuit
    ablations = list(dict.fromkeys(c.ablation for c in report.claims if c.ablation))
    figures = _figures(report)
    what = "nodes" if isinstance(circuit, Circuit) else "edges"
    return render(
        "validation",
        report=report,
        title=f"{circuit.task} in {circuit.model}: validation",
        claim=verdict_sentence(circuit, report, report.units),
        badge=badge(report),
        findings=findings(report),
        decides={e.ablation for e in report.evidence if e.decides},
        ablations=ablations,
        ablation_words=ABLATION_WORDS,
        rows=rows(report, ablations),
        what=what,
        ran=any(found.controls for found in report.evidence),
        gates=[(found.ablation, gates_in_words(found.alone.passed)) for found in report.evidence],
        colours=dict(zip([e.ablation for e in report.evidence], draw.COLOURS, strict=False)),
        plots=figures,
        islands={"figures": {name: json_item(figure) for name, figure in figures.items()}},
        facts=facts,
        config=json.dumps(plain(circuit.config), indent=2, ensure_ascii=False),
    )


def rows(report: ValidationReport, ablations: list[str]) -> list[Row]:
    """List the claims by name, decisive ones first.

    Args:
        report: The report.
        ablations: The columns.

    Returns:
        One row a claim.
    """
    found: dict[str, dict[str, list[Claim]]] = {}
    for claim in report.claims:
        found.setdefault(claim.name, {}).setdefault(claim.ablation, []).append(claim)
    made = []
    for name, by_ablation in found.items():
        whole = "" in by_ablation
        columns = [""] if whole else ablations
        # Several of one kind, such as controls: the one that fails speaks.
        cells = [_cell(a, sorted(by_ablation.get(a, []), key=_gravity)) for a in columns]
        made.append(Row(name, meaning(name), cells, whole))
    return made


def _gravity(claim: Claim) -> int:
    return ("fails", "not enough data", "not tested", "holds").index(claim.standing)


def _cell(ablation: str, claims: list[Claim]) -> Cell:
    if not claims:
        return Cell(ablation, "", "", "", "", "")
    claim = claims[0]
    p = "" if math.isnan(claim.p_value) else f"p = {probability(claim.p_value)}"
    value = percent(claim.effect.value, 0) if math.isfinite(claim.effect.value) else claim.standing
    low, high = claim.effect.low, claim.effect.high
    between = f"{percent(low, 0)} to {percent(high, 0)}" if math.isfinite(low + high) else ""
    note = "; ".join(part for part in (between, p.replace("= <", "<")) if part)
    return Cell(ablation, claim.standing, *MARKS[claim.standing], value, note)


def _figures(report: ValidationReport) -> dict[str, Any]:
    found = report.evidence
    if not found:
        return {}
    figures = {"alone": draw.alone(found), "needed": draw.needed(found)}
    if any(e.members for e in found):
        figures["members"] = draw.members([e for e in found if e.members])
    if found[0].subsets:
        figures["parts"] = draw.parts(found)
    if found[0].sizes:
        figures |= draw.against_size(found)
    return figures
