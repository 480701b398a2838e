"""Matching of portraits: identities, brute force, and what it refuses."""

import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from hagd_jax.errors import ConfigError, InputError, MissingDependencyError
from hagd_jax.transfer import (
    MatchConfig,
    match,
    matching,
    role_similarity,
    structure_similarity,
)
from tests.transfer.fakes import portrait, reordered

COUNTS = st.integers(1, 7)
SEEDS = st.integers(0, 10_000)
ROLES = MatchConfig(structure=0)


@settings(max_examples=25)
@given(COUNTS, SEEDS, st.booleans())
def test_a_circuit_is_most_similar_to_itself_in_any_order(count, seed, shares):
    own = portrait(count, seed, shares=shares)
    order = np.random.default_rng(seed).permutation(count)
    found = match(own, reordered(own, order))
    assert found.similarity == pytest.approx(1, abs=1e-6)
    assert found.matched == pytest.approx(1)
    assert (found.plan.argmax(0) == order).all()
    assert [pair[0] for pair in found.partners()] == [pair[1] for pair in found.partners()]


@settings(max_examples=25)
@given(COUNTS, COUNTS, SEEDS, st.sampled_from([0.0, 0.3, 0.5, 0.95]))
def test_a_plan_matches_no_more_than_there_is(count, other, seed, weight):
    first, second = portrait(count, seed), portrait(other, seed + 1)
    found = match(first, second, MatchConfig(structure=weight))
    assert (found.plan >= 0).all()
    assert (found.plan.sum(1) <= 1 / count + 1e-9).all()
    assert (found.plan.sum(0) <= 1 / other + 1e-9).all()
    assert found.pairs[found.plan > 0].min(initial=1) >= MatchConfig().least
    for table in (found.roles, found.structures, found.pairs):
        assert table.min() >= 0
        assert table.max() <= 1 + 1e-9
    assert 0 <= found.similarity <= found.matched + 1e-9 <= 1 + 2e-9
    assert str(found).count("\n") == 2 + count + bool(found.left_over())


@settings(max_examples=25)
@given(st.integers(1, 5), SEEDS)
def test_roles_alone_find_the_best_assignment(count, seed):
    first = portrait(count, seed)
    near = first.values + 0.5 * np.random.default_rng(seed + 1).normal(size=first.values.shape)
    second = portrait(count, seed + 1, values=np.clip(near, -3, 3)[::-1])
    found = match(first, second, ROLES)
    rows, columns = linear_sum_assignment(-found.roles)
    best = found.roles[rows, columns]
    # Pairs below `least` had better be unmatched.
    assert (best > ROLES.least).all()
    assert found.role_similarity == pytest.approx(best.mean(), abs=1e-4)
    assert (found.plan.argmax(1) == columns).all()


def test_structure_decides_between_equal_roles():
    """Two units do the same; only one of them is read by the third."""
    own = portrait(3, 0)
    values = own.values.copy()
    values[1] = values[0]
    shares = np.zeros((5, 5))
    shares[0, 1] = shares[0, 2] = shares[1, 3] = shares[3, 4] = 1
    own = dataclasses.replace(own, values=values, shares=shares)
    other = reordered(own, [1, 0, 2])
    assert (match(own, other).plan.argmax(1) == [1, 0, 2]).all()
    # Either way round roles are as similar.
    assert match(own, other, ROLES).role_similarity == pytest.approx(1)


@settings(max_examples=25)
@given(st.integers(2, 5), SEEDS)
def test_structures_are_compared_as_in_the_definition(count, seed):
    """By loops over units, for a plan of pairs."""
    first, second = portrait(count, seed), portrait(count, seed + 1)
    order = np.random.default_rng(seed).permutation(count)
    plan = np.zeros((count, count))
    plan[np.arange(count), order] = 1 / count
    partner = [0, *(1 + order), count + 1]
    found = structure_similarity(first, second, plan)
    a, b = first.shares, second.shares
    by_a, by_b = (x / np.maximum(x.sum(1, keepdims=True), 1e-30) for x in (a, b))
    assert (found[plan == 0] == 0).all()
    for i, j in zip(range(1, count + 1), 1 + order, strict=True):
        into = sum(min(a[k, i], b[partner[k], j]) for k in range(count + 2))
        out = sum(min(by_a[i, k], by_b[j, partner[k]]) for k in range(count + 2))
        if not by_a[i].any() and not by_b[j].any():
            out = 1
        assert found[i - 1, j - 1] == pytest.approx((into + out) / 2, abs=1e-9)


