"""The composed step: every phase, one and eight devices, and kills at any moment."""

import dataclasses
import itertools

import jax
import jraph
import numpy as np
import pytest
import scipy.optimize
from hagd_jax.pipeline.step_parts import StepBatch
from hagd_jax.pipeline.step_plan import StepConfig

from hagd_jax import meta
from hagd_jax.errors import ConfigError
from hagd_jax.meta.learner import init as init_learner
from hagd_jax.parallel import make_mesh, restore, save
from hagd_jax.pipeline import composed, run_steps, step_parts, step_plan
from hagd_jax.scores.node_graph import NodeGraph, NodePlaces
from hagd_jax.search import MaskConfig
from hagd_jax.tasks.batching import padded_batches
from hagd_jax.transcoders import TrainConfig, TranscoderConfig
from hagd_jax.transcoders import init as init_transcoder
from tests.models.noise import on_mesh
from tests.pipeline.copier import make_copier, make_task

NEURONS = StepConfig(
    nodes=1, graph_steps=2, candidates=4, masks=MaskConfig(steps=20, batch_size=8), levels=1
)
TRAINED = dataclasses.replace(
    NEURONS,
    train=TrainConfig(features="12", k=4, tokens=1000, batch_size=8, estimate=1),
    train_steps=3,
    levels=2,
)
CONFIGS = {"neurons": NEURONS, "transcoder": TRAINED}


def batches(model, count, seed=0):
    prompts = make_task().splits["discover"]
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        some = prompts[rng.integers(0, len(prompts), 8)]
        ((own, _),) = padded_batches(model, some, 8)
        yield StepBatch(own.clean, np.ones(own.clean.shape, np.float32), own)


def finish(model, config, state=None, on_state=None):
    state = composed.init(model, config) if state is None else state
    begun, said = int(state.step), []
    for number, batch in enumerate(batches(model, config.steps)):
        if number >= begun:
            state, metrics = composed.step(state, model.bare(), batch)
            said.append(jax.tree.map(float, metrics))
            if on_state is not None:
                on_state(state)
    return state, said


def random_learner():
    config = meta.LearnerConfig(width=16, heads=2, rounds=2)
    learner = init_learner(config, jax.random.key(0))
    weight = jax.random.normal(jax.random.key(1), (16,))
    return learner.replace(params=learner.params | {"weight": weight})


