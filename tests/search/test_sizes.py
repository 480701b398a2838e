"""Circuits of every size: the likeliest nodes by one probability, whenever a size is read."""

import jax
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.search import MaskConfig, Tree, init_masks, mask_ranks, schedule, search_masks
from hagd_jax.search.hard_concrete import TEMPERATURE
from hagd_jax.search.schedule import trained_at
from hagd_jax.search.top import highest
from hagd_jax.testbeds import hand_built, scrambled
from hagd_jax.units import Nodes, neurons

TOTAL = 12
LEVELS = (np.arange(TOTAL) // 6, np.arange(TOTAL) // 3)


@settings(max_examples=40)
@given(st.integers(0, 1000), st.booleans(), st.floats(0.1, 4))
def test_every_size_has_the_likeliest_nodes_in_float64(seed, flat, spread):
    """Π σ(α − τ + T log 11) over levels, at the τ that SciPy finds for the size; all sizes.

    Ranks of size 12 have the float32's largest shift instead, so there only the order counts; and
    where two nodes are within 1e-4 of each other, either may be kept.
    """
    rng, rows = np.random.default_rng(seed), () if flat else LEVELS
    tree, sizes = Tree.of(rows), np.arange(1, TOTAL + 1)
    state = init_masks(jax.random.key(0), np.zeros(TOTAL), MaskConfig(), tree=tree, sizes=TOTAL)
    kept = [rng.normal(0, spread, x.shape).astype(np.float32) for x in state.kept]
    ranks = mask_ranks(state.replace(kept=kept), sizes, tree)
    for size, row, *own in zip(sizes, ranks, *kept, strict=True):
        each = [np.float64(level[place]) for level, place in zip(own, rows, strict=False)]
        each = np.stack([*each, np.float64(own[-1])])

        def chance(shift, each=each):
            return -np.logaddexp(0, shift - each - TEMPERATURE * np.log(11)).sum(0)

        def off(shift, size=size, chance=chance):
            return np.exp(chance(shift)).sum() - size

        shift = -60.0
        if size < TOTAL:
            shift = scipy.optimize.brentq(off, -60, 60)
            np.testing.assert_allclose(row, chance(shift), rtol=1e-3, atol=1e-4)
        chosen, right = highest(row, size), chance(shift)
        assert chosen.sum() == size
        assert right[chosen].min() >= right[~chosen].max(initial=-np.inf) - 1e-4 * abs(right).max()


def test_levels_that_have_not_joined_still_rank_nodes():
    """Nodes of one cluster are told apart by what they begin with, not by their numbers."""
    tree = Tree.of([np.zeros(4, int)])
    state = init_masks(jax.random.key(0), np.array([0.0, 3.0, 1.0, 2.0]), MaskConfig(), tree=tree)
    assert np.argsort(-mask_ranks(state, [2], tree)[0]).tolist() == [1, 3, 2, 0]


@settings(max_examples=40)
@given(
    st.integers(1, 30), st.integers(1, 50), st.integers(1, 3), st.floats(0.05, 1),
    st.floats(0.01, 1), st.floats(0.01, 1),
)  # fmt: skip
def test_sizes_are_read_when_passed_or_at_the_end(least, steps, levels, start, shrinking, opening):
    """Of 40 nodes: a size's own expected size comes after the levels have joined, or it is 0."""
    config = MaskConfig(steps=steps, start=start, shrinking=shrinking, opening=opening)
    plan = schedule(config, 40, least, levels)
    assert plan.opened[-1].all()
    sizes = np.arange(1, 41)
    joined = np.flatnonzero(plan.opened.all(1))[0]
    for size, asked in zip(sizes, trained_at(sizes, config, plan), strict=True):
        assert asked in (0, size)
        read = np.flatnonzero(plan.size >= 0.999 * asked)
        assert len(read)
        assert read[-1] >= min(joined, steps - 1)
        if asked == 0 or size <= least:
            assert read[-1] == steps - 1


@pytest.mark.parametrize("tree", [False, True])
def test_large_circuits_leave_out_what_matters_least(tree):
    """Of sorting's 11 nodes 5 do nothing. Sizes above the first expected size, 8.8, among them.

    In the order of the nodes, circuits of 9 and 10 would lose 6 to 7 nats.
    """
    case = scrambled({case.name: case for case in hand_built()}["sorting"], 1)
    space, truth = neurons(case.model).space, case.truth["counterfactual"]
    heads = space.layers * space.heads
    idle = np.ones(space.nodes, bool)
    for node in truth:
        width, first = (space.heads, 0) if node.kind == "head" else (space.features, heads)
        idle[first + node.layer * width + node.index] = False
    config = MaskConfig(steps=100, batch_size=16, learning_rate=0.1, check_every=100)
    scores, sizes = Nodes.full(space, 0.0), [6, 7, 8, 9, 10, 11]
    assert 8 < config.start * space.nodes < 9
    over = Tree.of([idle.astype(int)]) if tree else None
    made = search_masks(case.model, case.prompts, scores, sizes, config, tree=over)
    for size in sizes:
        left_out = ~made.circuits[size].flat()
        assert left_out.sum() == space.nodes - size
        assert idle[left_out].all()


def test_states_of_other_searches_are_refused():
    tree, config = Tree.of(LEVELS), MaskConfig()
    state = init_masks(jax.random.key(0), np.zeros(TOTAL), config, tree=tree, sizes=2)
    for sizes, other in (([1, 2, 3], tree), ([1, 2], None), ([1, 2], Tree.of(LEVELS[:1]))):
        with pytest.raises(InputError, match="Go on with the sizes"):
            mask_ranks(state, sizes, other)
    with pytest.raises(InputError, match="12 nodes; expected 3"):
        init_masks(jax.random.key(0), np.zeros(3), config, tree=tree)
