"""Several ablations in one step: values of each prompt, weights of losses, losses of circuits."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax import units
from hagd_jax.causal.partners import partners
from hagd_jax.search import UnitMaskConfig, unit_losses
from hagd_jax.search.objective import counterfactual, target_of
from hagd_jax.search.several import loss_weights, partners_of, replaced
from hagd_jax.testbeds import hand_built, scrambled

CASES = {case.name: scrambled(case, 1) for case in hand_built()}


def test_each_prompt_has_the_values_of_its_own_ablation():
    """Each ablation alone, beside all at once: rows are the same, exactly."""
    case = CASES["either"]
    parts, names = units.neurons(case.model).bare(), ("counterfactual", "mean", "resample", "zero")
    target = target_of(case.model, case.prompts, 16, means=parts)
    rows = jnp.arange(12)
    batch = target.take(rows, None)
    drawn = partners_of(case.model, case.prompts, 3).take(jnp.int32(2), rows, None)
    which = rows % 4
    mixed = replaced(case.model.bare(), parts, batch, drawn, which, names)
    for i, name in enumerate(names):
        alone = replaced(case.model.bare(), parts, batch, drawn if name == "resample" else None,
                         jnp.zeros(12, int), (name,))  # fmt: skip
        for site, value in mixed.items():
            mine = np.broadcast_to(alone[site], value.shape)[:, i::4]
            np.testing.assert_array_equal(value[:, i::4], mine)
    tokens, _ = partners(case.prompts, None, seed=2)
    np.testing.assert_array_equal(drawn[0], tokens[:12])
    as_pairs = dataclasses.replace(batch.prompts, corrupted=jnp.asarray(tokens[:12]))
    resampled = counterfactual(case.model.bare(), parts, as_pairs)
    assert any(np.abs(value).max() > 0 for value in resampled.values())
    np.testing.assert_array_equal(mixed["neuron"][:, 2::4], resampled["neuron"][:, 2::4])


def test_the_weakest_ablation_weighs_most():
    weights = np.asarray(loss_weights(jnp.array([1.0, 2.0, 3.0]), 0.25))
    np.testing.assert_allclose(weights, np.exp([2, 4, 6]) / np.exp([2, 4, 6]).sum(), rtol=1e-5)
    np.testing.assert_allclose(loss_weights(jnp.zeros(3), 0.25), 1 / 3, rtol=1e-6)


def test_losses_are_those_of_each_ablation():
    case = CASES["either"]
    tree = units.tree(case.model)
    losses = unit_losses(case.model, case.prompts, tree, [tree.roots, ()], UnitMaskConfig())
    assert list(losses) == ["counterfactual", "mean", "resample"]
    for row in losses.values():
        assert row[0] == pytest.approx(0, abs=1e-6)
        assert row[1] > 0.05
