"""Gates: what a circuit alone must keep, measured from the empty circuit."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.claim import LEAST_INFORMATIVE, Runs
from hagd_jax.causal.metrics import (
    BAND,
    Estimate,
    Faithfulness,
    accuracy,
    faithfulness,
    kept_accuracy,
    preservation,
    ratio_of_means,
)
from hagd_jax.causal.trials import Trials

# Least share kept of the accuracy that ablating everything costs.
ACCURACY_GATE = 0.85
# Largest distance from the model, as a share of the empty circuit's.
KL_GATE = 0.30
# Largest |1 − faithfulness|: beyond it, supporting or suppressing units are missing.
FAITHFULNESS_GATE = 0.3
# Least share of prompts on which the circuit does from half to one and a half of what the model
# does (`metrics.BAND`): a mean can be right while most prompts are not.
BAND_GATE = 0.8
# Least share of the metric that must be lost without the circuit.
NECESSITY_GATE = 0.5
# A model has a behaviour if it is right more often than this, at the lower end of its interval.
ABLE = 0.5


def within(estimate: Estimate, low: float = -math.inf, high: float = math.inf) -> bool | None:
    """Tell whether an estimate's whole 95% interval lies within a gate.

    Args:
        estimate: With its interval.
        low: Least value allowed.
        high: Largest value allowed.

    Returns:
        False if the value is outside; True if the whole interval is inside; None, which is "not
        enough data", if the value is inside and its interval is not, or it is not defined.

    Example:
        >>> [within(Estimate(v, v - 0.1, v + 0.1), high=0.3) for v in (0.1, 0.25, 0.35)]
        [True, None, False]
    """
    if math.isnan(estimate.value):
        return None
    if not low <= estimate.value <= high:
        return False
    return True if low <= estimate.low and estimate.high <= high else None


def worst(several: list[bool | None]) -> bool | None:
    """Combine verdicts: False if any is, else None if any is, else True."""
    return False if False in several else None if None in several else True


class Alone(NamedTuple):
    """The measures of a circuit alone tell what it preserves under one ablation.

    Attributes:
        match: Share of prompts on which its top token is the model's.
        able: Accuracy of the model itself, with its Clopper–Pearson interval.
        kl: Its distance from the model over the empty circuit's.
        faithfulness: Of the metric, with its spread over prompts.
        kept: Share kept of the accuracy that ablating everything costs.
        preservation: Its accuracy over the model's.
        passed: Gate → whether it is passed; None for "not enough data".
    """

    match: float
    able: Estimate
    kl: Estimate
    faithfulness: Faithfulness
    kept: Estimate
    preservation: Estimate
    passed: dict[str, bool | None]

    __repr__ = one_line

    @property
    def good(self) -> bool | None:
        """Tell whether all gates are passed."""
        return worst(list(self.passed.values()))


def alone(runs: Runs, row: int = Trials.CIRCUIT) -> Alone:
    """Measure what a circuit alone preserves.

    Args:
        runs: Under one ablation; the first four rows are enough.
        row: Of the circuit; that of another one measures it in the same way.

    Returns:
        The measures, and which gates are passed.
    """
    full, empty, own = (runs.metric(i) for i in (Trials.FULL, Trials.EMPTY, row))
    right = [runs.right(i) for i in (row, Trials.FULL, Trials.EMPTY)]
    far = runs.kl(Trials.EMPTY)
    found = faithfulness(own, full, empty, **runs.bootstrap)
    able = accuracy(right[1])
    kl = ratio_of_means(runs.kl(row), far, scale=float(far.max()), **runs.bootstrap)
    kept = kept_accuracy(*right, **runs.bootstrap)
    kept_of_model = preservation(*right[:2], **runs.bootstrap)
    mean = found.ratio_of_means
    passed = {
        "able": True if able.low > ABLE else False if able.value <= ABLE else None,
        "informative": True if runs.informative >= LEAST_INFORMATIVE else None,
        "kl": within(kl, high=KL_GATE),
        "faithfulness": within(mean, 1 - FAITHFULNESS_GATE, 1 + FAITHFULNESS_GATE),
        "spread": within(found.within, BAND_GATE),
        "accuracy": _accuracy_gate(right, kept, kept_of_model),
    }
    return Alone(
        match=float(runs.found.match[row].mean()),
        able=able,
        kl=kl,
        faithfulness=found,
        kept=kept,
        preservation=kept_of_model,
        passed=passed,
    )


def _accuracy_gate(right: list[np.ndarray], kept: Estimate, kept_of_model: Estimate) -> bool | None:
    """On what ablation costs; where that is too little to tell, on the model's own accuracy."""
    _, full, empty = right
    if (np.abs(full - empty) > 0.5).sum() < LEAST_INFORMATIVE:
        return within(kept_of_model, ACCURACY_GATE)
    # An empty circuit that is right more often than the model leaves nothing to keep.
    return within(kept, ACCURACY_GATE) if full.mean() > empty.mean() else False


def in_words(found: Alone, runs: Runs) -> str:
    """Describe in a sentence what a circuit alone preserves, and why little can be preserved."""
    if found.passed["able"] is not True:
        return (
            f"the model itself is right on {found.able.value:.0%} of the prompts "
            f"({found.able.low:.0%} at the lower end), too few for a behaviour"
        )
    if found.passed["informative"] is None:
        return too_few(runs)
    f = found.faithfulness
    parts = [
        f"same top token on {found.match:.0%}",
        f"KL {share(found.kl)} of the empty circuit's (gate {KL_GATE:.0%})",
        f"recovers {share(f.ratio_of_means)} of the metric, and {BAND[0]:.0%} to {BAND[1]:.0%} of "
        f"it on {share(f.within)} of the prompts (gate {BAND_GATE:.0%})",
        f"keeps {share(found.kept)} of the accuracy lost by ablating everything (gate "
        f"{ACCURACY_GATE:.0%}); its accuracy is {found.preservation.value:.0%} of the model's",
    ]
    if math.isnan(f.ratio_of_means.value):
        parts[2] = "the metric does not tell the model from the empty circuit"
    if np.isnan(found.kept.value):
        parts[3] = (
            f"its accuracy is {found.preservation.value:.0%} of the model's, and ablating "
            "everything costs none"
        )
    return "; ".join(parts)


def too_few(runs: Runs) -> str:
    """Why nothing is said where ablation changes too few prompts."""
    return (
        f"ablating everything changes the model's answer on {runs.informative} prompts, and "
        f"{LEAST_INFORMATIVE} are the least"
    )


def share(estimate: Estimate) -> str:
    """Format a share with its interval, such as `12% (8% to 15%)`."""
    if math.isnan(estimate.value):
        return "an undefined share"
    if math.isnan(estimate.low):
        return f"{estimate.value:.0%} (no interval)"
    if estimate.high - estimate.low < 5e-3:
        return f"{estimate.value:.0%}"
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"
