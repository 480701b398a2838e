"""Repair: never worse, right where the neighbourhood holds the truth; and masks over edges."""

import numpy as np
import pytest

from hagd_jax.baselines import exhaustive, random_scores
from hagd_jax.causal import Ablation, behaviour
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.search import MaskConfig, RepairConfig, repair, search_masks, top_nodes
from hagd_jax.search.objective import target_of
from hagd_jax.search.repair import _slope_of
from hagd_jax.tasks import look
from hagd_jax.testbeds import hand_built, true_edges
from hagd_jax.units import Nodes, Scores, components, neurons

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
    made = search_masks(case.model, case.prompts, scores, [size], config, dictionary=parts)
    assert len(made.state.logits[-1]) == int(parts.space.count())
    assert (made.circuits[size].flat() == truth.flat()).all()
    assert made.found
    with pytest.raises(InputError, match=r"circuit: got Nodes.*; expected Edges\."):
        repair(case.model, case.prompts, Nodes.full(neurons(case.model).space, True),
               dictionary=parts)  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 10])
@pytest.mark.parametrize("pairs", [0, 4])
def test_circuits_that_have_nothing_to_swap_come_back(size, pairs):
    """Empty ones, whole ones, and with a single member where only swaps of many are measured."""
    case = CASES["both"]
    start = top_nodes(random_scores(neurons(case.model).space), size)
    config = RepairConfig(rounds=3, pairs=pairs, batch_size=64)
    found = repair(case.model, case.prompts, start, config)
    assert len(found.mask) == size
    assert found.losses[-1] <= found.losses[0]
    assert found.found == (size == 10)
    if size != 1:
        assert (found.mask.flat() == start.flat()).all()


def test_repair_measures_what_masks_were_trained_under(monkeypatch):
    """Half counterfactual, half mean, for a circuit that has seen both; by the judge's passes."""
    case = CASES["both"]
    space = neurons(case.model).space
    start = top_nodes(Scores(random_scores(space, 3).values, look(ablation="mean")), 4)

    def measured(mask, ablation):
        found = behaviour(case.model, case.prompts, [mask], batch_size=64,
                          ablation=Ablation(ablation, case.prompts), with_model=True)  # fmt: skip
        whole = np.float64(found.metric[0])
        return found.kl[1].mean() + (((found.metric[1] - whole) / whole.mean()) ** 2).mean()

    one, other = (measured(start.mask, name) for name in ("counterfactual", "mean"))
    assert abs(one - other) > 0.01 * one
    shares = {None: (one + other) / 2, 0.0: one, 0.25: 0.75 * one + 0.25 * other}
    for mean, expected in shares.items():
        found = repair(case.model, case.prompts, start, RepairConfig(batch_size=64, mean=mean))
        assert found.losses[0] == pytest.approx(expected, rel=1e-4)
        assert found.mask.seen.ablations == ("counterfactual", "mean")
    alone = repair(case.model, case.prompts, top_nodes(random_scores(space, 3), 4))
    assert alone.losses[0] == pytest.approx(one, rel=1e-4)
    assert alone.mask.seen == look(
        case.prompts, ablation="counterfactual", model=case.model, dictionary="neurons"
    )
    # Who leaves and who enters is proposed by the slope of the loss that is measured.
    parts, row = neurons(case.model).bare(), np.full(space.nodes, 0.7, np.float32)
    target = target_of(case.model, case.prompts, 64, means=parts)
    slope = _slope_of(case.model, parts, target, row, RepairConfig(mean=1.0))
    steep = np.flatnonzero(abs(slope) > 0.1)
    assert len(steep) == 3
    # No circuit lies between two, so the judge refuses what slopes are taken at.
    monkeypatch.setattr("hagd_jax.causal.ablation.require_mask", lambda *_: None)
    for node in steep:
        step = 1e-2 * (np.arange(space.nodes) == node).astype(np.float32)
        ends = [measured(Nodes.from_flat(space, near), "mean") for near in (row + step, row - step)]
        assert slope[node] == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.02)


def test_no_round_changes_nothing_and_bad_numbers_are_refused():
    case = CASES["both"]
    start = top_nodes(random_scores(neurons(case.model).space), 3)
    found = repair(case.model, case.prompts, start)
    assert (found.mask.flat() == start.flat()).all()
    assert found.evaluations == 1
    for change in ({"rounds": -1}, {"pairs": -1}, {"batch_size": 0}, {"mean": 2}, {"rounds": 0.5}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            RepairConfig(**change)
