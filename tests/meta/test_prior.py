"""The learner's scores are where masks begin, all the way through an extraction."""

import dataclasses

import jax
import numpy as np
import pytest

import hagd_jax as hagd
from hagd_jax import meta
from hagd_jax.pipeline import run_until
from hagd_jax.scores import GradientConfig, node_graph
from hagd_jax.search import MaskConfig, top_nodes
from hagd_jax.units import neurons
from tests.pipeline.copier import EXTRACT, make_copier, make_task


@pytest.mark.parametrize("executor", ["staged", "fused"])
def test_masks_of_an_extraction_begin_at_the_learners_scores(tmp_path, monkeypatch, executor):
    """After one step that hardly moves a logit, circuits are the learner's best nodes.

    The learner's weights are random, so its nodes are not those of signed integrated gradients,
    at which masks begin otherwise.
    """
    model, task = make_copier(), make_task()
    learner = meta.init(meta.LearnerConfig(width=8, heads=2, rounds=1), jax.random.key(0))
    weight = jax.random.normal(jax.random.key(1), (8,))
    learner = learner.replace(params=learner.params | {"weight": weight})
    monkeypatch.setattr(hagd.meta, "load", lambda path=None: learner)
    config = dataclasses.replace(
        EXTRACT, nodes="4", levels=0, masks=MaskConfig(steps=1, learning_rate=1e-6, check_every=1)
    )
    config = dataclasses.replace(config, prior="learner", executor=executor)
    left = run_until("search", model, task, config, out=tmp_path)
    found = np.asarray(left["search"].circuits()[4].flat(), bool)
    graph = node_graph(
        model, task.splits["discover"][: config.graph_prompts],
        GradientConfig(config.graph_steps, config.gradient.batch_size),
        dictionary=neurons(model), candidates=config.candidates,
    )  # fmt: skip
    scores = left["score"]
    expected = top_nodes(meta.score(learner, meta.describe(graph, scores)), 4).flat()
    np.testing.assert_array_equal(found, expected)
    assert (found != top_nodes(scores, 4).flat()).any()
