"""Starts from measured cuts: what they cost, and where they lead."""

import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.scores import cuts, eap_edges
from hagd_jax.search import (
    MaskConfig,
    RepairConfig,
    best_start,
    measured_losses,
    search_cost,
    search_restarts,
    smallest_circuit,
    with_cuts,
)
from hagd_jax.testbeds import hand_built, true_edges
from hagd_jax.units import components, neurons
from hagd_jax.units.rows import count, flat

CASE = {case.name: case for case in hand_built()}["both"]
EDGES = components(CASE.model)
TRUTH = flat(EDGES, true_edges(CASE, "counterfactual")).astype(bool)
HALF = len(CASE.prompts) // 2
DISCOVER, SELECT = CASE.prompts[:HALF], CASE.prompts[HALF:]


def test_cuts_join_where_they_cost_less_than_the_search():
    total, n = count(EDGES), len(DISCOVER)
    start = {"eap": eap_edges(CASE.model, DISCOVER)}
    costs = MaskConfig(steps=total, batch_size=1)  # 3 prompts a part
    assert search_cost(costs) == 3 * total
    assert list(with_cuts(start, CASE.model, DISCOVER, costs, dictionary=EDGES)) == ["eap"]
    enough = MaskConfig(steps=n, batch_size=total)
    found = with_cuts(start, CASE.model, DISCOVER, enough, dictionary=EDGES)
    assert list(found) == ["cuts", "paired cuts", "eap"]
    plain = cuts(CASE.model, DISCOVER, dictionary=EDGES).alone
    np.testing.assert_allclose(found["cuts"].flat(), plain.flat(), rtol=1e-4, atol=1e-6)
    assert plain.flat().max() > 1
    # Sixteen prompts and no pairs.
    few = with_cuts({}, CASE.model, DISCOVER, MaskConfig(steps=6, batch_size=total),
                    dictionary=EDGES)  # fmt: skip
    assert list(few) == ["cuts"]
    assert len(few["cuts"].seen.prompts) == 18


def test_the_search_ends_at_the_circuit_that_cuts_show():
    starts = with_cuts({}, CASE.model, DISCOVER, dictionary=EDGES)
    size = int(TRUTH.sum())
    best = search_restarts(
        CASE.model, DISCOVER, list(starts.values()), size, MaskConfig(), dictionary=EDGES
    )
    np.testing.assert_array_equal(flat(EDGES, best.mask.mask).astype(bool), TRUTH)
    assert len(best.losses) == 1
    assert best.found
    assert best.mask.seen.has(DISCOVER).all()
    (loss,) = measured_losses(CASE.model, DISCOVER, [best.mask], RepairConfig(), dictionary=EDGES)
    assert loss == pytest.approx(best.losses[0], abs=1e-6)


def test_the_smallest_circuit_is_that_of_every_size_tried():
    effects = cuts(CASE.model, DISCOVER).alone
    parts = neurons(CASE.model)
    found = smallest_circuit(CASE.model, DISCOVER, effects, most=0.01)
    order = np.argsort(-effects.flat(), kind="stable")
    circuits = []
    for size in range(count(parts) + 1):
        row = np.zeros(count(parts), bool)
        row[order[:size]] = True
        circuits.append(found.mask.like(row))
    losses = measured_losses(CASE.model, DISCOVER, circuits)
    least = int(np.flatnonzero(losses <= 0.01 * losses[0])[0])
    assert 0 < least < count(parts)
    np.testing.assert_array_equal(found.flat(), circuits[least].flat())
    with pytest.raises(InputError, match="most"):
        smallest_circuit(CASE.model, DISCOVER, effects, most=2)


def test_scores_of_edges_are_compared_as_those_of_nodes():
    starts = with_cuts({}, CASE.model, DISCOVER, dictionary=EDGES)
    worst = starts["cuts"].like(-starts["cuts"].flat())
    both = {"worst": worst, "cuts": starts["cuts"]}
    found = best_start(CASE.model, SELECT, both, [int(TRUTH.sum())],
                       ablations=["counterfactual"], dictionary=EDGES)  # fmt: skip
    assert found.name == "cuts"
    assert found.losses["cuts"] < 1e-3 < found.losses["worst"]
