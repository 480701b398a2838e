"""The claims that decide, on numbers whose verdict is known: each gate, and what is too little."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal import Estimate
from hagd_jax.causal.claims import (
    least_share,
    members,
    minimality,
    necessity,
    size,
    sufficiency,
)
from hagd_jax.causal.gates import alone, within
from tests.causal.made_up import made_up

EXACT = {"metric": (5, 0, 5, 0), "kl": (0, 2, 0, 2), "right": (1, 0, 1, 0)}
CONTROLS = np.linspace(0.5, 2, 40)


def gates(**changes):
    return alone(made_up(**EXACT | changes)).passed


def test_an_estimate_fails_by_its_value_and_holds_by_its_whole_interval():
    assert within(Estimate(0.2, 0.1, 0.29), high=0.3) is True
    assert within(Estimate(0.2, 0.1, 0.31), high=0.3) is None
    assert within(Estimate(0.31, 0.1, 0.5), high=0.3) is False
    assert within(Estimate(0.8, 0.6, 1.2), 0.7, 1.3) is None
    nan = float("nan")
    assert within(Estimate(nan, nan, nan), 0.7) is None
    assert within(Estimate(0.5, nan, nan), 0.4) is None


def test_an_exact_circuit_is_sufficient_and_necessary():
    runs = made_up(**EXACT, controls=CONTROLS, others=[5.0] * 40)
    assert set(alone(runs).passed.values()) == {True}
    for claim in (sufficiency(runs), necessity(runs)):
        assert claim.verdict == "holds"
        assert claim.p_value == pytest.approx(1 / 41)
        assert claim.decides
    assert "same top token on 100%" in sufficiency(runs).says


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({"kl": (0, 2, 0.7, 2)}, "kl"),
        ({"metric": (5, 0, 3, 0)}, "faithfulness"),
        ({"metric": (5, 0, 7, 0)}, "faithfulness"),
        ({"right": (1, 0, np.arange(20) < 16, 0)}, "accuracy"),
        ({"right": (np.arange(20) < 10, 0, 1, 0)}, "able"),
        ({"right": (np.arange(20) < 12, 1, 1, 0)}, "accuracy"),
    ],
)
def test_each_gate_fails_alone(changes, gate):
    passed = gates(**changes)
    assert passed.pop(gate) is False
    assert False not in passed.values()
    runs = made_up(**EXACT | changes, controls=CONTROLS)
    assert sufficiency(runs).verdict == "fails"


def test_accuracy_counts_from_what_the_empty_circuit_gets_right():
    """The empty circuit is right on 66 of 100: 92 are 92% of the model's, and 76% of the rest."""
    right = tuple(np.arange(100) < n for n in (100, 66, 92, 66))
    runs = made_up(**EXACT | {"right": right}, count=100, controls=CONTROLS)
    found = alone(runs)
    assert found.preservation.value == pytest.approx(0.92)
    assert found.kept.value == pytest.approx(26 / 34)
    assert found.passed["accuracy"] is False
    claim = sufficiency(runs)
    assert claim.verdict == "fails"
    assert "76%" in claim.says
    assert "92% of the model's" in claim.says


@pytest.mark.parametrize(("own", "passed"), [(20, True), (17, None), (16, False)])
def test_where_four_prompts_tell_by_accuracy_the_models_own_is_the_measure(own, passed):
    """The empty circuit is right on 16 of 20; what it costs is too little to take a share of."""
    right = tuple(np.arange(20) < n for n in (20, 16, own, 16))
    assert gates(right=right)["accuracy"] is passed


def test_a_mean_of_one_does_not_hide_that_no_prompt_is_near():
    """Half of the prompts keep 30%, the others 170%: quartiles of .3 and 1.7, the mean is 1."""
    swing = np.where(np.arange(20) % 2, 1.7, 0.3)
    runs = made_up(**EXACT | {"metric": (5, 0, 5 * swing, 0)}, controls=CONTROLS)
    found = alone(runs).faithfulness
    assert found.ratio_of_means.value == pytest.approx(1)
    assert (found.lower_quartile, found.upper_quartile) == pytest.approx((0.3, 1.7))
    assert found.within.value == 0
    assert alone(runs).passed["spread"] is False
    assert sufficiency(runs).verdict == "fails"


@settings(max_examples=60)
@given(st.floats(0, 1.4), st.integers(8, 40))
def test_a_circuit_as_far_as_the_empty_one_never_holds(factor, count):
    """Whatever its metric and accuracy: its loss is that of the empty circuit, or nearly."""
    rng = np.random.default_rng(count)
    empty = rng.gamma(2, 1, count)
    runs = made_up(
        (5, 0, 5, 0), (0, empty, empty * max(factor, 0.31), empty), right=(1, 0, 1, 0),
        controls=CONTROLS * 9, count=count,
    )  # fmt: skip
    assert sufficiency(runs).verdict == "fails"


def test_where_ablation_changes_nothing_nothing_is_said():
    """KL 0 of the empty circuit: no circuit is too far, and none has shown anything."""
    runs = made_up((5, 5, 5, 5), (0, 0, 0, 0), controls=[0.0] * 40, others=[5.0] * 40,
                   members=[0.0, 0.0])  # fmt: skip
    for claim in (sufficiency(runs), necessity(runs), minimality(runs)):
        assert claim.verdict == "not enough data"
    few = np.where(np.arange(20) < 4, 2.0, 0.0)
    runs = made_up((5, 5 - few, 5, 5 - few), (0, few, 0, few), right=(1, 1 - few / 2, 1, 0),
                   controls=CONTROLS, others=[5.0] * 40)  # fmt: skip
    assert sufficiency(runs).verdict == necessity(runs).verdict == "not enough data"
    assert "on 4 prompts" in sufficiency(runs).says


