"""The rows of the verdict: each measure's name, its meaning, its value under an ablation.

The page and the terminal print the same rows, so they cannot disagree.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import Estimate, Verdict
from hagd_jax.causal.evaluate import ACCURACY_GATE, KL_GATE
from hagd_jax.report.words import interval, number, percent, probability


class Cell(NamedTuple):
    """One measured thing.

    Attributes:
        value: The number itself; NaN where it is not defined; 0 or 1 for a check.
        text: What is printed.
        note: Smaller, beneath it.
        good: Whether a check passed; None for what is no check.
    """

    value: float
    text: str
    note: str = ""
    good: bool | None = None


class Measure(NamedTuple):
    """One row.

    Attributes:
        name: Short.
        meaning: One sentence for a newcomer.
        cells: One for each verdict.
    """

    name: str
    meaning: str
    cells: tuple[Cell, ...]

    __repr__ = one_line


def main_measures(verdicts: tuple[Verdict, ...]) -> list[Measure]:
    """The rows that decide.

    Args:
        verdicts: One for each column.

    Returns:
        The rows, in reading order.
    """
    rows = [
        ("Faithfulness", MEANINGS["faithfulness"], _faithfulness),
        ("Accuracy kept", MEANINGS["preservation"], _preservation),
        ("Necessity", MEANINGS["necessity"], _necessity),
        ("KL from model", MEANINGS["kl"], _kl),
        ("Same top token", MEANINGS["match"], _match),
        ("Best control", MEANINGS["control"], _control),
        ("p-value", MEANINGS["p"], _p_value),
    ]
    return [Measure(n, m, tuple(cell(v) for v in verdicts)) for n, m, cell in rows]


def checks(verdicts: tuple[Verdict, ...]) -> list[Measure]:
    """The rows of ticks and crosses, the verdict last.

    Args:
        verdicts: One for each column.

    Returns:
        The rows.
    """
    rows = [
        ("Accuracy gate", MEANINGS["accuracy_gate"], lambda v: bool(v.gates.get("accuracy"))),
        ("KL gate", MEANINGS["kl_gate"], lambda v: bool(v.gates.get("kl"))),
        ("Beats controls", MEANINGS["beats"], lambda v: v.beats_controls),
        ("Holds", MEANINGS["holds"], lambda v: v.holds),
    ]
    return [Measure(n, m, tuple(_check(test(v)) for v in verdicts)) for n, m, test in rows]


def more_measures(verdicts: tuple[Verdict, ...]) -> list[Measure]:
    """Everything else that was measured.

    Args:
        verdicts: One for each column.

    Returns:
        The rows.
    """
    spread = [
        ("Mean of ratios", "mean_of_ratios", "Faithfulness averaged over prompts one by one."),
        ("Median prompt", "median", "Faithfulness of the middle prompt."),
        ("Lower quartile", "lower_quartile", "A quarter of the prompts lie below it."),
        ("Upper quartile", "upper_quartile", "A quarter of the prompts lie above it."),
        ("Worst decile", "worst_decile", "A tenth of the prompts lie below it."),
        ("Invalid prompts", "invalid", "Prompts on which ablating everything changes too little."),
    ]
    rows = [
        Measure(n, meaning, tuple(_share(getattr(v.faithfulness, field)) for v in verdicts))
        for n, field, meaning in spread
    ]
    rows.append(
        Measure("Mean control", MEANINGS["mean_control"], tuple(_mean_control(v) for v in verdicts))
    )
    for key, words in NAMES.items():
        cells = tuple(_estimate(v.accuracy[key]) for v in verdicts)
        rows.append(Measure(f"Accuracy, {words}", "Share of prompts answered correctly.", cells))
    for key, words in NAMES.items():
        cells = tuple(Cell(v.metric[key], number(v.metric[key])) for v in verdicts)
        meaning = "Mean logit of the answer minus logit of the wrong answer."
        rows.append(Measure(f"Logit difference, {words}", meaning, cells))
    for key in ("complement", "empty"):
        cells = tuple(Cell(v.kl[key], f"{number(v.kl[key])} nats") for v in verdicts)
        rows.append(Measure(f"KL, {NAMES[key]}", "Mean KL divergence from the model.", cells))
    rows.append(
        Measure("Prompts", "How many, of which split.", tuple(_prompts(v) for v in verdicts))
    )
    return rows


NAMES = {
    "model": "whole model",
    "circuit": "circuit alone",
    "complement": "model without it",
    "empty": "no node left",
}
MEANINGS = {
    "faithfulness": "Share of the model's preference for the right answer that the circuit keeps "
    "when every other node is ablated: 100% is the whole model, 0% no node at all.",
    "preservation": "Behavioural preservation: accuracy of the circuit alone, over the model's.",
    "necessity": "Share of the preference that is lost when the circuit's nodes are ablated and "
    "all others stay.",
    "kl": "How far the circuit's next-token distribution is from the model's; 0 is identical.",
    "match": "How often the circuit and the model put the same token on top.",
    "control": "Faithfulness of the best random circuit; each has as many nodes of each "
    "kind in each layer as this one. It is what chance can do.",
    "mean_control": "Mean faithfulness of the random circuits.",
    "p": "Chance that a random circuit is as faithful; it cannot be below 1 / (1 + controls).",
    "accuracy_gate": f"Accuracy is at least {ACCURACY_GATE:.0%} of the model's.",
    "kl_gate": f"KL is at most {KL_GATE:.0%} of what remains with no node left.",
    "beats": "Every random circuit is less faithful.",
    "holds": "All three checks pass.",
}


def _faithfulness(v: Verdict) -> Cell:
    return _estimate(v.faithfulness.ratio_of_means)


def _preservation(v: Verdict) -> Cell:
    return _estimate(v.preservation)


def _necessity(v: Verdict) -> Cell:
    return _estimate(v.necessity)


def _kl(v: Verdict) -> Cell:
    alone, nothing = v.kl["circuit"], v.kl["empty"]
    return Cell(alone, f"{number(alone)} nats", f"empty {number(nothing)}")


def _match(v: Verdict) -> Cell:
    return _share(v.exact_match)


def _control(v: Verdict) -> Cell:
    defined = [control for control in v.controls if control == control]
    best = max(defined) if defined else float("nan")
    return Cell(best, percent(best), f"of {len(v.controls)}")


def _mean_control(v: Verdict) -> Cell:
    return _share(float(np.mean(v.controls)) if v.controls else float("nan"))


def _p_value(v: Verdict) -> Cell:
    best = probability(1 / (1 + len(v.controls)))
    return Cell(v.p_value, probability(v.p_value), f"at best {best}")


def _prompts(v: Verdict) -> Cell:
    return Cell(v.prompts, f"{v.prompts:,}", v.split)


def _estimate(estimate: Estimate) -> Cell:
    defined = estimate.value == estimate.value
    return Cell(estimate.value, percent(estimate.value), interval(estimate) if defined else "")


def _share(value: float) -> Cell:
    return Cell(value, percent(value))


def _check(passed: bool) -> Cell:
    return Cell(float(passed), "yes" if passed else "no", good=passed)
