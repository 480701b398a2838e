"""Certificates: how many prompts must change before a unit's share of discoveries crosses a bound.

**Setting.** A rule D maps k prompts to a set of units. It may be randomised, as long as its draws
do not depend on the prompts. S is a uniform subset of k of P prompts, and p = Pr[u ∈ D(S)] is the
share of discoveries that contain unit u. Someone then deletes d prompts, inserts i, and replaces s
others. m = P − s − d prompts are as before, out of P' = P − d + i. Let p' be the share over uniform
subsets S' of k of the new prompts.

**Theorem.** Let same = C(m, k) / C(P, k) and wide = C(P', k) / C(P, k). Then

    p' ≥ max(0, p − (1 − same)) / wide,    1 − p' ≥ max(0, (1 − p) − (1 − same)) / wide,

and for every p that is a multiple of 1 / C(P, k), some rule attains each bound.

*Proof.* Let A be the event that a subset holds unchanged prompts only. Given A, both S and S' are
uniform over the k-subsets of the m unchanged prompts, so their likelihood ratio is wide there. It
is infinite on subsets with a prompt that was removed, and 0 on those with a prompt that was added.
By the lemma of Neyman and Pearson (1933), of all rules with Pr[u ∈ D(S)] = p the one with the least
Pr[u ∈ D(S')] finds u first where the ratio is largest: on subsets with a removed prompt, which have
probability 1 − same, and only then on A, where a probability x under S is x / wide under S'. The
second inequality is the first for the event u ∉ D(S).

**Corollary.** With q(r) = C(P − r, k) / C(P, k), after any mixture of at most r insertions,
deletions and substitutions

    p − (1 − q(r)) ≤ p' ≤ p + (1 − q(r)).

*Proof.* |p − p'| is at most the total variation distance between S and S', which is 1 − C(m, k) /
C(max(P, P'), k). If P' ≤ P, then m ≥ P − r gives the claim. Otherwise compare the quotients factor
by factor: with a = P − d − j ≥ s, (a − s)/(a + i) ≥ (a − s − i)/(a + d) because
(a − s)(a + d) ≥ (a − s − i)(a + i).

So a unit with p > τ keeps p' > τ while p − (1 − q(r)) > τ, and the largest such r is its certified
radius. A unit that is found every time has a radius of 1 or more only if k < (1 − τ) P: to certify
is to discover from few prompts. A unit outside cannot enter while p + (1 − q(r)) < τ.

**Confidence.** p is not known, but counted over R independent subsets. Its bounds are those of
Clopper and Pearson (1934) at level α / (2N) for each side of each of N units (Bonferroni), so all
lower and upper bounds hold at once with confidence 1 − α over the drawing of the subsets.

**What a certificate does not say.** It is about the rule of the majority over subsets, not about
the circuit that a rule finds on all P prompts at once. It is about rows of scores: if a prompt's
row depends on other prompts, as under mean and resample ablation, changing one prompt changes more
than one row. And it does not say that the unit is necessary, which ablations must show.

The smoothing argument is that of Cohen et al. (2019, arXiv:1902.02918). q(r) is that of randomised
ablation (Levine and Feizi, 2020, arXiv:1911.09272); Levine and Feizi (2021, arXiv:2006.14768) and
Jia et al. (2021, arXiv:2008.04495) certify training sets by partitions and by bagging.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.stats

from hagd_jax.errors import InputError, require_index, shown

# Bounds must clear the threshold by more than the rounding of their sums.
_ROUNDING = 1e-12


def untouched(prompts: int, kept: int) -> np.ndarray:
    """Compute q(r) = C(P − r, k) / C(P, k), the probability that a subset has none of r prompts.

    Args:
        prompts: P.
        kept: k, prompts in a subset.

    Returns:
        (P + 1,) float64, q(0) to q(P); q falls from 1 and is 0 from r = P − k + 1 on.

    Raises:
        InputError: If k is not from 1 to P.

    Example:
        >>> untouched(4, 2).round(3).tolist()
        [1.0, 0.5, 0.167, 0.0, 0.0]
    """
    prompts, kept = require_kept(prompts, kept)
    r = np.arange(prompts)
    return np.concatenate([[1.0], np.cumprod(np.maximum(prompts - kept - r, 0) / (prompts - r))])


def least_share(
    share: Any, prompts: int, kept: int, *, changed: int = 0, deleted: int = 0, inserted: int = 0
) -> np.ndarray:
    """Bound from below the share of discoveries after given edits of the prompts.

    max(0, p − (1 − same)) / wide, see the theorem of this module. The upper bound of the same edits
    is 1 − least_share(1 − p, ...).

    Args:
        share: p before the edits, or a lower bound of it; a number or an array.
        prompts: P, prompts before the edits.
        kept: k, prompts in a subset.
        changed: s, prompts that are replaced by others.
        deleted: d, prompts that are removed.
        inserted: i, prompts that are added.

    Returns:
        float64 of the same shape.

    Raises:
        InputError: If a share is not from 0 to 1, or more prompts are edited than there are, or
            fewer than k would remain.

    Example:
        >>> [float(least_share(0.9, 8, 2, **{how: 1}).round(3)) for how in ("changed", "deleted")]
        [0.65, 0.867]
    """
    prompts, kept = require_kept(prompts, kept)
    share = _shares(share)
    edits = {"changed": changed, "deleted": deleted, "inserted": inserted}
    changed, deleted, inserted = (require_index(name, count) for name, count in edits.items())
    same, after = prompts - changed - deleted, prompts - deleted + inserted
    if same < 0 or after < kept:
        raise InputError(
            "edits", got=f"{changed} substitutions and {deleted} deletions of {prompts} prompts",
            expected=f"no more than there are, and {kept} prompts or more afterwards",
        )  # fmt: skip
    total = math.comb(prompts, kept)
    wide = math.comb(after, kept) / total
    rest = np.maximum(share - (1 - math.comb(same, kept) / total), 0.0)
    return np.minimum(rest / wide, 1.0) if wide else np.zeros_like(rest)


def radii(shares: Any, prompts: int, kept: int, threshold: float = 0.5) -> np.ndarray:
    """Compute certified radii: the most edits r for which p − (1 − q(r)) is above a threshold.

    Any mixture of at most r substitutions, deletions and insertions leaves the share above it.

    Args:
        shares: (N,) lower bounds of p. For units that must not enter, give one less the upper
            bounds, and 1 − τ: the radius is then the most edits that leave their share below τ.
        prompts: P.
        kept: k, prompts in a subset.
        threshold: τ.

    Returns:
        (N,) int64; −1 where the bound itself is not above the threshold, so nothing is certified.

    Raises:
        InputError: If k is not from 1 to P, or a share or the threshold is not from 0 to 1.

    Example:
        >>> radii([1.0, 0.8, 0.4], 64, 8).tolist()
        [5, 2, -1]
    """
    lost = 1 - untouched(prompts, kept)[: prompts - kept + 1]
    spare = _shares(shares) - float(_shares(threshold)) - _ROUNDING
    return np.searchsorted(lost, spare) - 1  # as many of `lost`, which grows, are below


def share_bounds(
    counts: Any, subsets: int, alpha: float, units: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Compute Clopper–Pearson bounds of shares that hold for all units at once.

    Each side of each unit has level α / (2N), as Bonferroni asks.

    Args:
        counts: (N,) number of subsets in whose discoveries each unit is.
        subsets: R, independent subsets.
        alpha: α, the probability that any bound fails is at most this.
        units: N, if `counts` are only some of the units.

    Returns:
        Lower and upper bounds, (N,) float64 each.

    Raises:
        InputError: If a count is not from 0 to R.

    Example:
        >>> low, high = share_bounds([1000, 0], 1000, alpha=0.05, units=46_350)
        >>> low.round(4).tolist(), high.round(4).tolist()
        ([0.9857, 0.0], [1.0, 0.0143])
    """
    counts = np.asarray(counts)
    good = counts.dtype.kind in "iu" and bool(((counts >= 0) & (counts <= subsets)).all())
    if not good or counts.ndim != 1 or not len(counts):
        expected = f"(N,) whole numbers from 0 to {subsets}"
        raise InputError("counts", got=shown(counts), expected=expected)
    level = alpha / (2 * (len(counts) if units is None else units))
    distinct, at = np.unique(counts, return_inverse=True)
    k, n = distinct.astype(np.float64), float(subsets)
    low = np.where(k > 0, scipy.stats.beta.ppf(level, np.maximum(k, 1), n - k + 1), 0.0)
    high = np.where(k < n, scipy.stats.beta.isf(level, k + 1, np.maximum(n - k, 1)), 1.0)
    return low[at], high[at]


