"""What is measured of a circuit: pure functions over per-prompt numbers.

m(C) is the metric with everything outside C ablated, M the whole model, ∅ the empty circuit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import scipy

from hagd_jax.errors import InputError, require_index, shown

# A prompt on which the circuit does from half to one and a half of what the model does is near.
BAND = (0.5, 1.5)
RESAMPLES = 1999
# Below this share of the metric's own scale a denominator says nothing.
DENOMINATOR_FLOOR = 1e-3


class Estimate(NamedTuple):
    """An estimate is a number with its 95% interval.

    Attributes:
        value: The estimate; NaN when it is not defined.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


class Faithfulness(NamedTuple):
    """Faithfulness is (m(C) − m(∅)) / (m(M) − m(∅)), in both averages.

    Attributes:
        ratio_of_means: Of the mean metrics, with a bootstrap interval over prompts.
        mean_of_ratios: Mean over the valid prompts of each prompt's own ratio.
        median: Median of the prompts' ratios.
        lower_quartile: 25th percentile.
        upper_quartile: 75th percentile.
        worst_decile: 10th percentile.
        invalid: Share of prompts whose denominator is too near zero to divide by.
        within: Share of the valid prompts whose own ratio is from 0.5 to 1.5 (`BAND`), with its
            interval.
    """

    ratio_of_means: Estimate
    mean_of_ratios: float
    median: float
    lower_quartile: float
    upper_quartile: float
    worst_decile: float
    invalid: float
    within: Estimate


