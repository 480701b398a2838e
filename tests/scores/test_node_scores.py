"""Integrated gradients: completeness, finite differences, devices, resumption."""

import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import forward
from hagd_jax.parallel import make_mesh
from hagd_jax.scores import GradientConfig, mean_scores, node_scores
from hagd_jax.tasks import logit_difference, make_prompts
from hagd_jax.units import Nodes, Space, mask_nodes
from tests.models.noise import noisy, on_mesh
from tests.models.test_decoder import LLAMA

NODE_SITES = ("head_out", "neuron")
SPACE = Space(layers=3, heads=4, features=32)
RNG = np.random.default_rng(1)
ROWS = [RNG.integers(0, 24, n).tolist() for n in (5, 4, 5, 3, 5, 4)]
CORRUPTED = [RNG.integers(0, 24, len(row)).tolist() for row in ROWS]
PROMPTS = make_prompts(
    ROWS, CORRUPTED, answer=[1, 2, 3, 4, 5, 6], distractor=[7, 8, 9, 10, 11, 12], vocab_size=24
)


def metric_at(model, mask):
    other = forward(model, PROMPTS.corrupted, capture=NODE_SITES).trace
    logits = forward(model, PROMPTS.clean, mask_nodes(mask, other)).logits
    return logit_difference(logits, PROMPTS).mean()


def test_scores_sum_to_the_whole_effect():
    """Completeness of integrated gradients: Σ scores = m(all kept) − m(all counterfactual)."""
    model = noisy(LLAMA, 1)
    # Midpoints of 64 equal parts: the error falls with the square of their width.
    steps = tuple((np.arange(64) + 0.5) / 64)
    scores = mean_scores(model, PROMPTS, GradientConfig(steps=steps, batch_size=4))
    effect = metric_at(model, Nodes.full(SPACE, 1.0)) - metric_at(model, Nodes.full(SPACE, 0.0))
    assert abs(effect) > 0.1
    np.testing.assert_allclose(scores.flat().sum(), effect, rtol=2e-3)


def test_each_score_is_a_derivative():
    model = noisy(LLAMA)
    scores = mean_scores(model, PROMPTS, GradientConfig(steps=(0.3,), batch_size=6))
    flat = np.full(108, 0.3)
    largest = np.argsort(-np.abs(scores.flat()))[:3]
    for node in (*largest, 50):
        ends = []
        for step in (1e-2, -1e-2):
            moved = flat.copy()
            moved[node] += step
            ends.append(float(metric_at(model, Nodes.from_flat(SPACE, jnp.asarray(moved)))))
        # Float32 differences over 2e-2: about 1e-5 of noise in a slope of 0.1 or more.
        np.testing.assert_allclose(scores.flat()[node], (ends[0] - ends[1]) / 2e-2, atol=2e-3)


def test_batching_and_meshes_change_nothing():
    one = noisy(LLAMA)
    expected = mean_scores(one, PROMPTS, GradientConfig(batch_size=6)).flat()
    assert np.abs(expected).max() > 1e-2
    found = mean_scores(one, PROMPTS, GradientConfig(batch_size=4, remat=True)).flat()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for mesh in ("data=8", "data=4,model=2"):
        many = on_mesh(one, make_mesh(mesh))
        found = mean_scores(many, PROMPTS, GradientConfig(batch_size=3)).flat()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_continued_sum_is_the_same_sum():
    model = noisy(LLAMA)
    config = GradientConfig(batch_size=2)
    whole = list(node_scores(model, PROMPTS, config))
    rest = list(node_scores(model, PROMPTS, config, start=whole[0]))
    assert [done for done, _ in whole] == [2, 4, 6]
    assert [done for done, _ in rest] == [4, 6]
    np.testing.assert_array_equal(rest[-1][1].flat(), whole[-1][1].flat())
    # Sums are counted in prompts: other batches continue them.
    (_, total), *_ = node_scores(model, PROMPTS, GradientConfig(batch_size=5), start=whole[0])
    np.testing.assert_allclose(total.flat(), whole[-1][1].flat(), atol=3e-6)
    assert not list(node_scores(model, PROMPTS, config, start=whole[-1]))


def test_prompts_that_do_not_fit_are_refused():
    small = noisy(LLAMA.replace(vocab_size=23))
    with pytest.raises(InputError, match="0 to 22"):
        mean_scores(small, PROMPTS)
    both_ways = noisy(LLAMA.replace(causal=False))
    with pytest.raises(InputError, match="reads both ways"):
        mean_scores(both_ways, PROMPTS)


@pytest.mark.parametrize(
    "fields",
    [{"steps": ()}, {"steps": (1.5,)}, {"batch_size": 0}],
    ids=["none", "outside", "batch"],
)
def test_bad_configurations_are_refused(fields):
    with pytest.raises(ConfigError):
        GradientConfig(**fields)
