"""Certificates against enumeration: every change of small data sets, every subset, every rule."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.search.certificate import (
    least_share,
    radii,
    require_radius_one,
    share_bounds,
    untouched,
)
from hagd_jax.search.discoveries import found_in

SETTINGS = st.tuples(st.integers(1, 40), st.integers(1, 40)).filter(lambda pk: pk[1] <= pk[0])


def exact_shares(scores: np.ndarray, kept: int, size: int, by: str = "mean") -> np.ndarray:
    """The share of all C(P, k) subsets whose discovery has each unit."""
    rows = np.array(list(itertools.combinations(range(len(scores)), kept)))
    return np.concatenate(list(found_in(scores, rows, size, by=by))).mean(0)


def edited(scores, alphabet, changed, deleted, inserted):
    """All data sets after so many substitutions, deletions and insertions from an alphabet."""
    prompts = range(len(scores))
    for gone in itertools.combinations(prompts, deleted):
        rest = [i for i in prompts if i not in gone]
        for places in itertools.combinations(rest, changed):
            for new in itertools.product(alphabet, repeat=changed + inserted):
                other = scores.copy()
                other[list(places)] = np.reshape(new[:changed], (changed, scores.shape[1]))
                yield np.concatenate([other[rest], np.reshape(new[changed:], (-1, other.shape[1]))])


@given(SETTINGS)
def test_q_is_hypergeometric_and_exact(setting):
    prompts, kept = setting
    q, r = untouched(prompts, kept), np.arange(prompts + 1)
    np.testing.assert_allclose(q, scipy.stats.hypergeom.pmf(0, prompts, r, kept), atol=1e-9)
    whole = [math.comb(prompts - int(i), kept) / math.comb(prompts, kept) for i in r]
    np.testing.assert_allclose(q, whole, rtol=1e-12)
    assert q[0] == 1


@settings(max_examples=60)
@given(
    st.sampled_from([(5, 2, 1), (6, 2, 1), (7, 2, 1), (5, 1, 2)]),
    st.sampled_from(["mean", "magnitude"]), st.integers(1, 2), st.integers(0, 4),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_no_substitution_of_radius_prompts_evicts_or_admits(setting, by, size, strong, seed):
    """Every data set that differs in r rows, shares over every subset, rows with strong units."""
    (prompts, kept, changed), rng = setting, np.random.default_rng(seed)
    scores = rng.integers(-2, 3, (prompts, 3)) + rng.permutation([strong * 1.0, 0, 0])
    alphabet = np.array([[9.0, 0, 0], [0, -9, 9], [-9, 9, 0]])
    before = exact_shares(scores, kept, size, by)
    inside, outside = radii(before, prompts, kept), radii(1 - before, prompts, kept)
    lost = 1 - untouched(prompts, kept)[changed]
    for other in edited(scores, alphabet, changed, 0, 0):
        after = exact_shares(other, kept, size, by)
        assert (after[inside >= changed] > 0.5).all()
        assert (after[outside >= changed] < 0.5).all()
        assert (np.abs(after - before) <= lost + 1e-12).all()


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2))
def test_mixtures_of_edits_keep_their_bounds(seed, size):
    """Each mixture stays within its own bounds, and those within the bounds of substitutions."""
    rng, prompts, kept = np.random.default_rng(seed), 5, 2
    scores = rng.integers(-2, 3, (prompts, 3)) + rng.permutation([2.0, 0, 0])
    alphabet = np.array([[9.0, 0, 0], [0, -9, 9]])
    before = exact_shares(scores, kept, size)
    for edits in ((1, 0, 1), (0, 1, 1), (1, 1, 0), (0, 2, 0), (0, 0, 2), (0, 1, 0), (0, 0, 1)):
        named = dict(zip(("changed", "deleted", "inserted"), edits, strict=True))
        low = least_share(before, prompts, kept, **named)
        high = 1 - least_share(1 - before, prompts, kept, **named)
        for other in edited(scores, alphabet, *edits):
            after = exact_shares(other, kept, size)
            assert (after >= low - 1e-12).all()
            assert (after <= high + 1e-12).all()


@given(SETTINGS, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.floats(0, 1))
def test_substitutions_are_the_worst_of_as_many_edits(setting, changed, deleted, inserted, share):
    prompts, kept = setting
    if changed + deleted + inserted > prompts or prompts - deleted + inserted < kept:
        return
    edits = {"changed": changed, "deleted": deleted, "inserted": inserted}
    lost = 1 - untouched(prompts, kept)[sum(edits.values())]
    assert least_share(share, prompts, kept, **edits) >= share - lost - 1e-9
    assert least_share(1 - share, prompts, kept, **edits) >= 1 - share - lost - 1e-9


@pytest.mark.parametrize(("changed", "deleted", "inserted"), [(1, 0, 0), (1, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.9, 1.0])
def test_bounds_are_the_optimum_over_all_rules(changed, deleted, inserted, share):
    """A linear program over the probability that each subset's discovery has the unit."""
    prompts, kept = 6, 2
    old = list(itertools.combinations(range(prompts), kept))
    after = [*range(changed + deleted, prompts), *range(10, 10 + changed + inserted)]
    new = list(itertools.combinations(after, kept))
    every = sorted({*old, *new})
    costs = np.array([(s in new) / len(new) for s in every])
    weights = np.array([[(s in old) / len(old) for s in every]])
    best = scipy.optimize.linprog(costs, A_eq=weights, b_eq=[share], bounds=(0, 1))
    edits = {"changed": changed, "deleted": deleted, "inserted": inserted}
    assert best.status == 0
    assert best.fun == pytest.approx(float(least_share(share, prompts, kept, **edits)), abs=1e-9)


