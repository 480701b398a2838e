"""Statistics against SciPy, scikit-learn, and their own promises."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import squareform
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

from hagd_jax.causal.statistics import (
    SIZES,
    areas,
    below,
    equivalence,
    holm,
    hsic,
    independence_p,
    independence_power,
    jaccard,
    stability,
    super_additivity,
    worsens,
)
from hagd_jax.errors import InputError


def test_areas_are_those_of_a_loop():
    f = np.random.default_rng(0).normal(0.7, 0.5, len(SIZES))
    cpr = cmd = 0.0
    for i in range(1, len(SIZES)):
        width = SIZES[i] - SIZES[i - 1]
        cpr += width * (f[i] + f[i - 1]) / 2
        cmd += width * (abs(1 - f[i]) + abs(1 - f[i - 1])) / 2
    np.testing.assert_allclose(areas(SIZES, f), (cpr, cmd), rtol=1e-12)
    assert cmd > 0.01
    np.testing.assert_allclose(areas(SIZES, np.ones(10)), (0.999, 0), atol=1e-12)
    for bad in ([1, 0.5], [0.5], [0.1, 0.1]):
        with pytest.raises(InputError, match="rising"):
            areas(bad, np.ones(len(bad)))


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_its_definition(p_values):
    """The k-th smallest is multiplied by n − k + 1, and never falls below a smaller one's."""
    found, n = holm(p_values), len(p_values)
    ranked = sorted(range(n), key=p_values.__getitem__)
    largest = 0.0
    for k, i in enumerate(ranked):
        largest = max(largest, min(1.0, (n - k) * p_values[i]))
        assert found[i] == pytest.approx(largest)


def test_holm_keeps_its_promise():
    """Of 2,000 families of ten true nulls, at most 5% have any rejection (three errors allowed)."""
    rng = np.random.default_rng(0)
    rejected = np.mean([(holm(rng.random(10)) < 0.05).any() for _ in range(2000)])
    assert 0.03 < rejected < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_leaving_out_what_matters_is_noticed_and_what_does_not_is_not():
    rng = np.random.default_rng(1)
    base = rng.gamma(2, size=40)
    assert worsens(base + rng.gamma(1, size=40), base) < 1e-6
    assert worsens(base, base) == 1
    assert worsens(base - 0.1, base) > 0.99
    difference = rng.normal(0.2, 1, 40)
    expected = stats.wilcoxon(difference, alternative="greater").pvalue
    assert worsens(base + difference, base) == pytest.approx(expected)
    assert worsens(np.full(5, np.nan), np.zeros(5)) == 1


def test_p_values_of_a_true_null_are_uniform():
    """KS test over 1,000 simulated circuits: symmetric differences, independent pairs."""
    rng = np.random.default_rng(2)
    worse = [worsens(rng.normal(size=60), np.zeros(60)) for _ in range(1000)]
    assert stats.kstest(worse, "uniform").pvalue > 0.01
    pairs = rng.normal(size=(1000, 2, 24))
    apart = [independence_p(x, y, draws=99, seed=i) for i, (x, y) in enumerate(pairs)]
    # Steps of a hundredth: uniform on 0.01, 0.02, ..., 1.
    jitter = np.array(apart) - rng.random(1000) / 100
    assert stats.kstest(jitter, "uniform").pvalue > 0.01


def test_dependence_is_noticed_even_without_correlation():
    rng = np.random.default_rng(3)
    x = rng.normal(size=80)
    y = x**2 + 0.1 * rng.normal(size=80)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.4
    assert independence_p(x, y) == 0.001
    assert independence_p(x, rng.normal(size=80)) > 0.05


