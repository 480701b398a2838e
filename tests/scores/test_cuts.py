"""Measured cuts against circuits measured one by one."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.scores import CutConfig, cuts, eap
from hagd_jax.search import RepairConfig, measured_losses
from hagd_jax.tasks import make_prompts
from hagd_jax.testbeds import hand_built
from hagd_jax.units import components, neurons
from hagd_jax.units.rows import count, flat, unflat
from tests.models.noise import noisy
from tests.scores.test_relevance import PLAIN

CASES = {case.name: case for case in hand_built()}
MODEL = noisy(PLAIN, 4)
ROWS, OTHER = np.random.default_rng(2).integers(0, 12, (2, 12, 5)).tolist()
PROMPTS = make_prompts(ROWS, OTHER, [1, 2] * 6, [3, 4] * 6, vocab_size=12)


def without(parts, *places):
    row = np.ones(count(parts), bool)
    row[list(places)] = False
    return unflat(parts, row)


@pytest.mark.parametrize("of", ["nodes", "edges"])
def test_effects_are_the_losses_of_circuits_that_lack_a_part(of):
    parts = components(MODEL) if of == "edges" else neurons(MODEL)
    found = cuts(MODEL, PROMPTS, CutConfig(batch_size=5, at_once=7, metric=0.5), dictionary=parts)
    each = [without(parts, place) for place in range(count(parts))]
    config = RepairConfig(batch_size=12, metric=0.5)
    losses = measured_losses(MODEL, PROMPTS, each, config, dictionary=parts)
    # Sums over prompts are taken in another order.
    np.testing.assert_allclose(flat(parts, found.alone.values), losses, rtol=1e-4, atol=1e-6)
    assert losses.max() > 1e-3
    assert found.evaluations == count(parts) * 12
    assert found.scores.seen.ablations == ("counterfactual",)
    np.testing.assert_array_equal(found.scores.flat(), found.alone.flat())


def test_pairs_exceed_their_members_by_what_is_measured():
    case = CASES["either"]
    parts = neurons(case.model)
    found = cuts(case.model, case.prompts, CutConfig(pairs=10))
    every = [*itertools.combinations(range(10), 2)]
    assert found.pairs.tolist() == [list(pair) for pair in every]
    both = measured_losses(
        case.model, case.prompts, [without(parts, *pair) for pair in every],
        RepairConfig(batch_size=81),
    )  # fmt: skip
    alone = found.alone.flat()
    excess = both - alone[found.pairs].sum(1)
    np.testing.assert_allclose(found.excess, excess, rtol=1e-3, atol=1e-4)
    assert excess.max() > 1
    most = [max(0, *(e for e, pair in zip(excess, every, strict=True) if i in pair))
            for i in range(10)]  # fmt: skip
    np.testing.assert_allclose(found.scores.flat(), alone + most, rtol=1e-3, atol=1e-4)
    assert found.evaluations == 81 * (10 + 45)


def test_the_first_scores_choose_the_pairs():
    case = CASES["either"]
    values = np.zeros(10, np.float32)
    values[[2, 7, 5]] = -1.0, 3.0, 2.0
    first = eap(case.model, case.prompts[:4]).like(values)
    found = cuts(case.model, case.prompts[4:], CutConfig(pairs=3), first=first)
    assert found.pairs.tolist() == [[2, 5], [2, 7], [5, 7]]
    assert found.scores.seen.has(case.prompts).all()


def test_bad_input_is_refused():
    case = CASES["either"]
    first = eap(case.model, case.prompts)
    with pytest.raises(InputError, match="first"):
        cuts(case.model, case.prompts, first=first, dictionary=components(case.model))
    bad: Any
    for bad in ({"pairs": -1}, {"batch_size": 0}, {"at_once": 0}, {"metric": -1.0}):
        with pytest.raises(ConfigError):
            CutConfig(**bad)
    with pytest.raises(InputError, match="prompts"):
        cuts(case.model, [1, 2])  # type: ignore[arg-type]
    broken = case.model.replace(params=jax.tree.map(lambda x: x * np.nan, case.model.params))
    with pytest.raises(InputError, match="not finite"):
        cuts(broken, case.prompts)
