"""Scores of each prompt against one prompt at a time, and their statistics against loops."""

import jax
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.parallel import make_mesh
from hagd_jax.scores import (
    METHODS,
    GradientConfig,
    PromptScores,
    conductance,
    eap,
    eap_ig,
    gim,
    mean_scores,
    prompt_scores,
    relp,
)
from hagd_jax.scores.prompt_scores import _rows
from hagd_jax.tasks import Seen, make_choices, make_prompts
from hagd_jax.tasks.choices import Choice
from hagd_jax.transcoders import TranscoderConfig
from hagd_jax.transcoders import init as init_transcoder
from hagd_jax.units import Space, neurons
from tests.models.noise import noisy, on_mesh
from tests.scores.test_relevance import GATED, PLAIN, PROMPTS

MEANS = {"ig": mean_scores, "eap": eap, "eap_ig": eap_ig, "relp": relp, "gim": gim,
         "conductance": conductance}  # fmt: skip
SPACE = Space(layers=2, heads=1, features=3)
RNG = np.random.default_rng(5)
VALUES = RNG.normal(0.3, 1.0, (7, SPACE.nodes)).astype(np.float32)


def test_every_method_has_a_mean():
    assert set(MEANS) == set(METHODS)


def settings(method, config):
    return {"batch_size": config.batch_size} if method == "eap" else {"config": config}


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_over_prompts_is_the_methods_own(method):
    """Three prompts in batches of two; each of them as if alone."""
    model = noisy(PLAIN, 4)
    config = GradientConfig(steps=METHODS[method].steps, batch_size=2)
    before = _rows._cache_size()
    found = prompt_scores(model, PROMPTS, config, method=method)
    assert _rows._cache_size() <= before + 1
    own = MEANS[method](model, PROMPTS, **settings(method, config))
    assert np.abs(own.flat()).max() > 1e-2
    np.testing.assert_allclose(found.mean().flat(), own.flat(), atol=1e-6)
    assert found.seen == own.seen
    assert found.values.shape == (3, neurons(model).space.nodes)
    alone = prompt_scores(model, PROMPTS[np.array([1, 1])], config, method=method)
    np.testing.assert_allclose(alone.values, np.asarray(found.values)[[1, 1]], atol=1e-6)


def test_a_mesh_changes_nothing_and_spreads_them():
    model = noisy(GATED, 4)
    rows, other = RNG.integers(0, 12, (2, 8, 5)).tolist()
    prompts = make_prompts(rows, other, [1, 2] * 4, [3, 4] * 4, vocab_size=12)
    expected = prompt_scores(model, prompts, method="relp")
    mesh = make_mesh("data=4,model=2")
    found = prompt_scores(on_mesh(model, mesh), prompts, method="relp")
    assert np.abs(expected.values).max() > 1e-2
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
    assert {part.data.shape for part in found.values.addressable_shards} == {(2, 16)}
    np.testing.assert_allclose(
        found.sign_stable(20).flat(), expected.sign_stable(20).flat(), atol=1e-5
    )
    np.testing.assert_allclose(found.resample([1, 1, 0]).values[2], found.values[0])
    np.testing.assert_allclose(found.mean().flat(), expected.mean().flat(), atol=1e-5)


def test_rows_of_a_prompt_with_choices_add_up():
    """Each choice is a row; their sum over prompts is the gradient of the summed metric."""
    model = noisy(PLAIN, 4)
    rows = RNG.integers(0, 12, (2, 2, 2, 5)).tolist()
    made = make_choices(
        [[Choice(one, other, (3, 5), 1.0) for one, other in each] for each in rows],
        [0, 1], vocab_size=12,
    )  # fmt: skip
    found = prompt_scores(model, made, method="relp")
    own = relp(model, made)
    assert found.values.shape[0] == 2
    assert np.abs(own.flat()).max() > 1e-3
    np.testing.assert_allclose(found.mean().flat(), own.flat(), atol=1e-6)


def test_features_of_a_topk_transcoder_have_conductances():
    """Forward-mode differentiation passes the choice of the largest."""
    model = noisy(PLAIN, 4)
    made = init_transcoder(
        TranscoderConfig(n_layers=2, d_model=8, n_features=20, activation="topk", k=6),
        jax.random.key(1),
    )
    noise = jax.random.normal(jax.random.key(2), made.params["W_dec"].shape)
    made = made.replace(params=made.params | {"W_dec": noise})
    found = prompt_scores(model, PROMPTS, method="conductance", dictionary=made)
    own = conductance(model, PROMPTS, dictionary=made)
    assert np.abs(own.flat()[4:]).max() > 1e-2
    np.testing.assert_allclose(found.mean().flat(), own.flat(), atol=1e-6)


def test_statistics_equal_loops():
    scores = PromptScores(VALUES, SPACE, Seen.nothing())
    mean = VALUES.mean(0, dtype=np.float64)
    np.testing.assert_allclose(scores.mean().flat(), mean, atol=1e-6)
    np.testing.assert_allclose(scores.magnitude_of_mean().flat(), abs(mean), atol=1e-6)
    magnitude = np.abs(VALUES).mean(0, dtype=np.float64)
    np.testing.assert_allclose(scores.mean_magnitude().flat(), magnitude, atol=1e-6)
    rng, same = np.random.default_rng(3), np.zeros(SPACE.nodes)
    for row in rng.integers(0, 7, (50, 7)):
        same += np.sign(VALUES[row].mean(0, dtype=np.float64)) == np.sign(mean)
    assert 0 < same.min() < 50
    found = scores.sign_stable(50, seed=3).flat()
    np.testing.assert_allclose(found, mean * same / 50, atol=1e-6)


def test_resampling_repeats_rows_and_forgets_nothing():
    seen = Seen(ablations=["counterfactual"], prompts=["00c0ffee"])
    scores = PromptScores(VALUES, SPACE, seen)
    found = scores.resample([3, 3, 0])
    np.testing.assert_array_equal(found.values, VALUES[[3, 3, 0]])
    assert len(found) == 3
    assert found.seen == found.mean().seen == found.sign_stable(2).seen == seen
    one = scores.resample([4])
    np.testing.assert_allclose(one.sign_stable(5).flat(), VALUES[4], atol=1e-7)


@pytest.mark.parametrize(
    "values", [VALUES[:, :3], VALUES[0], VALUES[:0], VALUES.astype(int), "none"],
    ids=["width", "row", "none", "whole", "text"],
)  # fmt: skip
def test_values_that_are_no_scores_are_refused(values):
    with pytest.raises(InputError, match="values"):
        PromptScores(values, SPACE, Seen.nothing())


def test_bad_draws_are_refused():
    scores = PromptScores(VALUES, SPACE, Seen.nothing())
    for indices in ([7], [-1], [0.5], [], 3):
        with pytest.raises(InputError, match="indices"):
            scores.resample(indices)
    with pytest.raises(ConfigError, match="resamples"):
        scores.sign_stable(0)
    with pytest.raises(InputError, match="seed"):
        scores.sign_stable(2, seed=-1)