def test_controls_that_do_as_well_or_are_too_few():
    good = {"metric": (5, 0, 5, 0), "kl": (0, 2, 0.1, 2), "right": (1, 0, 1, 0)}
    same = [0.1] * 3 + [1.0] * 37
    claim = sufficiency(made_up(**good, controls=same))
    assert (claim.verdict, claim.p_value) == ("fails", pytest.approx(4 / 41))
    assert sufficiency(made_up(**good, controls=CONTROLS[:10])).verdict == "not enough data"
    assert sufficiency(made_up(**good, controls=[float("nan")] * 40)).verdict == "fails"
    others = [5.0] * 38 + [0.0] * 2
    claim = necessity(made_up(**good, others=others))
    assert (claim.verdict, claim.p_value) == ("fails", pytest.approx(3 / 41))


def test_necessity_asks_for_half():
    assert necessity(made_up((5, 0, 5, 3), (0, 2, 0, 2), others=[5.0] * 40)).verdict == "fails"
    swing = 2.4 + np.where(np.arange(20) % 2, 2.0, -2.0)
    claim = necessity(made_up((5, 0, 5, swing), (0, 2, 0, 2), others=[5.0] * 40))
    assert claim.effect.low < 0.5 < claim.effect.value
    assert claim.verdict == "not enough data"


def added(*rows, count=20, empty=2.0):
    """Runs in which each member adds so much to a KL of 0.1."""
    return made_up(
        (5, 0, 5, 0), (0, empty, 0.1, empty), count=count,
        members=[0.1 + np.broadcast_to(np.asarray(row, float), count) for row in rows],
    )  # fmt: skip


def test_members_are_needed_idle_or_undecided():
    first = lambda n, count=20: np.where(np.arange(count) < n, 1.0, 0.0)  # noqa: E731
    rng = np.random.default_rng(0)
    small = 1e-4 * (rng.normal(size=20) + 1)
    found = members(added(1.0, first(5), first(4), first(1), small, 0.0, -0.5))
    assert found.standing == (
        "needed", "needed", "undecided", "undecided", "idle", "undecided", "idle",
    )  # fmt: skip
    np.testing.assert_allclose(found.effect[:3], [0.5, 0.125, 0.1])
    assert found.p_value[1] == pytest.approx(0.5**5)


@pytest.mark.parametrize("informative", range(5))
def test_few_informative_prompts_never_fail(informative):
    """A member of a true circuit that matters on none to four of the prompts."""
    rare = np.where(np.arange(20) < informative, 3.0, 0.0)
    claim = minimality(added(1.0, 1.0, rare))
    assert claim.verdict == "not enough data"
    assert "and 1 are undecided on these prompts" in claim.says


def test_a_member_that_never_did_anything_is_idle_when_prompts_are_many():
    """0.9^n ≤ 0.05 / 3 from 39 prompts on, by Holm's correction for three members."""
    assert minimality(added(1.0, 1.0, 0.0, count=38)).verdict == "not enough data"
    claim = minimality(added(1.0, 1.0, 0.0, count=39))
    assert (claim.verdict, claim.effect.value) == ("fails", pytest.approx(1 / 3))


def test_worse_by_a_millionth_is_no_need():
    """Near KL 0 every removal worsens a near-whole circuit a little, significantly."""
    rng = np.random.default_rng(1)
    tiny = [1e-4 + 1e-5 * rng.random(64) for _ in range(30)]
    runs = added(*tiny, count=64)
    assert members(runs).p_value.max() < 1e-6
    assert minimality(runs).verdict == "fails"
    assert "0 are needed, 30 could be left out" in minimality(runs).says


def test_what_a_member_has_to_be_worth():
    assert least_share(3) == least_share(100) == 0.001
    assert least_share(1000) == pytest.approx(0.0001)


@pytest.mark.parametrize(
    ("members_", "units", "verdict"),
    [(507, 516, "fails"), (511, 516, "fails"), (345, 516, "fails"), (344, 516, "holds"),
     (1, 516, "holds")],
)  # fmt: skip
def test_a_near_whole_circuit_is_no_part(members_, units, verdict):
    claim = size(members_, units, "test", decides=True)
    assert claim.verdict == verdict
    assert claim.effect.value == members_ / units
    assert claim.says.startswith(f"it is {members_ / units:.1%} of the model")
    assert f": {members_} of 516 nodes" in claim.says
    told = size(members_, units, "test", decides=True, what="edges").says
    assert f": {members_} of 516 edges" in told


def test_what_was_not_run_says_so_and_settles_nothing():
    runs = made_up(**EXACT, controls=CONTROLS, others=[5.0] * 40, members=[2.0])
    rows = runs.found
    first = type(rows)(*(x[:4] for x in rows))
    runs = dataclasses.replace(runs, found=first, skipped="for a reason")
    for claim in (sufficiency(runs), necessity(runs), minimality(runs)):
        assert (claim.verdict, claim.standing) == ("not enough data", "not tested")
        assert claim.untested == claim.to_json()["untested"] == "for a reason"
        assert claim.says.endswith("not tested: for a reason")
    # Gates that the prompts leave open are a matter of data, and those that fail are settled.
    open_ = made_up(**EXACT | {"right": (np.arange(20) < 13, 0, np.arange(20) < 13, 0)})
    few = dataclasses.replace(open_, trials=runs.trials)
    assert sufficiency(few).standing == "not enough data"
    lost = dataclasses.replace(made_up(**EXACT | {"kl": (0, 2, 2, 0)}), trials=runs.trials)
    assert sufficiency(lost).standing == "fails"
