"""Tests of what is claimed of a circuit: pure functions over per-prompt numbers, by SciPy.

m is the metric, C the circuit, M the model, M∖C the model without the circuit. A test says how
surprising the data would be if the claim were false; it never passes for lack of data.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from hagd_jax.causal.metrics import Estimate, permutation_p
from hagd_jax.errors import InputError, shown

# Shares of all nodes at which faithfulness is integrated (Mueller et al., 2025, arXiv:2504.13151).
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Areas(NamedTuple):
    """Areas are faithfulness f integrated over circuit size.

    Attributes:
        cpr: ∫ f, the circuit performance ratio; it has no upper bound, as f has none.
        cmd: ∫ |1 − f|, the circuit-model distance; 0 is best, and overshooting counts against it.
    """

    cpr: float
    cmd: float


def areas(shares: Sequence[float], faithfulness: Sequence[float]) -> Areas:
    """Integrate faithfulness over linear circuit size with the trapezoid rule.

    Args:
        shares: Rising sizes as shares of all nodes, usually `SIZES`.
        faithfulness: At each of them.

    Returns:
        Both areas.

    Raises:
        InputError: If shares do not rise, or there are not as many values.

    Example:
        >>> areas([0.0, 0.5, 1.0], [0.0, 1.0, 1.0])
        Areas(cpr=0.75, cmd=0.25)
    """
    x, f = _numbers("shares", shares), _numbers("faithfulness", faithfulness)
    if x.shape != f.shape or x.ndim != 1 or len(x) < 2 or (np.diff(x) <= 0).any():
        raise InputError(
            "sizes of circuits", got=f"{x.shape} shares, {f.shape} values", expected="rising shares"
        )
    return Areas(float(np.trapezoid(f, x)), float(np.trapezoid(np.abs(1 - f), x)))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Correct p-values for multiple tests (Holm, 1979).

    Args:
        p_values: (n,).

    Returns:
        (n,) in the same order; at most 1.

    Raises:
        InputError: If they are no row of numbers.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    p = _row("p_values", p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def worsens(without: np.ndarray, within: np.ndarray, *, least: float = 1e-6) -> float:
    """Test by a one-sided Wilcoxon signed-rank test whether leaving something out hurts.

    Prompts on which it makes no difference say nothing, and are left out.

    Args:
        without: (N,) a distance from the model, such as KL, when it is left out.
        within: (N,) the same distance when it is there.
        least: Differences up to this are rounding.

    Returns:
        The p-value of "it makes no difference, or is better without"; 1 if nothing changes.

    Example:
        >>> worsens(np.ones(8), np.zeros(8)) < 0.01
        True
    """
    difference = _row("without", without) - _row("within", within, np.shape(without))
    difference = difference[~(np.abs(difference) <= least)]
    if not len(difference) or not np.isfinite(difference).all():
        return 1.0
    found: Any = scipy.stats.wilcoxon(difference, alternative="greater")
    return float(found.pvalue)


class Equivalence(NamedTuple):
    """An equivalence test tells whether circuit and model win equally often.

    Attributes:
        wins: Share of prompts on which m(C) > m(M), ties counting half, with its interval.
        p_value: Of "the share is `margin` or more away from a half" (the larger of two one-sided
            binomial tests).
    """

    wins: Estimate
    p_value: float


def equivalence(
    circuit: np.ndarray, model: np.ndarray, *, margin: float = 0.2, least: float = 1e-5
) -> Equivalence:
    """Test whether circuit and model are equally good, prompt by prompt.

    The mean difference can be near 0 while one is better nearly always, and the other sometimes by
    far; so the test is on who wins (Shi et al., 2024, arXiv:2410.13032). It must show that they
    are equal: with few prompts it cannot.

    Args:
        circuit: (N,) m(C).
        model: (N,) m(M).
        margin: How far from a half the share of wins may be.
        least: Differences up to this are ties.

    Returns:
        The share and the p-value.

    Raises:
        InputError: If there are no prompts, or these are no two rows of numbers of one length.

    Example:
        >>> same = np.linspace(0, 1, 400)
        >>> equivalence(same, same).p_value < 0.001
        True
    """
    difference = _row("circuit", circuit) - _row("model", model, np.shape(circuit))
    n = len(difference)
    if not n:
        raise InputError("circuit", got="no prompts", expected="at least one")
    # Half of the ties to each side; an odd one is taken from the nearer to a half.
    wins = int((difference > least).sum())
    ties = int((np.abs(difference) <= least).sum())
    wins = wins + ties // 2 + (ties % 2 and wins + ties // 2 < n / 2)
    low = scipy.stats.binomtest(wins, n, 0.5 - margin, alternative="greater").pvalue
    high = scipy.stats.binomtest(wins, n, 0.5 + margin, alternative="less").pvalue
    interval = scipy.stats.binomtest(wins, n).proportion_ci(method="exact")
    share = Estimate(wins / n, float(interval.low), float(interval.high))
    return Equivalence(share, float(max(low, high)))


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Compute the biased Hilbert–Schmidt independence criterion, Gaussian kernels of median width.

    tr(K H L H) / n² with H = 1 − 1/n (Gretton et al., 2005).

    Args:
        x: (N,) or (N, a).
        y: (N,) or (N, b).

    Returns:
        0 or more; 0 only if nothing of one tells of the other, as far as the kernels see.
    """
    k, l_ = (_centred(_gram(values)) for values in (x, y))
    return float((k * l_).sum() / len(k) ** 2)


