import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from hagd_jax.causal import (
    accuracy,
    auroc,
    faithfulness,
    kept_accuracy,
    permutation_p,
    preservation,
    ratio_of_means,
)
from hagd_jax.errors import InputError


def draw(n=40, seed=0):
    rng = np.random.default_rng(seed)
    full, empty = rng.normal(5, 1, n), rng.normal(0, 1, n)
    return empty + (full - empty) * rng.normal(0.8, 0.2, n), full, empty


def test_both_averages_by_hand():
    circuit, full, empty = draw()
    found = faithfulness(circuit, full, empty)
    top, bottom = circuit - empty, full - empty
    assert found.ratio_of_means.value == pytest.approx(top.sum() / bottom.sum(), rel=1e-12)
    each = sorted(top / bottom)
    assert found.mean_of_ratios == pytest.approx(sum(each) / len(each), rel=1e-12)
    assert found.median == pytest.approx((each[19] + each[20]) / 2, rel=1e-12)
    for value, q in [
        (found.lower_quartile, 25),
        (found.upper_quartile, 75),
        (found.worst_decile, 10),
    ]:
        assert value == pytest.approx(np.percentile(each, q), rel=1e-12)
    assert found.invalid == 0
    assert found.ratio_of_means.value != pytest.approx(found.mean_of_ratios, rel=1e-3)


def test_float32_input_is_averaged_in_float64():
    values = np.full(3000, 0.1, np.float32)
    found = faithfulness(values, 2 * values, 0 * values).ratio_of_means.value
    assert found == pytest.approx(0.5, rel=1e-12)


def test_prompts_without_a_denominator_are_flagged_not_divided_by():
    circuit, full, empty = draw()
    full[:10] = empty[:10] + 1e-5
    found = faithfulness(circuit, full, empty)
    kept = slice(10, None)
    ratios = (circuit - empty)[kept] / (full - empty)[kept]
    assert found.invalid == 0.25
    assert found.mean_of_ratios == pytest.approx(ratios.mean(), rel=1e-12)
    # The ratio of means keeps every prompt: a vanishing denominator does no harm there.
    assert found.ratio_of_means.value == pytest.approx(
        (circuit - empty).mean() / (full - empty).mean(), rel=1e-12
    )


def test_a_behaviour_that_is_not_there_has_no_faithfulness():
    circuit, full, _ = draw()
    found = faithfulness(circuit, full, full)
    assert np.isnan([*found.ratio_of_means, found.mean_of_ratios, found.median]).all()
    assert found.invalid == 1


@given(seed=st.integers(0, 10**6), n=st.integers(2, 12), shift=st.floats(-2, 2))
def test_an_interval_contains_its_estimate_or_there_is_none(seed, n, shift):
    rng = np.random.default_rng(seed)
    top, bottom = rng.normal(size=n), rng.normal(shift, 1, n)
    value, low, high = ratio_of_means(top, bottom)
    assert np.isnan([low, high]).all() or low <= value <= high


def test_a_denominator_of_unknown_sign_leaves_no_interval():
    # Two templates, on one of which the model has the opposite of the behaviour.
    top, bottom = np.array([0.5, 0.6, 0.5, 0.4]), np.array([1.0, 1.2, -0.5, -0.4])
    found = ratio_of_means(top, bottom, clusters=np.array([0, 0, 1, 1]))
    assert found.value == pytest.approx(2.0 / 1.3)
    assert np.isnan(found[1:]).all()
    # Without clusters the sign is as uncertain; with a denominator that stays, it is not.
    assert np.isfinite(ratio_of_means(top, bottom + 2)).all()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_do_not_matter(scale):
    circuit, full, empty = draw()
    one = faithfulness(circuit, full, empty)
    other = faithfulness(scale * circuit, scale * full, scale * empty)
    np.testing.assert_allclose(other.ratio_of_means, one.ratio_of_means, rtol=1e-9)
    np.testing.assert_allclose(other[1:-1], one[1:-1], rtol=1e-9)
    np.testing.assert_allclose(other.within, one.within, rtol=1e-9)


def test_bootstrap_interval_against_one_of_our_own():
    circuit, full, empty = draw(60)
    top, bottom = circuit - empty, full - empty
    found = ratio_of_means(top, bottom)
    rows = np.random.default_rng(7).integers(60, size=(20_000, 60))
    low, high = np.quantile(top[rows].mean(1) / bottom[rows].mean(1), [0.025, 0.975])
    assert found.low < found.value < found.high
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=0.15 * (high - low))
    assert found == ratio_of_means(top, bottom)
    assert found != ratio_of_means(top, bottom, seed=1)


def test_one_prompt_has_a_value_and_no_interval():
    found = ratio_of_means(np.array([1.0]), np.array([2.0]))
    assert found.value == 0.5
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 10), (1, 1), (63, 64)])
def test_clopper_pearson_against_beta_quantiles(k, n):
    found = accuracy(np.arange(n) < k)
    low = stats.beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    np.testing.assert_allclose(found, [k / n, low, high], atol=1e-9)


