"""The verdict as every page and table words it, so that they cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hagd_jax.causal import Circuit, Claim, EdgeCircuit, ValidationReport, Wiring
from hagd_jax.causal.claim import CORE
from hagd_jax.report.words import counted, inert, percent

# Verdict of a claim → mark and class.
MARKS = {
    "holds": ("✓", "yes"),
    "fails": ("✗", "no"),
    "not enough data": ("?", "open"),
    "not tested": ("○", "open"),
}
# What the two marks of a claim without a verdict mean.
LEGEND = (
    "? not enough data: the test could not decide; "
    "○ not tested: settled otherwise, so that more prompts would not help"
)
# Verdict on a circuit → class, mark and words.
BADGES = {
    "accepted": ("holds", "✓", "Accepted"),
    "rejected": ("fails", "✗", "Rejected"),
    "not enough data": ("untested", "?", "Not enough data"),
    "": ("untested", "?", "Not tested"),
}
STYLES = {"holds": "green", "fails": "red", "not enough data": "yellow", "not tested": "dim"}


class Finding(NamedTuple):
    """A finding is one line under the verdict.

    Attributes:
        mark: ✓, ✗, ?, ○ or ·.
        kind: Its class on a page.
        words: A sentence.
    """

    mark: str
    kind: str
    words: str


def badge(report: ValidationReport | None) -> tuple[str, str, str]:
    """Return class, mark and words of the verdict; "Not tested" without a report."""
    return BADGES[report.verdict if report else ""]


# Why a circuit that is enough is none all the same.
_REASONS = {
    "size": "it is nearly all of the model",
    "necessity": "the model does the same without it",
    "minimality": "some of its members could be left out",
}


def verdict_sentence(
    circuit: Circuit | EdgeCircuit | Wiring, report: ValidationReport | None, units: int
) -> str:
    """State the circuit's share of the model and whether it carries the behaviour, or why not.

    Args:
        circuit: The circuit.
        report: The judge's; None if it was not judged.
        units: Of the model.

    Returns:
        E.g. "5.0% of the model (2,318 of 46,350 nodes) does not, by itself, carry ioi in small.",
        or "5.0% of the model (41 units with 2,318 of 46,350 nodes) ...".
    """
    verb, reason = "is proposed to carry", ""
    if report is not None:
        verb, reason = {"accepted": ("carries", ""), "rejected": _failing(report.decisive)}.get(
            report.verdict
        ) or _open(report)
    task, model = inert(circuit.task, 60), inert(circuit.model, 60)
    part = percent(circuit.leaves / max(units, 1))
    return f"{part} of the model ({counted(circuit, units)}) {verb} {task} in {model}{reason}."


def _open(report: ValidationReport) -> tuple[str, str]:
    """What is said where nothing decides: a circuit that fails all the same may carry nothing."""
    core = [c for c in report.claims if c.name in CORE]
    names = list(dict.fromkeys(c.ablation for c in core if c.ablation))
    failing = {c.ablation for c in core if c.verdict == "fails"}
    if report.decisive or not names or not ({""} & failing or set(names) <= failing):
        return "may carry", ""
    verb, reason = _failing(core)
    under = " and ".join(inert(name, 30) for name in names)
    keeps = verb.replace("does not, by itself, carry", "does not keep")
    return keeps, f"{reason} under {under} ablation; nothing decides on it"


def _failing(claims: Sequence[Claim]) -> tuple[str, str]:
    """What a circuit does not do, and why, by the gravest of its claims that fail."""
    failed = {c.name for c in claims if c.verdict == "fails"}
    for name, reason in _REASONS.items():
        if name in failed and "sufficiency" not in failed:
            return "is not a circuit of", f": {reason}"
    return "does not, by itself, carry", ""


def findings(report: ValidationReport | None) -> list[Finding]:
    """State the decisive claims and the prompts set aside, as sentences.

    Args:
        report: The judge's, if there is one.

    Returns:
        One finding for each.
    """
    if report is None:
        return []
    decisive = [Finding(*MARKS[c.standing], _sentence(c)) for c in report.decisive]
    aside = [Finding("·", "aside", f"Set aside: {inert(each, 300)}.") for each in report.aside]
    rest = [] if decisive else [Finding("?", "open", "No claim was left that could decide.")]
    return [*decisive, *rest, *aside]


def _sentence(claim: Claim) -> str:
    under = f" under {inert(claim.ablation, 30)} ablation" if claim.ablation else ""
    verdict = {
        "holds": "holds", "fails": "fails", "not tested": "was not tested",
    }.get(claim.standing, "has not enough data")  # fmt: skip
    return f"{claim.name.capitalize()}{under} {verdict}: {inert(claim.says, 600)}."


_GATES = {
    "able": "the model's own accuracy",
    "informative": "enough prompts that ablation changes",
    "kl": "KL",
    "faithfulness": "mean faithfulness",
    "spread": "faithfulness on most prompts",
    "accuracy": "accuracy",
}


def gates_in_words(passed: Mapping[str, bool | None]) -> str:
    """Name the gates of sufficiency that a circuit fails, and those that are undecided.

    Args:
        passed: Gate → whether it is passed, None for "not enough data"; see `causal.Alone`.

    Returns:
        The end of a sentence.

    Example:
        >>> gates_in_words({"kl": True, "accuracy": False, "spread": None})
        'it fails on accuracy; undecided is faithfulness on most prompts'
        >>> gates_in_words({"kl": True})
        'it passes all gates'
    """
    parts = []
    for verb, kind in (("it fails on", False), ("undecided is", None)):
        names = [_GATES.get(name, name) for name, good in passed.items() if good is kind]
        parts += [f"{verb} {', '.join(names)}"] if names else []
    return "; ".join(parts) or "it passes all gates"