def test_what_nothing_resembles_stays_unmatched():
    own = portrait(4, 0)
    values = np.concatenate([own.values, np.full_like(own.values[:1], 3.0)])
    more = portrait(5, 0, values=values, shares=False)
    found = match(more, dataclasses.replace(own, shares=None))
    assert found.partners()[-1] == (more.names[-1], "", 0.0)
    assert found.matched == pytest.approx(0.8)
    far = dataclasses.replace(own, values=-own.values, shares=None)
    none = match(dataclasses.replace(own, values=np.abs(own.values), shares=None),
                 dataclasses.replace(far, values=-np.abs(own.values)))  # fmt: skip
    assert none.similarity == none.matched == 0
    assert "unmatched" in str(none)
    assert none.left_over() == own.names
    assert f"unmatched in the second: {own.names[0]}" in str(none)


def test_columns_that_one_of_two_units_does_not_know_do_not_count():
    own, other = portrait(2, 0), portrait(2, 1)
    known = np.ones_like(own.known)
    known[:, 5:] = False
    blind = dataclasses.replace(own, known=known)
    expected = 1 - ((own.values[:, None, :5] - other.values[None, :, :5]) ** 2).mean(-1) / 2
    np.testing.assert_allclose(role_similarity(blind, other), np.clip(expected, 0, 1))
    nothing = dataclasses.replace(own, known=np.zeros_like(known))
    assert (role_similarity(nothing, other) == 0).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("values", np.nan), ("values", np.inf), ("shares", np.nan), ("depth", np.nan)],
)
def test_numbers_that_are_none_are_refused(field, value):
    own = portrait(3, 0)
    changed = getattr(own, field).copy()
    changed.flat[1] = value
    with pytest.raises(InputError, match=f"{field} of a portrait: got NaN"):
        dataclasses.replace(own, **{field: changed})


def test_numbers_that_no_measurement_gives_are_refused():
    own = portrait(3, 0)
    for words, change in (
        ("deviations", {"values": own.values + 9}),
        ("not bool", {"known": own.known.astype(float)}),
        ("depth", {"depth": own.depth - 1}),
        ("shares", {"shares": -own.shares}),
        ("shares", {"shares": 5 * own.shares}),
        ("printable", {"names": ("a", "b", "\x1b[2J")}),
        ("array of numbers", {"values": own.values.astype(str)}),
        ("array of numbers", {"values": own.values.astype(complex)}),
    ):
        with pytest.raises(InputError, match=words):
            dataclasses.replace(own, **change)


@settings(max_examples=25)
@given(COUNTS, COUNTS, SEEDS, st.sampled_from([0.3, 0.5, 0.95]))
def test_embedding_and_logits_are_matched_with_each_other(count, other, seed, weight):
    """All mass that is asked for is that of units."""
    first, second = portrait(count, seed), portrait(other, seed + 1)
    plans = matching._plans(first, second, role_similarity(first, second), weight, 5)
    for share, plan in zip((1.0, 0.8, 0.6, 0.4, 0.2), plans, strict=True):
        assert plan.sum() == pytest.approx(share, abs=1e-6)


def test_one_portrait_without_structure_is_told_so():
    with pytest.raises(InputError, match="structure in one of two"):
        match(portrait(3, 0), portrait(3, 1, shares=False))
    assert match(portrait(3, 0), portrait(3, 1, shares=False), ROLES).weight == 0


def test_impossible_portraits_are_refused():
    own = portrait(3, 0)
    with pytest.raises(InputError, match=r"shares of a portrait: got shape \(4, 5\)"):
        dataclasses.replace(own, shares=own.shares[1:])
    with pytest.raises(InputError, match="no unit"):
        dataclasses.replace(own, units=())
    with pytest.raises(InputError, match="first"):
        match(own.values, own)


@pytest.mark.parametrize(
    "wrong",
    [{"structure": 1.0}, {"structure": -0.1}, {"least": 1.0}, {"steps": 0}, {"steps": 1.5},
     {"structure": float("nan")}, {"least": True}],
)  # fmt: skip
def test_impossible_weights_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MatchConfig(**wrong)


def test_without_pot_it_says_how(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingDependencyError, match=r"hagd-jax\[transfer\]"):
        match(portrait(2, 0), portrait(2, 1))
