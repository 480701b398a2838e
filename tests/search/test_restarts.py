"""Restarts: the best of several searches, where one ends in a dead end; and finding nothing."""

import dataclasses

import numpy as np
import pytest

from hagd_jax.baselines import random_scores
from hagd_jax.errors import InputError, NoCircuitError
from hagd_jax.search import (
    MaskConfig,
    RepairConfig,
    is_found,
    measured_losses,
    repair,
    require_found,
    search_restarts,
)
from hagd_jax.tasks import look
from hagd_jax.testbeds import hand_built, scrambled
from hagd_jax.units import Nodes, Scores, neurons
from tests.search.test_mask_search import members

MASKS = MaskConfig(steps=400, batch_size=32, learning_rate=0.1, check_every=100)
SWAPS = RepairConfig(rounds=20, pairs=6, batch_size=64)
CASE = scrambled({case.name: case for case in hand_built()}["parity"], 1)
SPACE = neurons(CASE.model).space


def test_the_best_of_several_searches_is_kept():
    """Parity in a guise in which the first search finds a circuit that no swap leads out of."""
    nothing = Scores(Nodes.full(SPACE, 0.0), look(ablation="zero"))
    truth = CASE.truth["counterfactual"]
    starts = [nothing] * 2 + [random_scores(SPACE)]
    best = search_restarts(CASE.model, CASE.prompts, starts, len(truth), MASKS, SWAPS, seed=1)
    assert members(best.mask) == set(truth)
    # One without loss is the last that is tried.
    assert 2 <= len(best.losses) <= 3
    assert best.losses[0] > 10 * min(best.losses)
    assert best.found
    (loss,) = measured_losses(CASE.model, CASE.prompts, [best.mask], SWAPS)
    assert loss == pytest.approx(min(best.losses), abs=1e-6)
    assert best.ranks.shape == (SPACE.nodes,)
    # Of all starts, not of the one that was best.
    assert best.mask.seen.ablations == ("counterfactual", "zero")
    assert best.mask.seen.has(CASE.prompts).all()


def test_a_search_that_found_nothing_says_so():
    """Parity needs six nodes: with any three the model does what it does without all."""
    few = dataclasses.replace(MASKS, steps=100)
    best = search_restarts(CASE.model, CASE.prompts, [random_scores(SPACE)] * 2, 3, few,
                           RepairConfig(rounds=2, pairs=2, batch_size=64))  # fmt: skip
    assert not best.found
    (empty,) = measured_losses(CASE.model, CASE.prompts, [Nodes.full(SPACE, False)], SWAPS)
    assert empty > 1
    assert best.empty == pytest.approx(empty, rel=1e-5)
    assert min(best.losses) > 0.95 * empty
    again = repair(CASE.model, CASE.prompts, best.mask)
    assert not again.found
    with pytest.raises(NoCircuitError, match=r"circuit: got a loss of .*; expected at most 95%"):
        require_found(best.losses[0], best.empty)
    whole = repair(CASE.model, CASE.prompts, Nodes.full(SPACE, True))
    assert whole.found
    require_found(whole.losses[-1], whole.empty)


@pytest.mark.parametrize(
    ("loss", "empty", "found"),
    [(0, 1, True), (0.95, 1, True), (0.96, 1, False), (1, 1, False), (2, 1, False), (0, 0, False),
     (0, 1e-9, False), (np.nan, 1, False)],
)  # fmt: skip
def test_a_circuit_takes_away_a_share_of_the_empty_ones_loss(loss, empty, found):
    assert is_found(loss, empty) is found


def test_no_start_is_refused():
    with pytest.raises(InputError, match="one or more scores"):
        search_restarts(CASE.model, CASE.prompts, [], 2)
