"""What a report is made of, and what it claims in plain words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import Circuit, SizePoint, Verdict
from hagd_jax.causal.evaluate import ACCURACY_GATE, KL_GATE
from hagd_jax.errors import InputError
from hagd_jax.report.words import inert, number, percent
from hagd_jax.tasks.definition import Text
from hagd_jax.units import Nodes

ABLATION_WORDS = {
    "zero": "set to zero",
    "mean": "set to their average over other prompts",
    "mean_overall": "set to their average over other prompts and all positions",
    "resample": "set to their values on another prompt",
    "counterfactual": "set to their values on the counterfactual prompt",
}


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything a reader of a run should see.

    Attributes:
        title: Heading.
        circuit: What was found.
        verdicts: What was measured of it, one for each ablation.
        scores: The score of every node, (L, H) and (L, F) float; positive helps the behaviour.
        curve: Faithfulness against size, in any order.
        curve_ablation: What replaced the complement when the curve was measured.
        texts: Prompts the verdicts were measured on.
        facts: Name → value, shown as provenance; `description` is shown under the title and
            `command` as code.

    Raises:
        InputError: If the scores are not those of the circuit's nodes.
    """

    title: str
    circuit: Circuit
    verdicts: tuple[Verdict, ...]
    scores: Nodes
    curve: tuple[SizePoint, ...] = ()
    curve_ablation: str = "counterfactual"
    texts: tuple[Text, ...] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    __repr__ = one_line

    def __post_init__(self):
        layers, heads, features = self.circuit.space
        got = np.shape(self.scores.heads), np.shape(self.scores.features)
        if got != ((layers, heads), (layers, features)):
            raise InputError(
                "scores",
                got=f"shapes {got[0]} and {got[1]}",
                expected=f"{(layers, heads)} and {(layers, features)}, as the circuit's",
            )

    @property
    def total(self) -> int:
        """How many nodes the model has."""
        return self.circuit.space.nodes

    def verdict(self, ablation: str) -> Verdict | None:
        """The verdict under one ablation, if there is one."""
        return next((v for v in self.verdicts if v.ablation == ablation), None)


def standing(report: Report) -> str:
    """`holds` under every ablation, `partly` under some, `fails` under none, or `untested`."""
    outcomes = [verdict.holds for verdict in report.verdicts]
    if not outcomes:
        return "untested"
    return "holds" if all(outcomes) else "partly" if any(outcomes) else "fails"


def claim(report: Report) -> str:
    """One sentence: how many nodes, of what, keep how much of the behaviour.

    Args:
        report: The report.

    Returns:
        E.g. "64 of 516 nodes (12.4%) carry modular in small: with every other node ablated,
        what remains of the behaviour is 97% (counterfactual), 91% (mean)."
    """
    size, total = len(report.circuit), report.total
    counted = f"{size:,} of {total:,} nodes ({percent(size / total)})"
    subject = {0: f"The empty circuit, 0 of {total:,} nodes,", total: f"All {total:,} nodes"}.get(
        size, counted
    )
    one = size < 2
    state = standing(report)
    verb = {
        "holds": "carries" if one else "carry",
        "partly": "partly carries" if one else "partly carry",
        "fails": "does not, by itself, carry" if one else "do not, by themselves, carry",
        "untested": "is proposed to carry" if one else "are proposed to carry",
    }[state]
    task, model = (inert(name, 60) for name in (report.circuit.task, report.circuit.model))
    start = f"{subject} {verb} {task} in {model}"
    if state == "untested":
        return f"{start}; nothing was measured."
    kept = ", ".join(
        f"{percent(v.faithfulness.ratio_of_means.value, 0)} ({inert(v.ablation, 30)})"
        for v in report.verdicts
    )
    return f"{start}: with every other node ablated, what remains of the behaviour is {kept}."


def shortfalls(verdict: Verdict) -> list[str]:
    """Why a verdict does not hold; empty if it does.

    Args:
        verdict: The verdict.

    Returns:
        One clause for each reason.
    """
    value = verdict.faithfulness.ratio_of_means.value
    reasons = []
    if not verdict.able:
        right = verdict.accuracy["model"]
        reasons.append(
            f"the model itself is right on {percent(right.value)} of the prompts "
            f"({percent(right.low)} at the lower end), so there is little to find"
        )
    if math.isnan(value):
        reasons.append("faithfulness is not defined, since the model scores like the empty circuit")
    if not verdict.gates.get("accuracy"):
        reasons.append(
            f"accuracy is {percent(verdict.accuracy['circuit'].value)}, under "
            f"{percent(ACCURACY_GATE, 0)} of the model's {percent(verdict.accuracy['model'].value)}"
        )
    if not verdict.gates.get("kl"):
        reasons.append(
            f"KL from the model is {number(verdict.kl['circuit'])} nats, over "
            f"{percent(KL_GATE, 0)} of the empty circuit's {number(verdict.kl['empty'])}"
        )
    equals = sum(not value > control for control in verdict.controls)
    if not math.isnan(value) and equals:
        reasons.append(f"{equals} of {len(verdict.controls)} random circuits do as well")
    if not verdict.controls:
        reasons.append("it was not compared with random circuits")
    return reasons


def findings(report: Report) -> list[tuple[str, bool]]:
    """The verdicts as sentences.

    Args:
        report: The report.

    Returns:
        (sentence, whether it is good news), one for each ablation, or a single one if the
        circuit holds under all of several.
    """
    verdicts = report.verdicts
    counts = {len(v.controls) for v in verdicts}
    if len(verdicts) > 1 and len(counts) == 1 and standing(report) == "holds":
        return [(f"Under all {len(verdicts)} ablations: {_passed(verdicts[0])}.", True)]
    return [
        (
            f"Under {inert(v.ablation, 30)} ablation: "
            f"{_passed(v) if v.holds else '; '.join(shortfalls(v))}.",
            v.holds,
        )
        for v in verdicts
    ]


def _passed(verdict: Verdict) -> str:
    count = len(verdict.controls)
    others = "the one random circuit" if count == 1 else f"all {count} random circuits"
    return (
        "accuracy and KL are within their gates, and it is more faithful than "
        f"{others} of the same make-up"
    )
