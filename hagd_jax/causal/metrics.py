"""What is measured of a circuit: pure functions over per-prompt numbers.

m(C) is the metric with everything outside C ablated, M the whole model, ∅ the empty circuit.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

from hagd_jax.errors import InputError

# Below this share of the metric's own scale a denominator says nothing.
DENOMINATOR_FLOOR = 1e-3


class Estimate(NamedTuple):
    """A number with its 95% interval.

    Attributes:
        value: The estimate; NaN when it is not defined.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


class Faithfulness(NamedTuple):
    """(m(C) − m(∅)) / (m(M) − m(∅)), in both averages.

    Attributes:
        ratio_of_means: Of the mean metrics, with a bootstrap interval over prompts.
        mean_of_ratios: Mean over the valid prompts of each prompt's own ratio.
        median: Median of the prompts' ratios.
        lower_quartile: 25th percentile.
        upper_quartile: 75th percentile.
        worst_decile: 10th percentile.
        invalid: Share of prompts whose denominator is too near zero to divide by.
    """

    ratio_of_means: Estimate
    mean_of_ratios: float
    median: float
    lower_quartile: float
    upper_quartile: float
    worst_decile: float
    invalid: float


def faithfulness(
    circuit: np.ndarray, full: np.ndarray, empty: np.ndarray, *, seed: int = 0
) -> Faithfulness:
    """How much of the behaviour a circuit recovers; 1 is all of it, 0 none.

    Args:
        circuit: (N,) the metric m(C) on each prompt.
        full: (N,) m(M).
        empty: (N,) m(∅).
        seed: Of the bootstrap.

    Returns:
        Both averages; NaN where every denominator vanishes.

    Raises:
        InputError: If shapes differ, or there are no prompts.

    Example:
        >>> one, zero = np.ones(4), np.zeros(4)
        >>> faithfulness(one / 2, one, zero).ratio_of_means.value
        0.5
    """
    circuit, full, empty = _aligned(circuit, full, empty)
    denominator = full - empty
    scale = max(np.abs(full).max(), np.abs(empty).max(), 1e-12)
    valid = np.abs(denominator) > DENOMINATOR_FLOOR * scale
    ratios = (circuit - empty)[valid] / denominator[valid]
    if valid.any():
        median, lower, upper, worst = (
            float(x) for x in np.quantile(ratios, [0.5, 0.25, 0.75, 0.1])
        )
    else:
        median = lower = upper = worst = float("nan")
    return Faithfulness(
        ratio_of_means(circuit - empty, denominator, scale=scale, seed=seed),
        float(ratios.mean()) if valid.any() else float("nan"),
        median,
        lower,
        upper,
        worst,
        float(1 - valid.mean()),
    )


def ratio_of_means(
    numerator: np.ndarray, denominator: np.ndarray, *, scale: float = 1.0, seed: int = 0
) -> Estimate:
    """Mean over mean, with a percentile bootstrap over prompts.

    Args:
        numerator: (N,) per prompt.
        denominator: (N,) per prompt, paired with it.
        scale: The size of a typical value: a mean denominator below a thousandth of it makes
            the ratio undefined.
        seed: Of the bootstrap.

    Returns:
        The ratio and its 95% interval, over the resamples that have a ratio; NaN where it is
        not defined.
    """
    numerator, denominator = _aligned(numerator, denominator)
    value = mean_ratio(numerator, denominator, scale)
    if np.isnan(value) or len(numerator) < 2:
        return Estimate(value, float("nan"), float("nan"))

    def statistic(top: np.ndarray, bottom: np.ndarray, axis: int = -1) -> np.ndarray:
        bottom = bottom.mean(axis)
        return np.divide(
            top.mean(axis), bottom, out=np.full_like(bottom, np.nan), where=bottom != 0
        )

    with warnings.catch_warnings():
        # A resample without a single right answer has no ratio; the others still have quantiles.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn = stats.bootstrap(
            (numerator, denominator),
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=1999,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def mean_ratio(numerator: np.ndarray, denominator: np.ndarray, scale: float = 1.0) -> float:
    """Mean over mean, without an interval; arguments as in `ratio_of_means`.

    Returns:
        The ratio; NaN if the mean denominator is below a thousandth of `scale`.
    """
    bottom = float(np.mean(denominator))
    if abs(bottom) <= DENOMINATOR_FLOOR * scale:
        return float("nan")
    return float(np.mean(numerator)) / bottom


def accuracy(correct: np.ndarray) -> Estimate:
    """Share of correct answers with its Clopper–Pearson interval.

    Args:
        correct: (N,) booleans.

    Returns:
        The share and its exact 95% interval.
    """
    (correct,) = _aligned(correct)
    k, n = int(correct.sum()), len(correct)
    interval = stats.binomtest(k, n).proportion_ci(method="exact")
    return Estimate(k / n, float(interval.low), float(interval.high))


def preservation(circuit: np.ndarray, full: np.ndarray, *, seed: int = 0) -> Estimate:
    """Behavioural preservation: accuracy(C) / accuracy(M).

    Args:
        circuit: (N,) booleans, correct with the circuit alone.
        full: (N,) booleans, correct with the whole model.
        seed: Of the bootstrap.

    Returns:
        The ratio; NaN for a model that is never right.
    """
    return ratio_of_means(circuit.astype(float), full.astype(float), seed=seed)


def permutation_p(observed: float, null: np.ndarray) -> float:
    """One-sided p-value (1 + k) / (1 + n), k being how many of n controls do as well.

    Args:
        observed: The circuit's value.
        null: (n,) the controls' values.

    Returns:
        The p-value; 1/(1 + n) at best. What is not defined never speaks for the circuit: a NaN
        control does as well as it, and with a NaN of its own the p-value is 1.

    Example:
        >>> permutation_p(1.0, np.zeros(9))
        0.1
    """
    return float((1 + np.sum(~(np.asarray(null) < observed))) / (1 + len(null)))


def auroc(scores: np.ndarray, members: np.ndarray) -> float:
    """Area under the ROC curve: how often a member scores above what is none; ties count half.

    Args:
        scores: (n,) of nodes or edges.
        members: (n,) booleans, whether each is in the true circuit.

    Returns:
        0.5 for scores that say nothing, 1 for those that put all members first.

    Raises:
        InputError: If all are members, or none, or a score is not a number.

    Example:
        >>> auroc(np.array([0.9, 0.5, 0.1]), np.array([True, False, False]))
        1.0
    """
    scores, members = np.asarray(scores, np.float64), np.asarray(members, bool)
    if scores.shape != members.shape or not 0 < members.sum() < members.size:
        raise InputError(
            "members", got=f"{members.sum()} of {members.size} (scores {scores.shape})",
            expected="some and not all of as many scores",
        )  # fmt: skip
    if np.isnan(scores).any():
        raise InputError("scores", got="NaN", expected="numbers")
    ranks = stats.rankdata(scores)
    inside, outside = members.sum(), members.size - members.sum()
    above = ranks[members].sum() - inside * (inside + 1) / 2
    return float(above / (inside * outside))


def _aligned(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    arrays = tuple(np.asarray(a, np.float64) for a in arrays)
    if arrays[0].ndim != 1 or not len(arrays[0]) or len({a.shape for a in arrays}) != 1:
        raise InputError(
            "metric values",
            got=f"shapes {[a.shape for a in arrays]}",
            expected="one value for each of at least one prompt",
        )
    return arrays
