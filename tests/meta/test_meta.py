"""The meta-learner: what it sees, that it learns and adapts, and its file."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax import meta
from hagd_jax.causal.metrics import auroc
from hagd_jax.errors import CheckpointError, ConfigError, InputError, TrainingError
from hagd_jax.meta.describe import EDGE_COLUMNS, NODE_COLUMNS
from hagd_jax.meta.learner import init, states
from hagd_jax.scores import GradientConfig, mean_scores, node_graph
from hagd_jax.scores.node_graph import FEATURE, HEAD, NodeGraph, NodePlaces
from hagd_jax.search import MaskConfig, search_masks, top_nodes
from hagd_jax.testbeds import hand_built, scrambled
from hagd_jax.units import Nodes, Space

SMALL = meta.LearnerConfig(width=16, heads=2, rounds=2)


def random_graph(seed, count=20, edges=40):
    """Heads and features in layers, edges upward; as many in each, so one program describes all."""
    rng = np.random.default_rng(seed)
    layer = np.sort(rng.integers(0, 4, count)).astype(np.int32)
    ends = rng.integers(0, count, (2, 4 * edges))
    s, r = np.minimum(*ends), np.maximum(*ends)
    own = np.flatnonzero(layer[s] < layer[r])[:edges]
    assert len(own) == edges
    s, r = s[own], r[own]
    places = NodePlaces((np.arange(count) >= 4).astype(np.int8), layer, np.arange(count))
    graph = jraph.GraphsTuple(
        places, rng.normal(size=len(s)).astype(np.float32), r.astype(np.int32),
        s.astype(np.int32), None, np.array([count], np.int32), np.array([len(s)], np.int32),
    )  # fmt: skip
    score = rng.normal(size=count).astype(np.float32)
    return NodeGraph(graph, score, Space(1, 4, count - 4), 1)


def known(seed):
    """Members are those nodes whose score and edges say so."""
    graph = random_graph(seed)
    seen = meta.describe(graph)
    column = seen.graph.nodes[:, NODE_COLUMNS.index("rank of influence")]
    members = column > np.quantile(column, 0.7)
    places = np.random.default_rng(seed).permutation(len(members))[:6].astype(np.int32)
    measured = meta.Measured(places, members[places].astype(np.float32))
    return meta.Example(seen.graph, members, measured)


def test_what_it_sees_has_its_columns_and_no_scale():
    graph = random_graph(0)
    seen, larger = meta.describe(graph), meta.describe(graph.replace(score=1000 * graph.score))
    assert seen.graph.nodes.shape == (20, len(NODE_COLUMNS))
    assert seen.graph.edges.shape == (2 * len(graph.graph.edges), len(EDGE_COLUMNS))
    np.testing.assert_allclose(larger.graph.nodes, seen.graph.nodes, atol=1e-5)
    assert all(np.isfinite(x).all() for x in (seen.graph.nodes, seen.graph.edges))
    assert seen.singles["influence"].sum() == pytest.approx(1)


def small_graph(count, ends, weights, score):
    places = NodePlaces(
        (np.arange(count) >= 1).astype(np.int8), np.arange(count), np.zeros(count, np.int32)
    )
    s, r = np.array(ends, np.int32).reshape(2, -1)
    graph = jraph.GraphsTuple(
        places, np.array(weights, np.float32), r, s, None, np.array([count]), np.array([len(s)])
    )
    return NodeGraph(graph, np.array(score, np.float32), Space(1, 1, count - 1), 1)


@pytest.mark.parametrize(
    "graph",
    [
        small_graph(5, [[], []], [], range(5)),
        small_graph(1, [[], []], [], [1]),
        small_graph(5, [[0, 0], [1, 2]], [1, 1], [1] * 5),
        small_graph(5, [[0], [1]], [0], [0] * 5),
    ],
    ids=["no edges", "one node", "all equal", "nothing matters"],
)
def test_odd_graphs_are_described_and_scored(graph):
    seen = meta.describe(graph)
    assert np.isfinite(seen.graph.nodes).all()
    scores = meta.score(meta.load(), seen).flat()
    assert scores.shape == graph.score.shape
    assert np.isfinite(scores).all()


def test_a_graph_that_is_not_finite_is_refused():
    for weight, score in ((np.nan, 1), (1, np.inf)):
        with pytest.raises(InputError, match="not finite"):
            meta.describe(small_graph(3, [[0], [1]], [weight], [score] * 3))


def test_influence_is_the_series_it_says():
    """I = (w + wM + wM² + …) / Σ, against a dense inverse."""
    graph = random_graph(1)
    a = np.zeros((20, 20))
    np.add.at(a, (graph.graph.receivers, graph.graph.senders), np.abs(graph.graph.edges))
    m = a / np.maximum(a.sum(1, keepdims=True), 1e-30)
    start = np.abs(graph.score) / np.abs(graph.score).sum()
    expected = start @ np.linalg.inv(np.eye(20) - m)
    found = meta.describe(graph).singles["influence"]
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_order_of_nodes_and_padding_do_not_matter(seed):
    graph = meta.describe(random_graph(0)).graph
    learner = init(SMALL, jax.random.key(1))
    learner = learner.replace(
        params=learner.params | {"weight": jax.random.normal(jax.random.key(2), (16,))}
    )
    order = np.random.default_rng(seed).permutation(20)
    place = np.argsort(order)
    moved = graph._replace(
        nodes=graph.nodes[order],
        senders=place[graph.senders].astype(np.int32),
        receivers=place[graph.receivers].astype(np.int32),
    )
    one, two = (np.asarray(meta.logits(learner, g)) for g in (graph, moved))
    np.testing.assert_allclose(two, one[order], atol=1e-4)
    padded = jraph.pad_with_graphs(graph, 33, 200, 2)
    np.testing.assert_allclose(meta.logits(learner, padded)[:20], one, atol=1e-4)
    assert np.ptp(one) > 1e-3


def test_it_learns_and_adapts_to_graphs_it_has_not_seen():
    config = meta.MetaConfig(learner=SMALL, steps=150, noise=0.0)
    seen = []
    learner = meta.train(
        [known(seed) for seed in range(12)], config, on_step=lambda *s: seen.append(s)
    )
    assert seen[-1][0] == 150
    before, after = [], []
    for seed in range(100, 106):
        one = known(seed)
        described = meta.Described(one.graph, {}, Space(1, 4, len(one.members) - 4))
        prior = meta.score(learner, described).flat()
        before.append(auroc(prior, one.members))
        rows = meta.adapt(learner, described, one.measured).flat()
        after.append(auroc(rows, one.members))
    assert np.mean(before) > 0.9
    assert np.mean(after) > 0.9


def test_same_examples_and_seed_give_the_same_learner():
    config, examples = meta.MetaConfig(learner=SMALL, steps=3), [known(seed) for seed in range(2)]
    one, two, other = (
        meta.train(examples, dataclasses.replace(config, seed=seed)) for seed in (0, 0, 1)
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))
    graph = examples[0].graph
    bad = examples[0]._replace(graph=graph._replace(nodes=np.nan * graph.nodes))
    with pytest.raises(TrainingError, match="step 3: got NaN or infinity"):
        meta.train([bad, examples[1]], config)


def test_the_inner_loop_goes_toward_what_was_measured():
    learner = init(SMALL, jax.random.key(0))
    graph = meta.describe(random_graph(3)).graph
    seen = states(learner, graph)
    measured = meta.Measured(np.array([2, 9], np.int32), np.array([1.0, 0.0], np.float32))
    start = np.asarray(seen @ learner.params["weight"] + learner.params["bias"])
    after = np.asarray(meta.adapted(learner, seen, measured))
    assert after[2] > start[2]
    assert after[2] - start[2] > after[9] - start[9]


def test_effects_are_those_of_ablating_each_node_alone():
    case = {case.name: case for case in hand_built()}["both"]
    graph = node_graph(case.model, case.prompts, GradientConfig(batch_size=16))
    total = len(graph.score)
    found = meta.effects(case.model, case.prompts, np.arange(total))
    truth = {(n.kind, n.layer, n.index) for n in case.truth["counterfactual"]}
    heads = graph.space.layers * graph.space.heads
    needed = {
        ("head", *divmod(i, graph.space.heads)) if i < heads else
        ("neuron", *divmod(i - heads, graph.space.features))
        for i in np.flatnonzero(found.effects > 0.3).tolist()
    }  # fmt: skip
    assert needed == truth
    scores = mean_scores(case.model, case.prompts)
    assert meta.describe(graph, scores).graph.nodes.shape[0] == total
    for bad in ([total], [-1], [], [0.5], [[0]]):
        with pytest.raises(InputError, match="0 to"):
            meta.effects(case.model, case.prompts, np.array(bad))
    with pytest.raises(ConfigError, match="ablation"):
        meta.effects(case.model, case.prompts, np.array([0]), ablation="none")
    with pytest.raises(ConfigError, match="count: got 0; expected a whole number, 1 or more"):
        meta.most_telling(np.arange(3.0), 0)
    with pytest.raises(InputError, match="3 values; expected 10"):
        meta.describe(graph, Nodes(np.zeros((1, 1)), np.zeros((1, 2))))
    with pytest.raises(InputError, match="got Scores; expected a NodeGraph"):
        meta.describe(scores)
    telling = meta.most_telling(np.arange(10.0), 4, seed=1)
    assert {8, 9} <= set(telling.tolist())
    assert len(telling) == 4


def test_files_come_back_and_others_are_refused(tmp_path):
    learner = init(SMALL, jax.random.key(0))
    meta.save(learner, tmp_path / "a.safetensors")
    again = meta.load(tmp_path / "a.safetensors")
    assert again.config == SMALL
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(learner.params), strict=True):
        np.testing.assert_array_equal(a, b)
    (tmp_path / "b.safetensors").write_bytes(b"no")
    for name in ("b", "c"):
        with pytest.raises(CheckpointError, match="meta_learning"):
            meta.load(tmp_path / f"{name}.safetensors")


def test_the_learner_that_is_shipped_knows_members_of_guises_it_has_not_seen():
    """It saw guises 0 to 4 of these models; nodes and weights are shuffled in others."""
    assert Path(meta.__file__).with_name("learner.safetensors").stat().st_size < 2**21
    found = []
    for case in hand_built()[:3]:
        case = scrambled(case, 9)
        graph = node_graph(case.model, case.prompts, GradientConfig((0.3, 0.6, 0.9), 32))
        seen = meta.describe(graph, mean_scores(case.model, case.prompts))
        members = np.zeros(len(graph.score), bool)
        for node in case.truth["counterfactual"]:
            kind = HEAD if node.kind == "head" else FEATURE
            own = zip(*graph.nodes, strict=True)
            members |= [tuple(map(int, p)) == (kind, node.layer, node.index) for p in own]
        assert 0 < members.sum() < len(members)
        found.append(auroc(meta.score(meta.load(), seen).flat(), members))
    assert np.mean(found) > 0.9


def test_a_search_begins_at_the_learners_scores_and_they_hang_on_what_it_is_shown():
    """Before the first step, circuits are the learner's best nodes; not signed IG's, nor chance's.

    What it says depends on the edges and the scores that it is shown, and after measurements on
    those, in the direction that they say.
    """
    case = scrambled(hand_built()[0], 9)
    graph = node_graph(case.model, case.prompts, GradientConfig((0.3, 0.6, 0.9), 32))
    scores = mean_scores(case.model, case.prompts)
    learner, described = meta.load(), meta.describe(graph, scores)
    prior = meta.score(learner, described)
    config = MaskConfig(steps=1, learning_rate=1e-6)
    made = search_masks(case.model, case.prompts, prior, [5, 3], config)
    for size in (5, 3):
        assert (made.circuits[size].flat() == top_nodes(prior, size).flat()).all()
    assert (made.circuits[5].flat() != top_nodes(scores, 5).flat()).any()
    for other in (
        meta.describe(graph, scores.like(-scores.flat())),
        meta.describe(graph.replace(score=graph.score[::-1]), scores),
        meta.describe(
            graph.replace(graph=graph.graph._replace(edges=-np.asarray(graph.weights))), scores
        ),
    ):
        assert np.ptp(meta.score(learner, other).flat() - prior.flat()) > 1e-3
    order = np.argsort(prior.flat())
    low, high = int(order[0]), int(order[-1])
    measured = meta.Measured(np.array([low, high]), np.array([1.0, 0.0], np.float32))
    after = meta.adapt(learner, described, measured).flat()
    gap = lambda row: row[low] - row[high]  # noqa: E731
    assert gap(after) > gap(prior.flat()) + 1e-3
    again = meta.adapt(learner, described, measured._replace(effects=measured.effects[::-1]))
    assert gap(again.flat()) < gap(after)
    with pytest.raises(InputError, match="0 to 9"):
        meta.adapt(learner, described, measured._replace(places=np.array([3, 10])))
    with pytest.raises(InputError, match="`describe`"):
        meta.score(learner, described._replace(space=None))


def test_what_cannot_be_learnt_is_refused():
    one = known(0)
    with pytest.raises(InputError, match="none"):
        meta.train([])
    with pytest.raises(InputError, match="some, and not all"):
        meta.train([one._replace(members=np.zeros(20, bool))])
    for change in ({"width": 0}, {"heads": 3}):
        with pytest.raises(ConfigError):
            meta.LearnerConfig(**{"width": 16, **change})
    with pytest.raises(ConfigError, match="noise"):
        dataclasses.replace(meta.MetaConfig(), noise=-1)
    assert jnp.isfinite(meta.logits(init(SMALL, jax.random.key(0)), one.graph)).all()
