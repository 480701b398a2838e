"""Claims that are told beside the verdict and do not decide it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy

from hagd_jax.causal.alike import Draw
from hagd_jax.causal.claim import (
    FAILS,
    HOLDS,
    LEAST_INFORMATIVE,
    ROBUST,
    UNKNOWN,
    Claim,
    Runs,
    nothing,
)
from hagd_jax.causal.gates import alone, in_words, too_few, worst
from hagd_jax.causal.metrics import (
    Estimate,
    accuracy,
    mean_ratio,
    permutation_p,
    ratio_of_means,
)
from hagd_jax.causal.statistics import (
    below,
    equivalence,
    holm,
    independence_p,
    independence_power,
    stability,
    super_additivity,
    worsens,
)
from hagd_jax.causal.trials import MORE, Trials

# Two members that cost so much of the metric more together than one by one are backups.
SHARED = 0.1
# Largest gap between circuit and model, as a share of the metric, with the same part taken out.
GAP = 0.5
# Independence is claimed only of so many prompts that dependence would show this often.
POWER, CORRELATION = 0.8, 0.5
# Least mean Jaccard index of circuits found again.
SAME = 0.5


def completeness(runs: Runs) -> Claim:
    """Test that removing any part hurts circuit and model alike (Wang et al., 2022)."""
    inside, outside = (runs.metric(rows).mean(1) for rows in runs.trials.subsets)
    span = abs(mean_ratio(runs.span, np.ones_like(runs.span), runs.scale))
    if not span > 1e-3 * runs.scale or runs.informative < LEAST_INFORMATIVE:
        says = "the metric does not tell the model from the empty circuit"
        return runs.claim("completeness", None, nothing(), math.nan, says)
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
    good = max(float(gaps.max()), float(chosen)) <= GAP
    return runs.claim("completeness", good, effect, math.nan, says)


def equivalent(runs: Runs) -> Claim:
    """Test that circuit and model win against each other equally often."""
    margin = 0.2
    found = equivalence(runs.metric(Trials.CIRCUIT), runs.metric(Trials.FULL), margin=margin)
    says = f"its metric is above the model's on {found.wins.value:.0%} of the prompts"
    apart = found.wins.low > 0.5 + margin or found.wins.high < 0.5 - margin
    good = True if found.p_value <= runs.alpha else False if apart else None
    if runs.informative < LEAST_INFORMATIVE:
        good, says = None, too_few(runs)  # any circuit would be equal to the model
    return runs.claim("equivalence", good, found.wins, found.p_value, says)


def independent(runs: Runs) -> Claim:
    """Test that the model without the circuit is independent of the model."""
    full, rest = runs.metric(Trials.FULL), runs.metric(Trials.COMPLEMENT)
    if np.ptp(full) <= 1e-3 * runs.scale or len(full) < LEAST_INFORMATIVE:
        # What a correlation would be of is rounding, which other devices round in another way.
        says = "the model's metric is the same on all prompts, or there are too few"
        return runs.claim("independence", None, nothing(), math.nan, says)
    effect = Estimate(_correlation(full, rest, 1e-6 * runs.scale), math.nan, math.nan)
    if runs.informative < LEAST_INFORMATIVE:
        return runs.claim("independence", None, effect, math.nan, too_few(runs))
    p, power = independence_p(full, rest, seed=runs.seed), independence_power(len(full), runs.alpha)
    says = (
        "permutation test (HSIC) between the metric of the model and that of the model without "
        f"the circuit; their correlation is {effect.value:.2f}; on this many prompts the test's "
        f"power to find a Gaussian correlation of {CORRELATION} is {power:.0%} ({POWER:.0%} is "
        "required)"
    )
    # Dependence that was found needs no power; independence does.
    good = False if p <= runs.alpha else True if power >= POWER else None
    return runs.claim("independence", good, effect, p, says)


def additive(runs: Runs) -> Claim:
    """Test that members are not redundant: no two cost more together than one by one."""
    trials, full = runs.trials, runs.metric(Trials.FULL)
    apart = full - runs.metric(trials.alone)
    joint = full - runs.metric(trials.pairs)
    span = float(runs.span.mean())
    if not len(joint) or abs(span) <= 1e-3 * runs.scale or runs.informative < LEAST_INFORMATIVE:
        says = "fewer than two members, or ablation changes too few prompts"
        return runs.claim("additivity", None, nothing(), math.nan, says)
    single = apart[trials.paired]
    more = np.array([super_additivity(*pair) for pair in zip(joint, single, strict=True)]) / span
    p_values = holm([worsens(row, 0 * row) for row in np.sign(span) * more])
    backed_up = (p_values <= runs.alpha) & (more.mean(1) > SHARED)
    # Of every pair it has to be shown that it hides less than what counts.
    cleared = np.array([below(row, SHARED) for row in more]) <= runs.alpha
    first = int(more.mean(1).argmax())
    effect = ratio_of_means(more[first], np.ones_like(runs.span), **runs.bootstrap)
    says = (
        f"{backed_up.sum()} of {len(joint)} pairs of members stand in for each other: ablating "
        f"both costs more than the sum of ablating each, by over {SHARED:.0%} of the metric; the "
        f"largest excess is {effect.value:.0%}"
    )
    good = False if backed_up.any() else True if cleared.all() else None
    return runs.claim("additivity", good, effect, float(p_values[first]), says)


def robust(runs: Runs) -> Claim:
    """Test that the circuit is a list of parts, not a tuned set: random others do not harm it.

    A circuit whose members were balanced against each other loses its behaviour as soon as other
    nodes are active, too; a circuit that carries the behaviour does not mind them.

    Args:
        runs: With the supersets.

    Returns:
        The claim: the share of supersets that pass the gates of sufficiency, with its
        Clopper–Pearson interval. It fails if one of them fails a gate.
    """
    rows, own = runs.trials.supersets, alone(runs)
    if not runs.ran(rows):
        return runs.cut_short(ROBUST, True, nothing(), "", "supersets")
    if rows.stop == rows.start or own.good is not True:
        says = "no supersets were drawn" if own.good else "the circuit itself does not pass"
        return runs.claim(ROBUST, None, nothing(), math.nan, says)
    passed = [alone(runs, row).good for row in range(rows.start, rows.stop)]
    effect = accuracy(np.array([good is True for good in passed]))
    says = (
        f"of {len(passed)} supersets with a random {MORE:.0%} of the nodes outside, "
        f"{passed.count(True)} pass the gates of sufficiency, {passed.count(False)} fail one, and "
        f"{passed.count(None)} are undecided on these prompts"
    )
    return runs.claim(ROBUST, worst(passed), effect, math.nan, says)


# Of each ablation.
BESIDE = (completeness, equivalent, independent, additive, robust)


def specificity(own: Runs, others: dict[str, Runs]) -> Claim:
    """Test that the model's other tasks lose less than half as much without the circuit.

    Args:
        own: Of the circuit's task.
        others: Of other tasks, by name; rows are model, empty circuit, circuit and complement.

    Returns:
        The claim; its p-value is Mann and Whitney's, of losses prompt by prompt.
    """
    losses = {name: _lost(runs) for name, runs in others.items()}
    mine, theirs = _lost(own), np.concatenate(list(losses.values()))
    found: Any = scipy.stats.mannwhitneyu(mine, theirs, alternative="greater")
    means = {name: float(loss.mean()) for name, loss in losses.items()}
    effect = Estimate(float(theirs.mean()), min(means.values()), max(means.values()))
    says = (
        f"ablating the circuit costs {mine.mean():.0%} of its own task's metric, and "
        + ", ".join(f"{mean:.0%} of that of {name}" for name, mean in means.items())
    )
    # A task on which ablation changes nothing would lose nothing without any circuit.
    few = {name: runs for name, runs in others.items() if runs.informative < LEAST_INFORMATIVE}
    told = [mean for name, mean in means.items() if name not in few]
    if own.informative < LEAST_INFORMATIVE or not told:
        good = None
    elif max(told) > 0.5 * mine.mean():
        good = False
    else:
        good = True if found.pvalue <= own.alpha and not few else None
    says += "".join(f"; of {name}, {too_few(runs)}" for name, runs in few.items())
    return own.claim("specificity", good, effect, float(found.pvalue), says)


def control(runs: Runs) -> Claim:
    """Test that the circuit is rejected on a model whose weights were permuted.

    If the permuted model does not have the behaviour, or ablation does not change what it does, no
    circuit could pass there: the test could not have failed, and it says nothing.

    Args:
        runs: Of the permuted model.

    Returns:
        The claim; its effect is the circuit's faithfulness to the permuted model.
    """
    found = alone(runs)
    possible = found.passed["able"] is not False and found.passed["informative"] is True
    good = not found.good if possible and found.good is not None else None
    says = f"weights permuted: {in_words(found, runs)}"
    if not possible:
        says += "; no circuit could pass there, so the control does not count"
    effect = found.faithfulness.ratio_of_means
    return runs.claim("negative control", good, effect, math.nan, says)


def stable(
    circuit: set[Any], again: list[set[Any]], draws: Sequence[Draw], *, alpha: float, seed: int
) -> Claim:
    """Test that searches with other seeds or prompts find the same nodes.

    Args:
        circuit: Its nodes.
        again: Those of circuits found again.
        draws: What draws random circuits of the same make-up, for the circuit and for each of
            those: nodes that come in whole units are shared in whole units by chance, too.
        alpha: Level of the test against them.
        seed: Of the draws.

    Returns:
        The claim: mean Jaccard of all pairs, with the middle 95% of pairs. No verdict if there is
        no circuit that was found again.
    """
    if not again:
        says = "all circuits to compare it with are copies of it"
        return Claim("stability", UNKNOWN, nothing(), math.nan, "", "", says)
    effect = stability([circuit, *again])
    rng = np.random.default_rng(seed)
    null = [
        stability([set(draw(rng)) for draw in draws]) for _ in range(max(99, math.ceil(1 / alpha)))
    ]
    p = permutation_p(effect.value, np.array([found.value for found in null]))
    says = (
        f"{1 + len(again)} circuits share {effect.value:.0%} of their nodes, as a mean over pairs"
    )
    verdict = HOLDS if effect.value >= SAME and p <= alpha else FAILS
    return Claim("stability", verdict, effect, p, "", "", says)


def _lost(runs: Runs) -> np.ndarray:
    """(N,) what the model loses without the circuit, as shares of its mean span."""
    span = float(runs.span.mean())
    lost = runs.metric(Trials.FULL) - runs.metric(Trials.COMPLEMENT)
    return lost / (span if abs(span) > 1e-12 else 1e-12)


def _correlation(x: np.ndarray, y: np.ndarray, least: float) -> float:
    """The correlation; 0 where either varies by no more than rounding."""
    return float(np.corrcoef(x, y)[0, 1]) if min(x.std(), y.std()) > least else 0.0