def independence_p(x: np.ndarray, y: np.ndarray, *, draws: int = 999, seed: int = 0) -> float:
    """Compute the p-value of "x and y are independent" by permuting one of them.

    Args:
        x: (N,) or (N, a), such as m(M).
        y: (N,) or (N, b), such as m(M∖C).
        draws: Permutations.
        seed: Of them.

    Returns:
        (1 + k) / (1 + draws): small if they depend on each other.
    """
    k, l_ = (_centred(_gram(values)) for values in (x, y))
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(len(k)) for _ in range(draws))
    null = np.array([(k * l_[np.ix_(order, order)]).sum() for order in orders])
    # The identity is one of the permutations: equal up to rounding counts as equal.
    return permutation_p(float((k * l_).sum()) * (1 - 1e-12), null)


@functools.cache
def independence_power(
    count: int, alpha: float, *, correlation: float = 0.5, draws: int = 600
) -> float:
    """Estimate the power of `independence_p` on two correlated Gaussian variables.

    Independence is claimed by not rejecting it, which few prompts do as well. So the judge asks
    for a power of at least 0.8 before it says that the claim holds.

    Args:
        count: Prompts, N. Power only grows with them; above 96 it is that of 96.
        alpha: Level of the test.
        correlation: Of the variables.
        draws: Pairs that are simulated, with and without the correlation.

    Returns:
        The share of correlated pairs whose HSIC is above the 1 − α quantile of independent ones.

    Example:
        >>> independence_power(48, 0.05) < 0.8 < independence_power(64, 0.05)
        True
    """
    if count < 4:
        return 0.0
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, draws, min(count, 96)))
    mixed = correlation * x + np.sqrt(1 - correlation**2) * noise
    null, found = (
        np.array([hsic(*pair) for pair in zip(x, y, strict=True)]) for y in (noise, mixed)
    )
    return float((found > np.quantile(null, 1 - alpha)).mean())


def below(values: np.ndarray, bound: float) -> float:
    """Test by a one-sided t-test whether a mean is below a bound.

    Args:
        values: (N,) per prompt.
        bound: The bound.

    Returns:
        The p-value of "the mean is the bound or more"; of equal values, 0 or 1.

    Raises:
        InputError: If they are no row of numbers and a number.

    Example:
        >>> below(np.array([0.0, 0.1, 0.2, 0.1]), 1.0) < 0.001
        True
    """
    values = _row("values", values)
    if _numbers("bound", bound).ndim:
        raise InputError("bound", got=shown(bound), expected="a number")
    if len(values) < 2 or not np.isfinite(values).all():
        return 1.0
    if np.ptp(values) <= 1e-12 * max(abs(bound), np.abs(values).max()):
        return 0.0 if values.mean() < bound else 1.0
    found: Any = scipy.stats.ttest_1samp(values, bound, alternative="less")
    return float(found.pvalue)


def jaccard(one: set, other: set) -> float:
    """Compute |A ∩ B| / |A ∪ B|; 1 for two empty sets.

    Example:
        >>> jaccard({1, 2}, {2, 3})
        0.3333333333333333
    """
    union = one | other
    return len(one & other) / len(union) if union else 1.0


def stability(sets: Sequence[set]) -> Estimate:
    """Compute the mean Jaccard index of all pairs of circuits, with the middle 95% of pairs.

    Args:
        sets: Circuits found with other seeds or bootstrapped prompts; two or more.

    Returns:
        The mean.

    Raises:
        InputError: If there are fewer than two.
    """
    if len(sets) < 2:
        raise InputError("circuits", got=len(sets), expected="two or more to compare")
    pairs = [jaccard(a, b) for i, a in enumerate(sets) for b in sets[:i]]
    low, high = np.quantile(pairs, [0.025, 0.975])
    return Estimate(float(np.mean(pairs)), float(low), float(high))


def super_additivity(joint: np.ndarray, single: np.ndarray) -> np.ndarray:
    """Compute how much more is lost by ablating all together than one by one.

    Args:
        joint: (N,) loss when all are ablated.
        single: (n, N) loss when each is ablated alone.

    Returns:
        (N,) joint − Σ single: above 0 where nodes stand in for each other (backups), below where
        they work in a chain.
    """
    return np.asarray(joint, np.float64) - np.asarray(single, np.float64).sum(0)


def _numbers(what: str, values: Any) -> np.ndarray:
    """Read an argument as float64."""
    try:
        # An iterator or a text is one object to NumPy, and a text of digits would be a number.
        if not isinstance(values, str | bytes) and np.asarray(values).dtype.kind not in "USV":
            return np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(what, got=shown(values), expected="numbers")


def _row(what: str, values: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Read an argument as a row of float64, of a shape if one is given."""
    row = _numbers(what, values)
    if row.ndim != 1 or shape not in (None, row.shape):
        expected = "a row of numbers, as long as the other"
        raise InputError(what, got=f"shape {row.shape}", expected=expected)
    return row


def _gram(values: np.ndarray) -> np.ndarray:
    """(N, N) Gaussian kernel whose width is the median distance."""
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    if len(rows) < 4:
        raise InputError("prompts", got=len(rows), expected="four or more to test independence")
    distances = scipy.spatial.distance.pdist(rows, "sqeuclidean")
    width = np.median(distances[distances > 0]) if (distances > 0).any() else 1.0
    return np.exp(-scipy.spatial.distance.squareform(distances) / width)


def _centred(kernel: np.ndarray) -> np.ndarray:
    return kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
