"""What is claimed of a circuit, and what the data say of each claim."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import stats

from hagd_jax.brief import one_line
from hagd_jax.causal.ablation import Behaviour
from hagd_jax.causal.evaluate import ABLE, ACCURACY_GATE, KL_GATE
from hagd_jax.causal.metrics import (
    Estimate,
    accuracy,
    mean_ratio,
    permutation_p,
    ratio_of_means,
)
from hagd_jax.causal.statistics import (
    equivalence,
    holm,
    independence_p,
    stability,
    super_additivity,
    worsens,
)
from hagd_jax.causal.trials import Trials

# As far as this from 1, a circuit leaves out what does the work, or what holds it back.
FAITHFULNESS_GATE = 0.3
# Two members that cost so much of the metric more together than one by one are backups.
SHARED = 0.1
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
        ablation: What the ablated nodes were set to; empty where nothing was ablated.
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
        return plain(record)


def plain(value: Any) -> Any:
    """Values as JSON has them: arrays become lists, and what is not a number becomes None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclasses.dataclass(frozen=True)
class Runs:
    """Which row of a `Behaviour` is which run; all under one ablation.

    Attributes:
        found: (K, N) of everything.
        trials: What the rows are.
        members: How many members the circuit has; those tested may be fewer.
        alpha: Level of every test.
        ablation: Which.
        split: Which.
        seed: Of bootstraps and permutations.
        greedy: (S, 2) metric of circuit and model without the parts that tell them apart most.
    """

    found: Behaviour
    trials: Trials
    members: int
    alpha: float
    ablation: str
    split: str
    seed: int
    greedy: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))

    __repr__ = one_line

    def metric(self, rows: Any) -> np.ndarray:
        """The task's metric of some rows."""
        return np.asarray(self.found.metric[rows], np.float64)

    def kl(self, rows: Any) -> np.ndarray:
        """Distances from the model of some rows."""
        return np.asarray(self.found.kl[rows], np.float64)

    @property
    def span(self) -> np.ndarray:
        """(N,) m(M) − m(∅)."""
        return self.metric(Trials.FULL) - self.metric(Trials.EMPTY)

    @property
    def scale(self) -> float:
        """Of the metric: a denominator far below it says nothing."""
        return float(np.abs(self.metric(slice(0, 2))).max())

    def claim(self, name: str, good: bool | None, effect: Estimate, p: float, says: str) -> Claim:
        """A claim; `None` is no verdict."""
        verdict = UNKNOWN if good is None else HOLDS if good else FAILS
        return Claim(name, verdict, effect, p, self.ablation, self.split, says)


def passes_gates(runs: Runs) -> tuple[bool, Estimate, str]:
    """Whether a circuit alone keeps accuracy, distance and metric; with what was seen."""
    gain = runs.metric(Trials.CIRCUIT) - runs.metric(Trials.EMPTY)
    effect = ratio_of_means(gain, runs.span, scale=runs.scale, seed=runs.seed)
    right = runs.found.correct[[Trials.FULL, Trials.CIRCUIT]].mean(1)
    own, empty = (float(runs.kl(row).mean()) for row in (Trials.CIRCUIT, Trials.EMPTY))
    if math.isnan(effect.value):
        return False, effect, "the metric does not tell model from empty circuit"
    able = accuracy(runs.found.correct[Trials.FULL] > 0.5)
    if not able.low > ABLE:
        says = f"the model itself is right on {able.value:.0%} alone, too few for a behaviour"
        return False, effect, says
    good = right[1] >= ACCURACY_GATE * right[0] and own <= KL_GATE * empty
    says = (
        f"recovers {effect.value:.0%} of the metric; right on {right[1]:.0%}, the model on "
        f"{right[0]:.0%}; KL {own:.3g}, of the empty circuit {empty:.3g}"
    )
    return bool(good and abs(1 - effect.value) <= FAITHFULNESS_GATE), effect, says


def sufficiency(runs: Runs) -> Claim:
    """The circuit alone does what the model does, and random circuits of its size do not."""
    passed, effect, says = passes_gates(runs)
    # By the distance from the model: a control that overshoots the metric is not faithful.
    controls = -runs.kl(runs.trials.controls).mean(1)
    p = permutation_p(-float(runs.kl(Trials.CIRCUIT).mean()), controls)
    return runs.claim("sufficiency", _beats(passed, p, len(controls), runs.alpha), effect, p, says)


