"""Restarts: the best of several searches, where one ends in a dead end."""

import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.search import MaskConfig, RepairConfig, measured_losses, search_restarts
from hagd_jax.testbeds import hand_built, scrambled
from hagd_jax.units import Nodes, neurons
from tests.search.test_mask_search import members

MASKS = MaskConfig(steps=400, batch_size=32, learning_rate=0.1, check_every=100)
SWAPS = RepairConfig(rounds=20, pairs=6, batch_size=64)


def test_the_best_of_several_searches_is_kept():
    """Parity in a guise in which the first search finds a circuit that no swap leads out of."""
    case = scrambled({case.name: case for case in hand_built()}["parity"], 1)
    nothing = Nodes.full(neurons(case.model).space, 0.0)
    truth = case.truth["counterfactual"]
    starts = [nothing] * 3
    best = search_restarts(case.model, case.prompts, starts, len(truth), MASKS, SWAPS, seed=1)
    assert members(best.mask) == set(truth)
    assert len(best.losses) == 3
    assert best.losses[0] > 10 * min(best.losses)
    (loss,) = measured_losses(case.model, case.prompts, [best.mask], SWAPS)
    assert loss == pytest.approx(min(best.losses), abs=1e-6)
    assert np.asarray(best.kept).shape == (nothing.space.nodes,)


def test_no_start_is_refused():
    case = hand_built()[0]
    with pytest.raises(InputError, match="one or more scores"):
        search_restarts(case.model, case.prompts, [], 2)
