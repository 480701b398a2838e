"""Gates over trees of units: against enumeration of all states of small trees."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.search.hard_concrete import open_probability
from hagd_jax.search.unit_circuit import mask_row
from hagd_jax.search.unit_config import UnitMaskConfig
from hagd_jax.search.unit_levels import (
    OPEN,
    Gates,
    cost_at,
    expected_size,
    held_shift,
    levels_of,
    mask_of,
    start_gates,
)
from hagd_jax.search.unit_read import read_units
from hagd_jax.search.unit_sizes import Limit, limits_of, plan_of
from hagd_jax.tasks import Seen
from hagd_jax.units import Space
from hagd_jax.units.tree import tree_of
from hagd_jax.units.unit import require_antichain
from tests.units.trees import trees

SPACE = Space(1, 2, 3)


def small(levels=(), *, space=SPACE, band=1):
    return tree_of(space, "neurons", [np.array(row) for row in levels], band, Seen.nothing())


TREES = {
    "no clusters": small(),
    "two layers": small(space=Space(2, 1, 2), band=2),
    "a cluster": small([[0, 1, 2, 2, 3]]),
    "one leaf": small(space=Space(1, 1, 0)),
    "no unit above the blocks": small(space=Space(2, 2, 0), band=1),
    "one head and one neuron": small(space=Space(1, 1, 1)),
}


def gates_of(tree, rng):
    inner, leaves = len(tree.layout.kind), tree.space.nodes
    return Gates(*(rng.uniform(size=n) for n in (inner, inner, leaves)))


def chain_of(tree, kept, opened, leaves):
    """The antichain that binary gates describe, by walking down the tree; keys are unit names."""
    found, waiting = [], list(tree.roots)
    while waiting:
        unit = waiting.pop()
        if unit.leaf:
            found += [unit] if leaves[unit.ranges[0][0]] else []
        elif kept[unit.name]:
            if opened[unit.name]:
                waiting += below(tree, unit)
            else:
                found.append(unit)
    return found


@functools.cache
def below(tree, unit):
    return tree.children(unit)


def by_name(tree, values):
    """Values of inner units, which come by depth, as a mapping from names."""
    return dict(zip(names_of(tree), values, strict=True))


@functools.cache
def names_of(tree):
    return [tree.inner(int(n)).name for n in levels_of(tree).number]


@pytest.mark.parametrize("name", TREES)
def test_expected_sizes_and_masks_are_those_of_all_states(name):
    """Every combination of gates is walked by itself; float32 sums of at most 2^11 terms."""
    tree, rng = TREES[name], np.random.default_rng(0)
    levels, chances = levels_of(tree), gates_of(TREES[name], rng)
    flat = np.concatenate(chances)
    states = np.array(list(itertools.product([0, 1], repeat=len(flat))))
    weights = np.where(states, flat, 1 - flat).prod(1)
    cuts = np.cumsum([len(row) for row in chances])[:-1]
    split = [np.split(state, cuts) for state in states]
    chains = [chain_of(tree, by_name(tree, k), by_name(tree, o), n) for k, o, n in split]
    units = weights @ [len(chain) for chain in chains]
    masks = np.array([mask_row(tree, chain) for chain in chains])
    for chain in chains:
        require_antichain("units", chain)
    found = expected_size(levels, Gates(*map(jnp.float32, chances)))
    assert units > 0
    np.testing.assert_allclose(found, (units, weights @ masks.sum(1)), rtol=2e-6)
    drawn = mask_of(levels, Gates(*(jnp.asarray(row, jnp.float32) for row in zip_(split))))
    np.testing.assert_array_equal(drawn, masks)
    # The mask is linear in each gate, so that of the chances is the expected one.
    mean = mask_of(levels, Gates(*map(jnp.float32, chances)))
    np.testing.assert_allclose(mean, weights @ masks, rtol=2e-6, atol=1e-7)


def zip_(split):
    return (np.stack(rows) for rows in zip(*split, strict=True))


@given(trees(least=2), st.integers(0, 999), st.floats(0.02, 0.98))
@settings(max_examples=3)
def test_the_cost_is_held_at_any_level(tree, seed, share):
    """Within 1e-3 of the cost asked for, as float32 logits allow."""
    levels, rng = levels_of(tree), np.random.default_rng(seed)
    logits = Gates(*(jnp.float32(4 * row - 2) for row in gates_of(tree, rng)))
    weight = 0.3
    asked = share * 0.98 * float(cost_at(levels, logits, weight, OPEN))
    shift = held_shift(levels, logits, asked, weight)
    assert float(cost_at(levels, logits, weight, shift)) == pytest.approx(asked, rel=1e-3)
    # All of it cannot cost more than that; such a cost is cut, and still has a finite gradient.
    far, slope = jax.value_and_grad(lambda own: held_shift(levels, own, 1e9, weight))(logits)
    assert OPEN < far < 0
    assert all(bool(jnp.isfinite(row).all()) for row in slope)


def test_the_gradient_of_the_shift_keeps_the_cost():
    """d cost(α, τ(α)) / dα = 0 for g and s alike, up to float32 rounding."""
    tree = TREES["two layers"]
    levels = levels_of(tree)
    logits = Gates(*(jnp.float32(row) for row in gates_of(tree, np.random.default_rng(1))))
    whole = jax.grad(lambda own: cost_at(levels, own, 0.5, held_shift(levels, own, 2.0, 0.5)))
    alone = jax.grad(lambda own: cost_at(levels, own, 0.5, 0.0))
    assert max(float(jnp.abs(row).max()) for row in alone(logits)) > 0.1
    assert max(float(jnp.abs(row).max(initial=0)) for row in whole(logits)) < 1e-5


@given(trees(), st.integers(0, 999), st.data())
@settings(max_examples=40)
def test_circuits_are_antichains_within_their_limit(tree, seed, data):
    """Rounded logits tie often; a larger limit never takes a unit of the smaller one away."""
    levels, total, rng = levels_of(tree), tree.space.nodes, np.random.default_rng(seed)
    logits = Gates(*(np.round(3 * rng.normal(size=row.shape)) for row in gates_of(tree, rng)))
    most = data.draw(st.integers(1, total))
    limit = Limit(data.draw(st.integers(1, most)), most, np.inf, 0.0)
    found = read_units(tree, levels, logits, limit)
    assert tree.antichain(found.units) == found.units
    assert 1 <= len(found.units) <= limit.units
    assert found.leaves <= limit.leaves
    assert read_units(tree, levels, logits, limit) == found
    # By walking at the shift of the last unit: all of that circuit that is not a tie is in it.
    opened = np.asarray(open_probability(jnp.asarray(logits.opened))) > 0.5
    opened |= np.asarray(levels.sizes) > limit.leaves
    at = [np.asarray(row) > min(found.ranks) for row in (logits.kept, logits.leaves)]
    walked = chain_of(tree, by_name(tree, at[0]), by_name(tree, opened), at[1])
    assert {unit.name for unit in walked} <= {unit.name for unit in found.units}
    tied = [unit for unit, rank in zip(found.units, found.ranks, strict=True)
            if rank > min(found.ranks)]  # fmt: skip
    assert len(walked) == len(tied)


def test_a_cost_limits_units_and_leaves_together():
    tree = small()
    levels = levels_of(tree)
    logits = Gates(np.array([9.0, 3, 2]), np.array([9.0, -9, -9]), np.zeros(5))
    (limit,) = limits_of([3.0], 5, 0.5)
    # attention 0 has 2 leaves and costs 2; mlp 0 has 3 and would cost 2.5 more.
    assert [u.name for u in read_units(tree, levels, logits, limit).units] == ["attention 0"]
    # A unit that is too large alone counts as opened.
    names = [u.name for u in read_units(tree, levels, logits, Limit(1, 1, 2.0, 1.0)).units]
    assert names == ["head 0.0"]


def test_units_of_equal_scores_begin_whole_and_others_opened():
    tree = small(space=Space(1, 1, 64))
    levels = levels_of(tree)
    at = list(by_name(tree, range(2)).items())
    place = dict(at)["mlp 0"]
    one = np.zeros(65)
    one[7] = 1
    equal, unequal, none = (start_gates(levels, x) for x in (np.ones(65), one, np.zeros(65)))
    assert float(equal.opened[place]) == -3
    assert float(unequal.opened[place]) == 3
    assert float(none.opened[place]) == 3
    assert int(unequal.leaves.argmax()) == 7
    # The mean of the members' own plus 1, and nothing that depends on the scale of the scores.
    np.testing.assert_allclose(unequal.kept[place], unequal.leaves[1:].mean() + 1, rtol=1e-5)
    again = start_gates(levels, 1e-30 * one)
    np.testing.assert_array_equal(again.opened, unequal.opened)


@given(st.integers(1, 6), st.integers(4, 80), st.floats(0.1, 1.0), st.integers(0, 99))
@settings(max_examples=50)
def test_every_size_has_a_plateau_and_costs_fall_to_it(count, steps, plateau, seed):
    rng = np.random.default_rng(seed)
    costs = np.unique(rng.uniform(2, 100, count))[::-1].tolist()
    config = UnitMaskConfig(steps=steps, plateau=plateau)
    limits = limits_of(costs, 100, config.leaf_weight)
    if plateau * steps < len(costs):
        with pytest.raises(InputError, match="plateau"):
            plan_of(limits, config, (100.0, 200.0))
        return
    plan = plan_of(limits, config, (100.0, 200.0))
    assert plan.cost.shape == plan.weight.shape == (steps,)
    assert (np.diff(plan.cost) <= 1e-4).all()
    for k, cost in enumerate(costs):
        last = plan.reading[:, k].sum() - 1
        assert plan.cost[last] == np.float32(cost)
        still = math.floor(plateau * steps / len(costs))
        assert (plan.cost == np.float32(cost)).sum() >= max(still, 1)
    assert plan.reading[-1].tolist() == [False] * (len(costs) - 1) + [True]


@pytest.mark.parametrize(
    "sizes",
    [[], [(3, 2)], [(0, 4)], [(1, 99)], [(2, 4, 6)], [(2.0, 4)], [0.5], [1e9], [float("nan")],
     [(1, 2), (2, 4)], [(2, 2), (1, 4)], [(2, 4), (2, 4)], [(2, 4), 3.0], ["5"], "55", None,
     [True], [(True, True)]],
)  # fmt: skip
def test_sizes_that_no_antichain_has_are_refused(sizes):
    with pytest.raises(InputError, match="sizes"):
        limits_of(sizes, 10, 0.02)