@pytest.mark.parametrize(("prompts", "kept"), [(8, 1), (9, 2), (12, 3)])
def test_the_worst_case_is_attained(prompts, kept):
    """One strong prompt decides each subset that it is in, so that radius + 1 of them evict."""
    scores = np.tile([1.0, 0.0], (prompts, 1))
    radius = int(radii(exact_shares(scores, kept, 1), prompts, kept)[0])
    assert radius >= 1
    shares = []
    for changed in (radius, radius + 1):
        other = scores.copy()
        other[:changed] = [0.0, 1e6]
        shares.append(exact_shares(other, kept, 1)[0])
        assert shares[-1] == pytest.approx(untouched(prompts, kept)[changed])
    assert shares[0] > 0.5 >= shares[1]


def test_radii_against_counting_up():
    shares, q = np.linspace(0, 1, 101), untouched(30, 4)
    for threshold in (0.0, 0.5, 0.8):
        found = radii(shares, 30, 4, threshold)
        for share, radius in zip(shares.tolist(), found.tolist(), strict=True):
            good = [r for r in range(27) if share - (1 - q[r]) > threshold + 1e-12]
            assert radius == max(good, default=-1)
    assert radii([0.5, 1.0], 8, 4).tolist() == [-1, 0]  # half of them is not a majority


def test_bounds_of_shares_are_clopper_pearson_at_the_divided_level():
    counts, alpha, units = np.array([0, 1, 37, 99, 100]), 0.05, 46_350
    low, high = share_bounds(counts, 100, alpha, units)
    for row, count in enumerate(counts.tolist()):
        exact = scipy.stats.binomtest(count, 100).proportion_ci(1 - alpha / units, "exact")
        assert (low[row], high[row]) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert 0 < low[3] < 0.99 < high[3] < 1


def test_all_bounds_hold_at_once_as_often_as_they_promise():
    """2,000 experiments over 20 dependent units; α = .2 must not be exceeded (binomial, 1e-4)."""
    rng, alpha, subsets = np.random.default_rng(0), 0.2, 200
    shares = np.linspace(0.02, 0.98, 20)
    wrong = 0
    for _ in range(2000):
        counts = (rng.random((subsets, 1)) < shares).sum(0)
        low, high = share_bounds(counts, subsets, alpha)
        wrong += bool(((shares < low) | (shares > high)).any())
    assert 0 < wrong <= scipy.stats.binom.ppf(1 - 1e-4, 2000, alpha)


@pytest.mark.parametrize(("kept", "subsets", "units"), [(8, 1000, 46_350), (1, 40, 5), (3, 60, 90)])
def test_the_least_numbers_that_a_message_names_are_the_least(kept, subsets, units):
    given = {"units": units, "alpha": 0.05, "threshold": 0.5}

    def certifies(prompts, subsets):
        best = share_bounds([subsets], subsets, 0.05, units)[0]
        return radii(best, prompts, kept)[0] >= 1

    with pytest.raises(InputError, match="prompts: got") as refused:
        require_radius_one(kept, kept, subsets=subsets, **given)
    least = int(str(refused.value).split("expected ")[1].split()[0])
    assert certifies(least, subsets)
    assert not certifies(least - 1, subsets)
    require_radius_one(least, kept, subsets=subsets, **given)
    with pytest.raises(InputError, match="subsets: got 2") as refused:
        require_radius_one(least, kept, subsets=2, **given)
    enough = int(str(refused.value).split("expected ")[1].split()[0])
    assert certifies(least, enough)
    assert not certifies(least, enough - 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: untouched(4, 5), lambda: untouched(4, 0), lambda: untouched(4.0, 2),
        lambda: least_share(1.1, 8, 2), lambda: least_share(np.nan, 8, 2),
        lambda: least_share("a", 8, 2), lambda: least_share(0.9, 8, 2, changed=9),
        lambda: least_share(0.9, 8, 2, deleted=7), lambda: least_share(0.9, 8, 2, inserted=-1),
        lambda: radii([0.5], 8, 2, 2.0), lambda: radii([-0.5], 8, 2),
        lambda: share_bounds([5], 4, 0.05), lambda: share_bounds([0.5], 4, 0.05),
        lambda: require_radius_one(64, 8, subsets=9, units=9, alpha=5e-324, threshold=0.5),
        lambda: share_bounds([], 4, 0.05), lambda: share_bounds([[1]], 4, 0.05),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call):
    with pytest.raises(InputError, match="expected"):
        call()