@pytest.fixture(scope="module")
def whole():
    model = make_copier()
    return {name: finish(model, config) for name, config in CONFIGS.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_planted_head_is_found(whole, name):
    state, said = whole[name]
    model, config = make_copier(), CONFIGS[name]
    found = composed.circuits(state, model)[1]
    assert np.flatnonzero(found.flat()).tolist() == [1]
    rows = step_plan.plan(config, model.config)
    assert [bool(row["score"]) for row in said] == rows.attribute.tolist()
    assert [row["size"] > 0 for row in said] == rows.search.tolist()
    if config.train is not None:
        assert [row["transcoder_loss"] > 0 for row in said] == rows.train.tolist()
        assert said[2]["transcoder_loss"] != said[0]["transcoder_loss"]
    assert (np.asarray(state.score) != 0).any()
    assert (np.asarray(state.edges) != 0).any()
    # Levels nest.
    levels = [np.asarray(level) for level in (*state.clusters, np.arange(len(state.score)))]
    for upper, lower in itertools.pairwise(levels):
        pairs = np.unique(np.stack([upper, lower]), axis=1)
        assert len(pairs[0]) == len(np.unique(lower))


def test_the_learner_sees_in_the_step_what_it_sees_of_a_graph(whole):
    """Against `describe` of a `NodeGraph` of the same edges; and masks begin where it says."""
    model, (state, _) = make_copier(), whole["neurons"]
    rng, learner = np.random.default_rng(0), random_learner()
    # The copier's own graph has hardly an edge, and eigenvectors to choose.
    edges = np.tril(rng.normal(size=state.edges.shape), -1) * (rng.random(state.edges.shape) < 0.8)
    state = state.replace(edges=edges.astype(np.float32), score=rng.normal(size=len(state.score)))
    space, some = NEURONS.space(model.config), np.asarray(step_parts.in_graph(state))
    reader, writer = np.nonzero(np.asarray(state.edges))
    depth = space.layer
    kind = (np.arange(space.nodes) >= space.layers * space.heads).astype(np.int8)
    arrays = {
        "nodes": NodePlaces(kind, depth, depth), "edges": np.asarray(state.edges)[reader, writer],
        "senders": some[writer], "receivers": some[reader], "globals": None,
        "n_node": np.array([space.nodes]), "n_edge": np.array([len(reader)]),
    }  # fmt: skip
    graph = NodeGraph(jraph.GraphsTuple(**arrays), np.asarray(state.score), space, 1)
    expected = meta.score(learner, meta.describe(graph)).flat()
    found = np.asarray(step_parts.membership(learner, state, space))
    assert np.ptp(expected[some]) > 1
    # Nodes without an edge have eigenvectors of one eigenvalue among them, and no basis of those.
    np.testing.assert_allclose(found[some], expected[some], atol=2e-3)
    own = step_parts.coarsen(state, model, None, None, learner)[0].masks.logits[-1]
    np.testing.assert_array_equal(np.argsort(own, stable=True), np.argsort(found, stable=True))


def test_devices_do_not_matter(whole):
    model = make_copier()
    far = on_mesh(model, make_mesh("data=4,model=2"))
    for name, config in CONFIGS.items():
        state, said = finish(far, config)
        one, told = whole[name]
        np.testing.assert_allclose(state.score, one.score, atol=1e-4)
        np.testing.assert_array_equal(
            composed.circuits(state, far)[1].flat(), composed.circuits(one, model)[1].flat()
        )
        for a, b in zip(said, told, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=2e-2)


def test_resumed_is_the_same_as_not_interrupted(whole, tmp_path):
    """From a checkpoint of any step."""
    model = make_copier()
    expected, _ = whole["neurons"]
    rng = np.random.default_rng(0)
    stops = set(rng.choice(NEURONS.steps - 1, 5, replace=False).tolist())

    def keep(state):
        if int(state.step) - 1 in stops:
            save(tmp_path / str(int(state.step)), state)

    finish(model, NEURONS, on_state=keep)
    for number in stops:
        begun = restore(tmp_path / str(number + 1), composed.init(model, NEURONS))
        again, _ = finish(model, NEURONS, begun)
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(expected), strict=True):
            if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            np.testing.assert_array_equal(a, b)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="at most 10"):
        composed.init(make_copier(), dataclasses.replace(NEURONS, nodes=11))
    for change in ({"nodes": 0}, {"graph_steps": 3}, {"levels": 4}, {"train_steps": 3}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            dataclasses.replace(NEURONS, **change)


def test_a_given_transcoder_is_searched():

    model, task = make_copier(), make_task()
    own = TranscoderConfig(n_layers=1, d_model=24, n_features=6, activation="relu")
    found = init_transcoder(own, jax.random.key(0))
    state = run_steps(model, task, NEURONS, dictionary=found)
    mask = composed.circuits(state, model)[1]
    assert mask.features.shape == (1, 6)
    assert np.flatnonzero(mask.flat()).tolist() == [1]


def test_the_steps_run_with_the_learner_that_is_shipped():
    model, task = make_copier(), make_task()
    state = run_steps(model, task, dataclasses.replace(NEURONS, prior="learner"))
    assert np.flatnonzero(composed.circuits(state, model)[1].flat()).tolist() == [1]


def test_a_transcoder_needs_text():

    with pytest.raises(ConfigError, match="corpus"):
        run_steps(make_copier(), make_task(), TRAINED)


def test_what_the_step_does_not_do_is_refused():
    with pytest.raises(ConfigError, match="scores or learner"):
        dataclasses.replace(NEURONS, prior="ig")
    with pytest.raises(ConfigError, match="mean"):
        dataclasses.replace(NEURONS, masks=MaskConfig(mean=0.5))


def test_there_are_no_more_clusters_than_nodes():
    few = dataclasses.replace(NEURONS, candidates=1, levels=3)
    assert few.counts(make_copier().config) == (4, 4, 4)  # 3 of 3 nodes, and the layer of the rest
    state, _ = finish(make_copier(), few)
    assert all(np.isfinite(level).all() for level in state.masks.kept)


def test_circuits_of_all_sizes_are_the_likeliest_nodes():
    """From 1 to all 10 nodes of the copier, sizes above the first expected one, 8, among them.

    Float64 at the shift that SciPy finds; the layers' clusters, and the nodes in them, decide.
    """
    model, total = make_copier(), 10
    asked = dataclasses.replace(NEURONS, sizes=tuple(range(1, total + 1)))
    state, _ = finish(model, asked)
    found = composed.circuits(state, model)
    assert [int(mask.flat().sum()) for mask in found.values()] == list(found) == [*asked.sizes]
    for place, (size, mask) in enumerate(found.items()):
        levels = [np.float64(level[place]) for level in state.masks.kept]
        each = [level[c] for level, c in zip(levels, map(np.asarray, state.clusters), strict=False)]
        each = np.stack([*each, levels[-1]])

        def chance(shift, each=each):
            return -np.logaddexp(0, shift - each - 2 / 3 * np.log(11)).sum(0)

        def off(shift, size=size, chance=chance):
            return np.exp(chance(shift)).sum() - size

        right = chance(-60.0 if size == total else scipy.optimize.brentq(off, -60, 60))
        chosen = mask.flat().astype(bool)
        most = right[~chosen].max(initial=-np.inf)
        assert right[chosen].min() >= most - 1e-4 * abs(right).max()
