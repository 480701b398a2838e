"""Masks: a batch that is not finite leaves no trace; a model that is not is refused."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.search import MaskConfig, Tree, init_masks, repair, search_many, search_masks
from hagd_jax.search.mask_steps import Search, traced, update
from hagd_jax.search.objective import target_of
from hagd_jax.testbeds import hand_built
from hagd_jax.units import Nodes, neurons

CASE = hand_built()[0]
PARTS = neurons(CASE.model)
CONFIG = MaskConfig(steps=4)


def broken(value):
    """The model, with a number that is none where the first token of the last prompts is read."""
    params = CASE.model.params
    table = params["embed"]["embedding"]
    row = int(CASE.prompts.clean[-1, 0])
    return CASE.model.replace(
        params=params | {"embed": {**params["embed"], "embedding": table.at[row, 0].set(value)}}
    )


@functools.cache
def step():
    config = traced(CONFIG)
    search = Search(PARTS, Tree(()), jnp.array([3.0]))

    @jax.jit
    def one(model, batch, state):
        return update(model, search, batch, batch.scale(), state, (5.0, jnp.array([True])), config)

    return one


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_batch_leaves_masks_and_adam_as_they_were(value):
    """The batch's prompts are good; the masked model overflows on them."""
    target = target_of(CASE.model, CASE.prompts, 16)
    state = init_masks(jax.random.key(0), np.arange(10.0), CONFIG)
    before, _ = step()(CASE.model.bare(), target, state)
    after, metrics = step()(broken(value).bare(), target, before)
    assert not np.isfinite(metrics["loss"])
    for field in ("logits", "kept", "opt_state"):
        chex.assert_trees_all_equal(getattr(after, field), getattr(before, field))
    assert int(after.step) == 2
    assert (jax.random.key_data(after.key) != jax.random.key_data(before.key)).any()
    last, metrics = step()(CASE.model.bare(), target, after)
    assert np.isfinite(metrics["loss"])
    assert np.abs(np.asarray(last.logits[0] - before.logits[0])).max() > 1e-3


@pytest.mark.parametrize("search", ["masks", "many", "repair"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_says_no_numbers_is_refused_before_the_search(search, value):
    """On some of the prompts. Masks of NaN would rank nodes by their numbers."""
    model, scores = broken(value), Nodes.full(PARTS.space, 0.0)
    calls = {
        "masks": lambda: search_masks(model, CASE.prompts, scores, [3], CONFIG),
        "many": lambda: search_many(model, {"a": CASE.prompts}, {"a": scores}, [3], CONFIG),
        "repair": lambda: repair(
            model, CASE.prompts, Nodes.from_flat(PARTS.space, np.arange(10) < 3)
        ),
    }
    with pytest.raises(InputError, match=r"logits that are no numbers on \d+ prompts, the first"):
        calls[search]()
