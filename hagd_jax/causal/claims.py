"""What is claimed of a circuit, and what the data say of each claim."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from hagd_jax.causal.ablation import Behaviour
from hagd_jax.causal.evaluate import ACCURACY_GATE, KL_GATE
from hagd_jax.causal.metrics import Estimate, mean_ratio, permutation_p, ratio_of_means
from hagd_jax.causal.statistics import equivalence, holm, independence_p, worsens

# As far as this from 1, a circuit leaves out what does the work, or what holds it back.
FAITHFULNESS_GATE = 0.3
HOLDS, FAILS, UNKNOWN = "holds", "fails", "not enough data"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim under one ablation.

    Attributes:
        name: Such as `sufficiency`.
        verdict: `holds`, `fails` or `not enough data`.
        effect: What was measured, with its interval where it has one.
        p_value: Of the data if the claim were false; for independence, if it were true. NaN where
            there is no test.
        ablation: What the ablated nodes were set to.
        split: Which prompts.
        says: What that means, in a sentence.
    """

    name: str
    verdict: str
    effect: Estimate
    p_value: float
    ablation: str
    split: str
    says: str

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not a number becomes None."""
        record = dataclasses.asdict(self) | {"effect": self.effect._asdict()}
        plain = lambda x: None if isinstance(x, float) and not math.isfinite(x) else x  # noqa: E731
        record["effect"] = {key: plain(value) for key, value in record["effect"].items()}
        return {key: plain(value) for key, value in record.items()}


@dataclasses.dataclass(frozen=True)
class Runs:
    """Which row of a `Behaviour` is which run; all under one ablation.

    Attributes:
        found: (K, N) of everything.
        controls: Rows of random circuits.
        without_others: Rows of the model without as many random nodes of the complement.
        without_member: Rows of the circuit without one member each.
        subsets: Rows of the circuit without a random part, and of the model without it.
        members: How many members the circuit has; those tested may be fewer.
        alpha: Level of every test.
        ablation: Which.
        split: Which.
        seed: Of bootstraps and permutations.
    """

    found: Behaviour
    controls: slice
    without_others: slice
    without_member: slice
    subsets: tuple[slice, slice]
    members: int
    alpha: float
    ablation: str
    split: str
    seed: int

    FULL, EMPTY, CIRCUIT, COMPLEMENT = range(4)

    def metric(self, rows: Any) -> np.ndarray:
        """Logit differences of some rows."""
        return np.asarray(self.found.metric[rows], np.float64)

    def kl(self, rows: Any) -> np.ndarray:
        """Distances from the model of some rows."""
        return np.asarray(self.found.kl[rows], np.float64)

    @property
    def span(self) -> np.ndarray:
        """(N,) m(M) − m(∅)."""
        return self.metric(self.FULL) - self.metric(self.EMPTY)

    @property
    def scale(self) -> float:
        """Of the metric: a denominator far below it says nothing."""
        return float(np.abs(self.metric(slice(0, 2))).max())

    def claim(self, name: str, good: bool | None, effect: Estimate, p: float, says: str) -> Claim:
        """A claim; `None` is no verdict."""
        verdict = UNKNOWN if good is None else HOLDS if good else FAILS
        return Claim(name, verdict, effect, p, self.ablation, self.split, says)


def sufficiency(runs: Runs) -> Claim:
    """The circuit alone does what the model does, and random circuits of its size do not."""
    gain = runs.metric(runs.CIRCUIT) - runs.metric(runs.EMPTY)
    effect = ratio_of_means(gain, runs.span, scale=runs.scale, seed=runs.seed)
    right = runs.found.correct[[runs.FULL, runs.CIRCUIT]].mean(1)
    distance = {row: float(runs.kl(row).mean()) for row in (runs.CIRCUIT, runs.EMPTY)}
    accurate = right[1] >= ACCURACY_GATE * right[0] > 0
    close = distance[runs.CIRCUIT] <= KL_GATE * distance[runs.EMPTY]
    # By the distance from the model: a control that overshoots the metric is not faithful.
    p = permutation_p(-distance[runs.CIRCUIT], -runs.kl(runs.controls).mean(1))
    undefined = math.isnan(effect.value)
    faithful = abs(1 - effect.value) <= FAITHFULNESS_GATE
    good = _beats(bool(accurate and close and faithful), p, runs.controls, runs.alpha)
    says = (
        f"recovers {effect.value:.0%} of the metric; right on {right[1]:.0%}, the model on "
        f"{right[0]:.0%}; KL {distance[runs.CIRCUIT]:.3g}, of the empty circuit "
        f"{distance[runs.EMPTY]:.3g}"
    )
    if undefined:
        return runs.claim("sufficiency", False, effect, p, "the metric does not tell model from "
                          "empty circuit")  # fmt: skip
    return runs.claim("sufficiency", good, effect, p, says)


def necessity(runs: Runs) -> Claim:
    """Without the circuit the model loses the behaviour; without other nodes it does not."""
    lost = runs.metric(runs.FULL) - runs.metric(runs.COMPLEMENT)
    effect = ratio_of_means(lost, runs.span, scale=runs.scale, seed=runs.seed)
    others = [
        mean_ratio(runs.metric(runs.FULL) - row, runs.span, runs.scale)
        for row in runs.metric(runs.without_others)
    ]
    p = permutation_p(effect.value, np.array(others))
    good = _beats(effect.value >= 0.5, p, runs.without_others, runs.alpha)
    says = f"without it {effect.value:.0%} of the metric is lost"
    return runs.claim("necessity", good, effect, p, says)


def minimality(runs: Runs) -> Claim:
    """Every member is needed: without it the circuit is further from the model (Holm-corrected)."""
    rows = runs.kl(runs.without_member)
    base = runs.kl(runs.CIRCUIT)
    p_values = holm([worsens(row, base) for row in rows])
    idle = int((p_values > runs.alpha).sum())
    tested = len(p_values)
    effect = Estimate(idle / max(tested, 1), math.nan, math.nan)
    worst = float(p_values.max()) if tested else math.nan
    # The smallest p-value of a signed-rank test, times the number of tests.
    possible = tested * 0.5 ** rows.shape[1] <= runs.alpha if tested else False
    says = f"{idle} of {tested} members tested could be left out; it has {runs.members}"
    good = None if not possible else idle == 0
    return runs.claim("minimality", good, effect, worst, says)


def completeness(runs: Runs) -> Claim:
    """Whatever part is taken out, circuit and model suffer alike (Wang et al., 2022)."""
    inside, outside = (runs.metric(rows) for rows in runs.subsets)
    span = float(runs.span.mean())
    gaps = np.abs(inside.mean(1) - outside.mean(1)) / max(abs(span), 1e-12)
    effect = Estimate(
        float(gaps.mean()), float(np.quantile(gaps, 0.025)), float(np.quantile(gaps, 0.975))
    )
    largest = float(gaps.max())
    says = (
        f"with random parts taken out, circuit and model differ by {effect.value:.0%} of the "
        f"metric on average, {largest:.0%} at most"
    )
    return runs.claim("completeness", bool(largest <= 0.5), effect, math.nan, says)


def equivalent(runs: Runs) -> Claim:
    """Circuit and model win against each other equally often."""
    found = equivalence(runs.metric(runs.CIRCUIT), runs.metric(runs.FULL))
    says = f"its metric is above the model's on {found.wins.value:.0%} of the prompts"
    least = equivalence(np.zeros(runs.span.shape), np.zeros(runs.span.shape)).p_value
    good = found.p_value <= runs.alpha
    enough = least <= runs.alpha
    return runs.claim("equivalence", good if enough else None, found.wins, found.p_value, says)


def independent(runs: Runs) -> Claim:
    """What is left without the circuit tells nothing of what the model does."""
    full, rest = runs.metric(runs.FULL), runs.metric(runs.COMPLEMENT)
    effect = Estimate(_correlation(full, rest), math.nan, math.nan)
    if len(full) < 20:
        return runs.claim("independence", None, effect, math.nan, "fewer than 20 prompts")
    p = independence_p(full, rest, seed=runs.seed)
    says = f"HSIC, 999 permutations; the two correlate by {effect.value:.2f}"
    return runs.claim("independence", p > runs.alpha, effect, p, says)


TESTS = (sufficiency, necessity, minimality, completeness, equivalent, independent)
# What a circuit must pass to be accepted; the others are told beside them.
CORE = ("sufficiency", "necessity", "minimality")


def _beats(good: bool, p: float, controls: slice, alpha: float) -> bool | None:
    """Whether it is good, and better than controls; None if they are too few to tell."""
    enough = 1 / (1 + controls.stop - controls.start) <= alpha
    if not good or enough:
        return good and p <= alpha
    return None


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0