def test_hsic_is_the_trace_of_its_definition():
    """Kernels by scikit-learn."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(12, 2)), rng.normal(size=12)
    n = 12
    kernels = []
    for rows in (x, y[:, None]):
        width = np.median(squareform(euclidean_distances(rows, squared=True), checks=False))
        kernels.append(rbf_kernel(rows, gamma=1 / width))
    centre = np.eye(n) - 1 / n
    expected = np.trace(kernels[0] @ centre @ kernels[1] @ centre) / n**2
    assert expected > 1e-4
    assert hsic(x, y) == pytest.approx(expected, rel=1e-10)
    with pytest.raises(InputError, match="four or more"):
        hsic(np.ones(3), np.ones(3))


def test_equal_means_are_not_equivalence():
    rng = np.random.default_rng(5)
    model = rng.normal(size=200)
    noisy = model + rng.normal(size=200)
    assert equivalence(noisy, model).p_value < 0.01
    # Better on nine of ten, far worse on the tenth: the same mean.
    tricky = model + np.where(np.arange(200) % 10, 1, -9)
    assert abs((tricky - model).mean()) < 1e-12
    found = equivalence(tricky, model)
    assert found.p_value > 0.99
    assert found.wins.value == 0.9
    assert equivalence(model[:6], model[:6]).p_value > 0.05  # too few to show it
    low = stats.binomtest(104, 200, 0.3, alternative="greater").pvalue
    high = stats.binomtest(104, 200, 0.7, alternative="less").pvalue
    circuit = np.where(np.arange(200) < 104, 1.0, -1.0)
    assert equivalence(circuit, np.zeros(200)).p_value == pytest.approx(max(low, high))


def test_sets_are_compared_pair_by_pair():
    sets = [{1, 2, 3}, {2, 3, 4}, set()]
    assert jaccard(set(), set()) == 1
    found = stability(sets)
    assert found.value == pytest.approx((0.5 + 0 + 0) / 3)
    assert found.low <= found.value <= found.high
    with pytest.raises(InputError, match="two or more"):
        stability([{1}])


def test_backups_are_super_additive_and_chains_sub_additive():
    single = np.array([[0.0, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(super_additivity(np.array([1.0, 1.0]), single), [1, -1])


@settings(max_examples=40)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=30), st.floats(-2, 2))
def test_a_mean_below_a_bound_is_scipys_t_test(values, bound):
    values = np.array(values)
    assume(np.ptp(values) > 1e-6)
    expected = stats.ttest_1samp(values, bound, alternative="less").pvalue
    assert below(values, bound) == pytest.approx(expected, abs=1e-12)


def test_a_mean_without_spread_is_compared_as_it_is():
    assert below(np.zeros(9), 0.1) == 0
    assert below(np.full(9, 0.1), 0.1) == 1
    assert below(np.array([0.0]), 0.1) == 1
    assert below(np.array([0.0, np.nan]), 0.1) == 1


def test_the_power_of_independence_is_that_of_its_test():
    """The permutation test itself, on 150 correlated pairs: within two standard errors or so."""
    rng = np.random.default_rng(9)
    for count in (16, 48):
        x, noise = rng.normal(size=(2, 150, count))
        y = 0.5 * x + np.sqrt(0.75) * noise
        hits = [independence_p(a, b, draws=99) <= 0.05 for a, b in zip(x, y, strict=True)]
        assert independence_power(count, 0.05) == pytest.approx(np.mean(hits), abs=0.1)
    assert independence_power(3, 0.05) == 0
    assert independence_power(48, 0.001) < independence_power(48, 0.05)
    assert independence_power(500, 0.05) == independence_power(96, 0.05) > 0.9
    assert independence_power(48, 0.05) < 0.8 < independence_power(64, 0.05)


@pytest.mark.parametrize(
    ("statistic", "arguments"),
    [
        (equivalence, ([], [])),
        (equivalence, ([1.0], [1.0, 2.0])),
        (equivalence, (["a"], [1.0])),
        (holm, ("x",)),
        (holm, (0.5,)),
        (holm, ([10**400],)),
        (areas, (["a"], [1])),
        (areas, ([0, 1], [0, 10**400])),
        (below, (["x"], 1)),
        (below, ([1.0, 2.0], "1")),
        (below, (None, 1.0)),
        (worsens, ([1.0, 2.0], [1.0])),
        (worsens, (iter([1.0]), [1.0])),
    ],
)
def test_statistics_of_no_numbers_are_refused(statistic, arguments):
    with pytest.raises(InputError):
        statistic(*arguments)