def require_radius_one(
    prompts: int, kept: int, *, subsets: int, units: int, alpha: float, threshold: float
) -> None:
    """Refuse settings under which even a unit that is found every time has no radius of 1.

    Args:
        prompts: P.
        kept: k, prompts in a subset.
        subsets: R.
        units: N.
        alpha: One less the joint confidence.
        threshold: τ.

    Raises:
        InputError: Naming the least number of subsets or of prompts that certifies radius 1.

    Example:
        >>> require_radius_one(64, 8, subsets=1000, units=46_350, alpha=0.05, threshold=0.5)
        >>> require_radius_one(16, 8, subsets=1000, units=46_350, alpha=0.05, threshold=0.5)
        Traceback (most recent call last):
        ...
        hagd_jax.errors.InputError: prompts: got 16; expected 17 or more, so that units found ...
    """
    prompts, kept = require_kept(prompts, kept)
    best = float(share_bounds([subsets], subsets, alpha, units)[0][0])
    aim = f"so that units found in all {subsets} subsets of {kept} prompts have radius 1"
    said = f"{aim} with confidence {1 - alpha:.4g} over {units} units"
    if best <= threshold + _ROUNDING:
        # (α / 2N)^(1/R) > τ + k/P, or > τ if no number of subsets is enough for these prompts.
        room = threshold + kept / prompts
        room = room if room < 1 else threshold
        level = math.log(alpha) - math.log(2 * units)  # of which the quotient may be 0
        least = math.floor(level / math.log(room)) + 1 if room > 0 else 1
        raise InputError("subsets", got=subsets, expected=f"{least} or more, {said}",
                         mend="Draw more subsets, or ask about fewer units.")  # fmt: skip
    least = math.floor(kept / (best - threshold)) + 1
    if prompts < least:
        raise InputError("prompts", got=prompts, expected=f"{least} or more, {said}",
                         mend="Add prompts, keep fewer in a subset, or draw more.")  # fmt: skip


def require_kept(prompts: Any, kept: Any) -> tuple[int, int]:
    """Read numbers of prompts as Python integers.

    Args:
        prompts: P.
        kept: k.

    Returns:
        Both.

    Raises:
        InputError: If they are no whole numbers with 1 ≤ k ≤ P.
    """
    prompts, kept = require_index("prompts", prompts), require_index("kept", kept)
    if not 1 <= kept <= prompts:
        raise InputError("kept", got=kept, expected=f"1 to {prompts}, the number of prompts")
    return prompts, kept


def _shares(values: Any) -> np.ndarray:
    """Read shares as float64."""
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        found = np.array(np.nan)
    if not ((found >= 0) & (found <= 1)).all():
        raise InputError("share", got=shown(values), expected="numbers from 0 to 1")
    return found