def necessity(runs: Runs) -> Claim:
    """Without the circuit the model loses the behaviour; without other nodes it does not."""
    lost = runs.metric(Trials.FULL) - runs.metric(Trials.COMPLEMENT)
    effect = ratio_of_means(lost, runs.span, scale=runs.scale, seed=runs.seed)
    others = [
        mean_ratio(runs.metric(Trials.FULL) - row, runs.span, runs.scale)
        for row in runs.metric(runs.trials.without_others)
    ]
    p = permutation_p(effect.value, np.array(others))
    good = _beats(effect.value >= 0.5, p, len(others), runs.alpha)
    says = f"without it {effect.value:.0%} of the metric is lost"
    return runs.claim("necessity", good, effect, p, says)


def member_p_values(runs: Runs) -> np.ndarray:
    """Of each member tested: "the circuit is no further from the model without it", Holm's."""
    base = runs.kl(Trials.CIRCUIT)
    return holm([worsens(row, base) for row in runs.kl(runs.trials.without_member)])


def minimality(runs: Runs) -> Claim:
    """Every member is needed: without it the circuit is further from the model (Holm-corrected)."""
    p_values = member_p_values(runs)
    idle = int((p_values > runs.alpha).sum())
    tested = len(p_values)
    effect = Estimate(idle / max(tested, 1), math.nan, math.nan)
    worst = float(p_values.max()) if tested else math.nan
    # The smallest p-value of a signed-rank test, times the number of tests.
    possible = tested > 0 and tested * 0.5 ** len(runs.span) <= runs.alpha
    says = f"{idle} of {tested} members tested could be left out; it has {runs.members}"
    return runs.claim("minimality", idle == 0 if possible else None, effect, worst, says)


def completeness(runs: Runs) -> Claim:
    """Whatever part is taken out, circuit and model suffer alike (Wang et al., 2022)."""
    inside, outside = (runs.metric(rows).mean(1) for rows in runs.trials.subsets)
    span = max(abs(float(runs.span.mean())), 1e-12)
    gaps = np.abs(inside - outside) / span
    chosen = np.abs(np.subtract(*runs.greedy.T)).max() / span if len(runs.greedy) else 0.0
    effect = Estimate(
        float(gaps.mean()), float(np.quantile(gaps, 0.025)), float(np.quantile(gaps, 0.975))
    )
    says = (
        f"with random parts taken out, circuit and model differ by {effect.value:.0%} of the "
        f"metric on average, {gaps.max():.0%} at most; with parts chosen to tell them apart, "
        f"{chosen:.0%}"
    )
    good = max(float(gaps.max()), float(chosen)) <= 0.5
    return runs.claim("completeness", good, effect, math.nan, says)


def equivalent(runs: Runs) -> Claim:
    """Circuit and model win against each other equally often."""
    found = equivalence(runs.metric(Trials.CIRCUIT), runs.metric(Trials.FULL))
    says = f"its metric is above the model's on {found.wins.value:.0%} of the prompts"
    least = equivalence(np.zeros(runs.span.shape), np.zeros(runs.span.shape)).p_value
    good = found.p_value <= runs.alpha
    enough = least <= runs.alpha
    return runs.claim("equivalence", good if enough else None, found.wins, found.p_value, says)


def independent(runs: Runs) -> Claim:
    """What is left without the circuit tells nothing of what the model does."""
    full, rest = runs.metric(Trials.FULL), runs.metric(Trials.COMPLEMENT)
    effect = Estimate(_correlation(full, rest), math.nan, math.nan)
    if len(full) < 20:
        return runs.claim("independence", None, effect, math.nan, "fewer than 20 prompts")
    p = independence_p(full, rest, seed=runs.seed)
    says = f"HSIC, 999 permutations; the two correlate by {effect.value:.2f}"
    return runs.claim("independence", p > runs.alpha, effect, p, says)