def test_accuracy_of_prompts_that_were_run_several_times_is_the_mean():
    # Of four prompts with four runs each 1 + 1 + 1 + 4 runs of 16 are right; no majority says so.
    found = accuracy(np.array([0.25, 0.25, 0.25, 1.0]))
    assert found.value == 7 / 16
    k, n = 1.75, 4
    expected = stats.beta.ppf([0.025, 0.975], [k, k + 1], [n - k + 1, n - k])
    np.testing.assert_allclose(found[1:], expected, rtol=1e-12)
    with pytest.raises(InputError, match="correct"):
        accuracy(np.array([0.5, 1.5]))


def test_preservation():
    circuit, full = np.array([1, 0, 0, 1], bool), np.array([1, 1, 0, 1], bool)
    found = preservation(circuit, full)
    assert found.value == pytest.approx(2 / 3, rel=1e-12)
    # Some resamples hold no right answer at all; they have no ratio and do not count.
    assert 0 <= found.low < found.value < found.high == 1
    assert np.isnan(preservation(circuit, np.zeros(4, bool)).value)


@given(st.floats(-2, 2), st.lists(st.floats(-2, 2), min_size=1, max_size=30))
def test_permutation_p_counts(observed, null):
    count = len([value for value in null if value >= observed])
    assert permutation_p(observed, np.array(null)) == (1 + count) / (1 + len(null))


def test_what_is_not_defined_never_speaks_for_the_circuit():
    nan = float("nan")
    assert permutation_p(nan, np.zeros(9)) == 1
    assert permutation_p(1.0, np.array([0.0, nan, 0.0])) == 0.5


@pytest.mark.parametrize(
    "arrays", [([], [], []), ([1.0], [1.0, 2.0], [0.0]), ([[1.0]], [[1.0]], [[0.0]])]
)
def test_misfits_are_refused(arrays):
    with pytest.raises(InputError, match="metric values"):
        faithfulness(*map(np.array, arrays))


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_that_of_scikit_learn(rows):
    """Few distinct scores, so that there are ties."""
    scores, members = (np.array(column) for column in zip(*rows, strict=True))
    if members.all() or not members.any():
        with pytest.raises(InputError, match="some and not all"):
            auroc(scores, members)
    else:
        assert auroc(scores, members) == pytest.approx(roc_auc_score(members, scores), abs=1e-12)


def test_auroc_of_what_is_no_number_is_refused():
    with pytest.raises(InputError, match="NaN"):
        auroc(np.array([1.0, np.nan]), np.array([True, False]))


def test_the_interval_of_a_ratio_is_scipys_bootstrap():
    """Percentile bootstraps of 1,999 resamples each: alike but for the draw."""
    rng = np.random.default_rng(6)
    span = rng.gamma(4, 1, 50)
    kept = 0.8 * span + rng.normal(0, 1, 50)
    found = ratio_of_means(kept, span, seed=3)
    low, high = stats.bootstrap(
        (kept, span),
        lambda a, b, axis: a.mean(axis) / b.mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))
    assert found.low < 0.8 < found.high


def test_templates_are_drawn_as_a_whole():
    """Against a loop that draws templates; prompts of one template agree, so few tell little."""
    rng = np.random.default_rng(8)
    cluster = np.repeat(np.arange(6), 10)
    full, empty = rng.gamma(8, 0.5, 60), np.zeros(60)
    circuit = full * (0.8 + 0.2 * rng.normal(size=6)[cluster])
    found = ratio_of_means(circuit, full, clusters=cluster)
    means = []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(cluster == c) for c in rng.integers(6, size=6)])
        means.append(circuit[rows].mean() / full[rows].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))
    alone = ratio_of_means(circuit, full)
    assert found.value == alone.value
    assert found.high - found.low > 1.5 * (alone.high - alone.low)
    # Copies of every prompt in its cluster change nothing.
    twice = ratio_of_means(np.tile(circuit, 2), np.tile(full, 2), clusters=np.tile(cluster, 2))
    np.testing.assert_allclose(twice, found, rtol=1e-12)
    one = ratio_of_means(circuit, full, clusters=np.zeros(60))
    assert np.isnan([one.low, one.high]).all()
    spread = faithfulness(circuit, full, empty, clusters=cluster)
    assert spread.ratio_of_means == found


def test_near_prompts_are_counted_among_the_valid():
    full, empty = np.ones(10), np.zeros(10)
    full[9] = 0
    circuit = np.array([0.5, 1.5, 1.0, 0.49, 1.51, -3, 9, 0.7, 1.2, 5.0])
    found = faithfulness(circuit, full, empty)
    assert found.invalid == pytest.approx(0.1)
    assert found.within.value == pytest.approx(5 / 9)
    assert found.within.low < 5 / 9 < found.within.high


def test_accuracy_is_measured_from_the_empty_circuit():
    """IOI under mean ablation: nothing at all is right on 66% of a two-way choice."""
    full, empty, circuit = (np.arange(100) < n for n in (100, 66, 92))
    found = kept_accuracy(circuit, full, empty)
    assert found.value == pytest.approx((92 - 66) / (100 - 66), rel=1e-12)
    assert preservation(circuit, full).value == pytest.approx(0.92)
    assert np.isnan(kept_accuracy(circuit, full, full).value)
