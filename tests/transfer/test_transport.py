"""The transport solver against POT's own, against brute force and its definition."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ot.gromov import partial_fused_gromov_wasserstein

from hagd_jax.transfer.transport import Problem, transport

SEEDS = st.integers(0, 10_000)


def drawn(n, m, weight, seed):
    rng = np.random.default_rng(seed)
    return Problem(
        rng.random((n, m)), rng.random((n, n)), rng.random((m, m)), weight,
        np.full(n, 1 / n), np.full(m, 1 / m),
    )  # fmt: skip


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 4), SEEDS, st.floats(0, 1))
def test_objective_and_slope_are_those_of_the_definition(n, m, seed, weight):
    own = drawn(n, m, weight, seed)
    plan = np.random.default_rng(seed + 1).random((n, m))
    quadratic = sum(
        (own.first[i, k] - own.second[j, h]) ** 2 * plan[i, j] * plan[k, h]
        for i, k in itertools.product(range(n), repeat=2)
        for j, h in itertools.product(range(m), repeat=2)
    )
    expected = (1 - weight) * (own.cost * plan).sum() + weight * quadratic
    assert own.objective(plan) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for place in np.ndindex(n, m):
        moved = np.zeros((n, m))
        moved[place] = 1e-4
        # Central differences of a parabola have no error but rounding.
        change = (own.objective(plan + moved) - own.objective(plan - moved)) / 2e-4
        assert own.slope(plan)[place] == pytest.approx(change, rel=1e-6, abs=1e-6)


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 6), SEEDS, st.floats(0, 1), st.floats(0.05, 1))
def test_a_plan_has_the_mass_and_is_no_dearer_than_where_it_began(n, m, seed, weight, mass):
    own = drawn(n, m, weight, seed)
    plan = transport(own, mass)
    assert plan.sum() == pytest.approx(mass, abs=1e-9)
    assert plan.min() >= -1e-12
    assert (plan.sum(1) <= own.p + 1e-9).all()
    assert (plan.sum(0) <= own.q + 1e-9).all()
    begins = np.outer(own.p, own.q) * mass
    assert own.objective(plan) <= own.objective(begins) + 1e-12


@settings(max_examples=15)
@given(st.integers(2, 5), st.integers(2, 5), SEEDS, st.sampled_from([0.2, 0.5, 0.8]))
def test_it_is_as_cheap_as_what_pot_finds(n, m, seed, weight):
    own = drawn(n, m, weight, seed)
    theirs = partial_fused_gromov_wasserstein(
        own.cost, own.first, own.second, own.p, own.q, m=0.6, alpha=weight, symmetric=False,
        numItermax=1000,
    )  # fmt: skip
    ours = own.objective(transport(own, 0.6))
    # Both find local minima, by the same steps from the same plan; theirs takes more of them.
    assert ours <= own.objective(theirs) + 1e-3


def test_without_structure_it_finds_the_cheapest_of_all():
    """By brute force over assignments: of mass k/n as k pairs are the corners."""
    for seed in range(10):
        own = drawn(4, 4, 0.0, seed)
        for k in (1, 2, 3, 4):
            best = min(
                own.cost[list(rows), list(columns)].sum() / 4
                for rows in itertools.combinations(range(4), k)
                for columns in itertools.permutations(range(4), k)
            )
            assert own.objective(transport(own, k / 4)) == pytest.approx(best, abs=1e-6)