def additive(runs: Runs) -> Claim:
    """Members do not stand in for each other: no two cost more together than one by one."""
    trials, full = runs.trials, runs.metric(Trials.FULL)
    alone = full - runs.metric(trials.alone)
    joint = full - runs.metric(trials.pairs)
    if not len(joint):
        nothing = Estimate(math.nan, math.nan, math.nan)
        return runs.claim("additivity", None, nothing, math.nan, "fewer than two members")
    single = alone[trials.paired]
    more = np.array([super_additivity(*pair) for pair in zip(joint, single, strict=True)])
    p_values = holm([worsens(a, b) for a, b in zip(joint, single.sum(1), strict=True)])
    shares = np.array([mean_ratio(row, runs.span, runs.scale) for row in more])
    backed_up = (p_values <= runs.alpha) & (shares > SHARED)
    worst = int(np.nanargmax(np.where(np.isnan(shares), -np.inf, shares)))
    effect = ratio_of_means(more[worst], runs.span, scale=runs.scale, seed=runs.seed)
    says = (
        f"{backed_up.sum()} of {len(joint)} pairs taken out of the model cost together what they "
        f"do not cost one by one; at most {effect.value:.0%} of the metric"
    )
    enough = len(joint) * 0.5 ** len(full) <= runs.alpha
    good = not backed_up.any() if enough else None
    return runs.claim("additivity", good, effect, float(p_values[worst]), says)


TESTS = (sufficiency, necessity, minimality, completeness, equivalent, independent, additive)
# What a circuit must pass to be accepted; the others are told beside them.
CORE = ("sufficiency", "necessity", "minimality")


def specificity(own: Runs, others: dict[str, Runs]) -> Claim:
    """Other tasks of the model do not need the circuit: less than half as much is lost of them.

    Args:
        own: Of the circuit's task.
        others: Of other tasks, by name; rows are model, empty circuit, circuit and complement.

    Returns:
        The claim; its p-value is Mann and Whitney's, of losses prompt by prompt.
    """
    losses = {name: _lost(runs) for name, runs in others.items()}
    mine, theirs = _lost(own), np.concatenate(list(losses.values()))
    found: Any = stats.mannwhitneyu(mine, theirs, alternative="greater")
    means = {name: float(loss.mean()) for name, loss in losses.items()}
    effect = Estimate(float(theirs.mean()), min(means.values()), max(means.values()))
    says = f"without it {mine.mean():.0%} of the metric is lost, and of " + ", ".join(
        f"{name} {mean:.0%}" for name, mean in means.items()
    )
    good = found.pvalue <= own.alpha and max(means.values()) <= 0.5 * mine.mean()
    return own.claim("specificity", bool(good), effect, float(found.pvalue), says)


def control(runs: Runs) -> Claim:
    """On a model whose weights were permuted, the circuit does not pass: there is no behaviour."""
    passed, effect, says = passes_gates(runs)
    return runs.claim("negative control", not passed, effect, math.nan, f"weights permuted: {says}")


def stable(circuit: set[Any], again: list[set[Any]], universe: int, split: str, seed: int) -> Claim:
    """Found again with other seeds or prompts, the circuit has the same members.

    Args:
        circuit: Its members.
        again: Those of circuits found again.
        universe: How many members there could be.
        split: Which prompts all of them were found on.
        seed: Of the random circuits of the same sizes that chance is told by.

    Returns:
        The claim: mean Jaccard of all pairs, with the middle 95% of pairs.
    """
    effect = stability([circuit, *again])
    rng = np.random.default_rng(seed)
    null = [
        stability([set(rng.choice(universe, len(one), replace=False)) for one in (circuit, *again)])
        for _ in range(99)
    ]
    p = permutation_p(effect.value, np.array([found.value for found in null]))
    says = f"{1 + len(again)} circuits share {effect.value:.0%} of their members, pair by pair"
    verdict = HOLDS if effect.value >= 0.5 and p <= 0.05 else FAILS
    return Claim("stability", verdict, effect, p, "", split, says)


def _lost(runs: Runs) -> np.ndarray:
    """(N,) what the model loses without the circuit, as shares of its mean span."""
    span = float(runs.span.mean())
    lost = runs.metric(Trials.FULL) - runs.metric(Trials.COMPLEMENT)
    return lost / (span if abs(span) > 1e-12 else 1e-12)


def _beats(good: bool, p: float, controls: int, alpha: float) -> bool | None:
    """Whether it is good, and better than controls; None if they are too few to tell."""
    enough = 1 / (1 + controls) <= alpha
    if not good or enough:
        return good and p <= alpha
    return None


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0