def faithfulness(
    circuit: np.ndarray,
    full: np.ndarray,
    empty: np.ndarray,
    *,
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> Faithfulness:
    """Measure how much of the behaviour a circuit recovers: 1 is all of it, 0 none.

    Args:
        circuit: (N,) the metric m(C) on each prompt.
        full: (N,) m(M).
        empty: (N,) m(∅).
        seed: Of the bootstrap.
        clusters: (N,) which cluster each prompt is of, see `ratio_of_means`.

    Returns:
        Both averages and the spread; NaN where every denominator vanishes.

    Raises:
        InputError: If shapes differ, or there are no prompts.

    Example:
        >>> import numpy as np
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
    near = np.zeros(len(valid))
    near[valid] = (ratios >= BAND[0]) & (ratios <= BAND[1])
    within = ratio_of_means(near, valid.astype(float), seed=seed, clusters=clusters)
    return Faithfulness(
        ratio_of_means(circuit - empty, denominator, scale=scale, seed=seed, clusters=clusters),
        float(ratios.mean()) if valid.any() else float("nan"),
        median,
        lower,
        upper,
        worst,
        float(1 - valid.mean()),
        within,
    )


def ratio_of_means(
    numerator: np.ndarray,
    denominator: np.ndarray,
    *,
    scale: float = 1.0,
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> Estimate:
    """Estimate a ratio of means with a percentile bootstrap over clusters of prompts.

    Prompts of one template resemble each other, so whole templates are drawn: an interval over
    prompts would promise more than the data hold. Few clusters give a coarse interval.

    Args:
        numerator: (N,) per prompt.
        denominator: (N,) per prompt, paired with it.
        scale: The size of a typical value: a mean denominator below a thousandth of it makes
            the ratio undefined.
        seed: Of the bootstrap.
        clusters: (N,) which cluster each prompt is of, such as its template; each prompt is one
            by itself if None.

    Returns:
        The ratio and its 95% interval, over the resamples that have a ratio; NaN where it is
        not defined. There is no interval where that of the denominator contains zero.
    """
    seed = require_index("seed", seed)
    if not isinstance(scale, int | float | np.number):
        raise InputError("scale", got=shown(scale), expected="a number")
    numerator, denominator = _aligned(numerator, denominator)
    value = mean_ratio(numerator, denominator, scale)
    if clusters is None:
        clusters = np.arange(len(numerator))
    clusters = _array("clusters", clusters, None)
    if clusters.shape != numerator.shape:
        raise InputError(
            "clusters", got=f"shape {clusters.shape}", expected=f"{numerator.shape}, one a prompt"
        )
    _, cluster = np.unique(clusters, return_inverse=True)
    count = cluster.max() + 1
    if np.isnan(value) or count < 2:
        return Estimate(value, math.nan, math.nan)
    # A resample of clusters is how often each was drawn; sums over clusters are enough.
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    top, bottom = (drawn @ np.bincount(cluster, x) for x in (numerator, denominator))
    # Where the denominator may well be zero, the ratio may be anything (Fieller 1954).
    least, most = np.quantile(bottom, [0.025, 0.975])
    defined = bottom != 0
    if least <= 0 <= most:
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(top[defined] / bottom[defined], [0.025, 0.975])
    return Estimate(value, min(float(low), value), max(float(high), value))


def mean_ratio(numerator: np.ndarray, denominator: np.ndarray, scale: float = 1.0) -> float:
    """Divide two means, without an interval; arguments as in `ratio_of_means`.

    Returns:
        The ratio; NaN if the mean denominator is below a thousandth of `scale`.
    """
    bottom = float(np.mean(denominator))
    if abs(bottom) <= DENOMINATOR_FLOOR * abs(scale):
        return math.nan
    return float(np.mean(numerator)) / bottom


def accuracy(correct: np.ndarray) -> Estimate:
    """Compute the mean share of correct answers with its Clopper–Pearson interval.

    A prompt that was run several times, such as with several partners under `resample`, counts as
    the share of its runs that were right, so the estimate is the mean over runs. The interval takes
    the sum of the shares as the number of right answers. That is wide enough, since a share varies
    less than a single answer that is right as often.

    Args:
        correct: (N,) booleans, or shares from 0 to 1.

    Returns:
        The mean and its 95% interval, which is exact for booleans.

    Raises:
        InputError: If a value is not from 0 to 1.

    Example:
        >>> import numpy as np
        >>> accuracy(np.array([1, 0.25, 0.25, 0])).value
        0.375
    """
    (correct,) = _aligned(correct)
    if not ((correct >= 0) & (correct <= 1)).all():
        raise InputError("correct", got=shown(correct), expected="0 to 1 for each prompt")
    k, n = float(correct.sum()), len(correct)
    low = scipy.stats.beta.ppf(0.025, k, n - k + 1) if k > 0 else 0.0
    high = scipy.stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return Estimate(k / n, float(low), float(high))


def preservation(
    circuit: np.ndarray, full: np.ndarray, *, seed: int = 0, clusters: np.ndarray | None = None
) -> Estimate:
    """Compute behavioural preservation, accuracy(C) / accuracy(M).

    Args:
        circuit: (N,) booleans, correct with the circuit alone.
        full: (N,) booleans, correct with the whole model.
        seed: Of the bootstrap.
        clusters: (N,) see `ratio_of_means`.

    Returns:
        The ratio; NaN for a model that is never right.
    """
    return ratio_of_means(circuit, full, seed=seed, clusters=clusters)


def kept_accuracy(
    circuit: np.ndarray,
    full: np.ndarray,
    empty: np.ndarray,
    *,
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> Estimate:
    """Compute accuracy relative to the empty circuit: (acc(C) − acc(∅)) / (acc(M) − acc(∅)).

    Preservation counts what an empty circuit gets right by guessing as kept; this does not.

    Args:
        circuit: (N,) booleans or shares, correct with the circuit alone.
        full: (N,) the same of the whole model.
        empty: (N,) the same of the empty circuit.
        seed: Of the bootstrap.
        clusters: (N,) see `ratio_of_means`.

    Returns:
        The share; NaN where the empty circuit is right as often as the model.

    Example:
        >>> import numpy as np
        >>> right = np.ones(4)
        >>> kept_accuracy(np.array([1, 1, 1, 0]), right, np.array([1, 1, 0, 0])).value
        0.5
    """
    circuit, full, empty = _aligned(circuit, full, empty)
    return ratio_of_means(circuit - empty, full - empty, seed=seed, clusters=clusters)


def permutation_p(observed: float, null: np.ndarray) -> float:
    """Compute the one-sided p-value (1 + k) / (1 + n) if k of n controls do as well.

    Args:
        observed: The circuit's value.
        null: (n,) the controls' values.

    Returns:
        The p-value; 1/(1 + n) at best. What is not defined never speaks for the circuit: a NaN
        control does as well as it, and with a NaN of its own the p-value is 1.

    Example:
        >>> import numpy as np
        >>> permutation_p(1.0, np.zeros(9))
        0.1
    """
    value, null = _array("observed", observed), _array("null", null)
    if value.ndim or null.ndim != 1:
        raise InputError(
            "null", got=f"shapes {value.shape} and {null.shape}", expected="a number and a row"
        )
    return float((1 + np.sum(~(null < value))) / (1 + len(null)))


def auroc(scores: np.ndarray, members: np.ndarray) -> float:
    """Compute the area under the ROC curve of scores for members; ties count half.

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
    scores, members = _array("scores", scores), _array("members", members)
    if not np.isin(members, (0, 1)).all():
        raise InputError("members", got=shown(members), expected="True or False for each score")
    members = members.astype(bool)
    if scores.shape != members.shape or not 0 < members.sum() < members.size:
        raise InputError(
            "members", got=f"{members.sum()} of {members.size} (scores {scores.shape})",
            expected="some and not all of as many scores",
        )  # fmt: skip
    if np.isnan(scores).any():
        raise InputError("scores", got="NaN", expected="numbers")
    ranks = scipy.stats.rankdata(scores)
    inside, outside = members.sum(), members.size - members.sum()
    above = ranks[members].sum() - inside * (inside + 1) / 2
    return float(above / (inside * outside))


def _array(what: str, values: Any, dtype: Any = np.float64) -> np.ndarray:
    """Read an argument as an array; one of any dtype if that is None."""
    try:
        found = np.asarray(values)
        if dtype is None or found.dtype.kind not in "US":
            return found if dtype is None else found.astype(dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(what, got=shown(values), expected="an array of numbers") from error
    raise InputError(what, got=shown(values), expected="an array of numbers")


def _aligned(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    arrays = tuple(_array("metric values", a) for a in arrays)
    if arrays[0].ndim != 1 or not len(arrays[0]) or len({a.shape for a in arrays}) != 1:
        raise InputError(
            "metric values",
            got=f"shapes {[a.shape for a in arrays]}",
            expected="one value for each of at least one prompt",
        )
    return arrays
