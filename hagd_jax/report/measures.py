"""The rows of the verdict: each measure's name, its meaning, its value under an ablation.

The page and the terminal print the same rows, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import ACCURACY_GATE, KL_GATE, Estimate, Evidence, ValidationReport
from hagd_jax.causal.claim import UNTESTED
from hagd_jax.causal.gates import BAND_GATE, NECESSITY_GATE
from hagd_jax.causal.metrics import BAND
from hagd_jax.report.words import UNDEFINED, interval, number, percent, probability

NOT_RUN = "not run"


class Cell(NamedTuple):
    """A cell of the table of measures is a value with its verdict.

    Attributes:
        value: The number itself; NaN where it is not defined.
        text: What is printed.
        note: Smaller, beneath it.
        verdict: Of a claim: `holds`, `fails`, `not enough data` or `not tested`; empty for what is
            no claim.
    """

    value: float
    text: str
    note: str = ""
    verdict: str = ""


class Measure(NamedTuple):
    """A measure is one row of the table of measures.

    Attributes:
        name: Short.
        meaning: One sentence for a newcomer.
        cells: One for each ablation.
    """

    name: str
    meaning: str
    cells: tuple[Cell, ...]

    __repr__ = one_line


def main_measures(report: ValidationReport) -> list[Measure]:
    """List the main measures, those that are hardest to game first.

    Args:
        report: The judge's.

    Returns:
        The rows, in reading order.
    """
    p_values = {c.ablation: c.p_value for c in report.claims if c.name == "sufficiency"}
    rows: list[tuple[str, str, Callable[[Evidence], Cell]]] = [
        ("Same top token", MEANINGS["match"], lambda e: _share(e.alone.match)),
        ("Faithfulness", MEANINGS["faithfulness"], lambda e: _estimate(_mean(e))),
        ("Near on prompts", MEANINGS["near"], lambda e: _estimate(e.alone.faithfulness.within)),
        ("KL from model", MEANINGS["kl"], _kl),
        ("Accuracy kept", MEANINGS["kept"], lambda e: _estimate(e.alone.kept)),
        ("of the model's", MEANINGS["preservation"], lambda e: _estimate(e.alone.preservation)),
        ("Lost without it", MEANINGS["lost"], lambda e: _estimate(e.necessity)),
        ("Best control", MEANINGS["control"], _control),
        ("p-value", MEANINGS["p"], lambda e: _p_value(p_values.get(e.ablation, np.nan), e)),
    ]
    return [Measure(n, m, tuple(cell(e) for e in report.evidence)) for n, m, cell in rows]


def checks(report: ValidationReport) -> list[Measure]:
    """List the claims that decide, by ablation.

    Args:
        report: The judge's.

    Returns:
        The rows; under an ablation that decides nothing their verdicts are shown all the same.
    """
    found = {(c.name, c.ablation): c for c in report.claims}
    rows = []
    for name in ("sufficiency", "necessity", "minimality"):
        cells = []
        for e in report.evidence:
            claim = found.get((name, e.ablation))
            verdict = claim.standing if claim else UNTESTED
            note = "" if e.decides else "decides nothing"
            cells.append(Cell(float(verdict == "holds"), verdict, note, verdict))
        rows.append(Measure(name.capitalize(), MEANINGS[name], tuple(cells)))
    return rows


def more_measures(report: ValidationReport) -> list[Measure]:
    """List all other measures.

    Args:
        report: The judge's.

    Returns:
        The rows.
    """
    found = report.evidence
    spread = [
        ("Mean of ratios", "mean_of_ratios", "Faithfulness averaged over prompts one by one."),
        ("Median prompt", "median", "Faithfulness of the middle prompt."),
        ("Lower quartile", "lower_quartile", "A quarter of the prompts lie below it."),
        ("Upper quartile", "upper_quartile", "A quarter of the prompts lie above it."),
        ("Worst decile", "worst_decile", "A tenth of the prompts lie below it."),
        ("Invalid prompts", "invalid", "Prompts on which ablating everything changes too little."),
    ]
    rows = [
        Measure(n, meaning, tuple(_share(getattr(e.alone.faithfulness, field)) for e in found))
        for n, field, meaning in spread
    ]
    rows.append(
        Measure("Mean control", MEANINGS["mean_control"], tuple(_mean_control(e) for e in found))
    )
    for place, words in enumerate(NAMES):
        cells = tuple(_estimate(e.accuracy[place]) for e in found)
        rows.append(Measure(f"Accuracy, {words}", "Share of prompts answered correctly.", cells))
    for place, words in enumerate(NAMES):
        cells = tuple(Cell(e.metric[place], number(e.metric[place])) for e in found)
        meaning = "Mean logit of the answer minus logit of the wrong answer."
        rows.append(Measure(f"Logit difference, {words}", meaning, cells))
    for place in (3, 1):
        cells = tuple(Cell(e.kl[place], f"{number(e.kl[place])} nats") for e in found)
        rows.append(Measure(f"KL, {NAMES[place]}", "Mean KL divergence from the model.", cells))
    return rows


# Of the first four runs, in their order.
NAMES = ("whole model", "no node left", "circuit alone", "model without it")
MEANINGS = {
    "match": "How often the circuit and the model put the same token on top.",
    "faithfulness": "Share of the model's preference for the right answer that the circuit keeps "
    "when every other node is ablated: 100% is the whole model, 0% no node at all.",
    "near": f"Share of the prompts on which faithfulness is from {BAND[0]:.0%} to {BAND[1]:.0%}; "
    f"{BAND_GATE:.0%} are asked for.",
    "kl": "How far the circuit's next-token distribution is from the model's; 0 is identical. "
    f"At most {KL_GATE:.0%} of what remains with no node left is asked for.",
    "kept": "Share kept of the accuracy that is lost by ablating every node; "
    f"{ACCURACY_GATE:.0%} is asked for.",
    "preservation": "Behavioural preservation: accuracy of the circuit alone, over the model's.",
    "lost": "Share of the preference that is lost when the circuit's nodes are ablated and "
    f"all others stay; {NECESSITY_GATE:.0%} is asked for.",
    "control": "Faithfulness of the best random circuit; each has as many nodes as this one, by "
    "layer and kind or by kind alone. It is what chance can do.",
    "mean_control": "Mean faithfulness of the random circuits.",
    "p": "Probability that a random circuit is as near to the model; it cannot be below "
    "1 / (1 + controls).",
    "sufficiency": "Alone it does what the model does, and random circuits of its size do not.",
    "necessity": "Without it the behaviour is lost, and without as many others it is not.",
    "minimality": "No member could be left out.",
}


def _mean(e: Evidence) -> Estimate:
    return e.alone.faithfulness.ratio_of_means


def _kl(e: Evidence) -> Cell:
    own, nothing = e.kl[2], e.kl[1]
    return Cell(own, f"{number(own)} nats", f"empty {number(nothing)}")


def _control(e: Evidence) -> Cell:
    if not e.chance:
        return Cell(float("nan"), NOT_RUN)
    defined = [control for control in e.chance if control == control]
    best = max(defined) if defined else float("nan")
    return Cell(best, percent(best), f"of {len(e.chance)}")


def _mean_control(e: Evidence) -> Cell:
    return _share(float(np.mean(e.chance))) if e.chance else Cell(float("nan"), NOT_RUN)


def _p_value(value: float, e: Evidence) -> Cell:
    if not e.chance or value != value:
        return Cell(float("nan"), NOT_RUN if not e.chance else UNDEFINED)
    return Cell(value, probability(value), f"at best {probability(1 / (1 + len(e.chance)))}")


def _estimate(estimate: Estimate) -> Cell:
    defined = estimate.value == estimate.value
    return Cell(estimate.value, percent(estimate.value), interval(estimate) if defined else "")


def _share(value: float) -> Cell:
    return Cell(value, percent(value))
