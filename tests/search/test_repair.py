"""Repair: never worse, right where the neighbourhood holds the truth; and masks over edges."""

import numpy as np
import pytest

from hagd_jax.baselines import exhaustive, random_scores
from hagd_jax.errors import ConfigError
from hagd_jax.search import MaskConfig, RepairConfig, repair, search_masks, top_nodes
from hagd_jax.testbeds import hand_built, true_edges
from hagd_jax.units import Nodes, components, neurons

CASES = {case.name: case for case in hand_built()}
CONFIG = RepairConfig(rounds=20, pairs=8, batch_size=64)


@pytest.mark.parametrize("name", ["both", "either", "suppressed"])
def test_a_wrong_member_is_swapped_for_the_right_one(name):
    case = CASES[name]
    space, truth = neurons(case.model).space, case.truth["counterfactual"]
    heads = space.layers * space.heads
    right = np.zeros(space.nodes, bool)
    for node in truth:
        width, start = (space.heads, 0) if node.kind == "head" else (space.features, heads)
        right[start + node.layer * width + node.index] = True
    wrong = right.copy()
    wrong[[np.flatnonzero(right)[0], np.flatnonzero(~right)[0]]] = [False, True]
    found = repair(case.model, case.prompts, Nodes.from_flat(space, wrong), CONFIG)
    assert (found.mask.flat() == right).all()
    assert list(found.losses) == sorted(found.losses, reverse=True)
    assert len(found.losses) > 1
    assert found.evaluations > 4


def test_repair_ends_where_no_swap_helps():
    """From chance, against every circuit that one swap leads to."""
    case = CASES["both"]
    space = neurons(case.model).space
    every = exhaustive(case.model, case.prompts, CONFIG)
    for seed in range(3):
        start = top_nodes(random_scores(space, seed), 4)
        found = repair(case.model, case.prompts, start, CONFIG)
        now = found.mask.flat()
        assert now.sum() == 4
        assert found.losses[-1] <= found.losses[0]
        near = every.members[(every.members.sum(1) == 4) & ((every.members ^ now).sum(1) <= 2)]
        rows = near @ (1 << np.arange(space.nodes))
        assert found.losses[-1] <= every.losses[rows].min() * (1 + 1e-3) + 1e-6


def test_masks_over_edges_find_the_true_ones():
    case = CASES["both"]
    truth = true_edges(case, "counterfactual")
    parts = components(case.model)
    scores = parts.space.like(np.zeros(len(parts.space.flat()), np.float32))
    config = MaskConfig(steps=400, batch_size=16, learning_rate=0.1, check_every=100)
    size = int(truth.count())
    circuits, state = search_masks(
        case.model, case.prompts, scores, [size], config, dictionary=parts
    )
    assert len(state.logits[-1]) == int(parts.space.count())
    assert (circuits[size].flat() == truth.flat()).all()


def test_no_round_changes_nothing_and_bad_numbers_are_refused():
    case = CASES["both"]
    start = top_nodes(random_scores(neurons(case.model).space), 3)
    found = repair(case.model, case.prompts, start)
    assert (found.mask.flat() == start.flat()).all()
    assert found.evaluations == 1
    for change in ({"rounds": -1}, {"pairs": -1}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            RepairConfig(**change)
