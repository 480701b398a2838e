"""The functions of arrays that both executors share, against what they stand for."""

import dataclasses
import importlib
import itertools

import jax
import jraph
import numpy as np
import pytest

from hagd_jax import meta
from hagd_jax.causal.reference import reference_means
from hagd_jax.hierarchy import HierarchyConfig, coarsen, weights
from hagd_jax.hierarchy.coarsen import centre_groups
from hagd_jax.meta.learner import init as init_learner
from hagd_jax.models import forward
from hagd_jax.pipeline import ExtractConfig
from hagd_jax.pipeline.fused import means, reading, searching
from hagd_jax.pipeline.fused.setting import setting_of, swap_sizes
from hagd_jax.pipeline.graph import GraphSize, choose, clusters, graph_size, membership, nodes_of
from hagd_jax.scores.node_graph import NodeGraph, NodePlaces
from hagd_jax.search import RepairConfig
from hagd_jax.tasks import Task, Text, make_prompts
from hagd_jax.units import Nodes, Space, neurons
from tests.pipeline.copier import make_copier

SPACE = Space(3, 2, 6)


def made_edges(seed=0, chosen=8):
    """Random edges between heads and some features, each from an earlier node."""
    size = GraphSize(SPACE, chosen, (5, 3))
    rng = np.random.default_rng(seed)
    shape = size.nodes, size.nodes
    edges = np.tril(rng.normal(size=shape), -1) * (rng.random(shape) < 0.8)
    flow = rng.normal(size=SPACE.nodes).astype(np.float32)
    return size, edges.astype(np.float32), np.asarray(choose(flow, size)), flow


def test_features_of_the_largest_scores_are_chosen():
    size, _, chosen, flow = made_edges()
    features = np.abs(flow[size.heads :])
    assert set(chosen) == set(np.argsort(-features)[:8])


@pytest.mark.parametrize("band", [0, 1, 2])
def test_levels_are_those_of_the_coarsening(band):
    """Of the same weights, and every other feature with those of its layer."""
    size, edges, chosen, _ = made_edges()
    # Supernodes of bands are bound below, to as many as there are bands.
    config = HierarchyConfig(ratio=0.35, least=3, band=band)
    key = jax.random.key(3)
    tree = clusters(edges, chosen, size, key, config)
    some = np.asarray(nodes_of(chosen, size))
    reader, writer = np.nonzero(edges)
    own = weights(writer, reader, edges[reader, writer], size.nodes)
    found = coarsen(own, config, layer=SPACE.layer[some], seed=3)
    for level, expected in zip(tree.clusters[::-1], found.clusters()[::-1], strict=False):
        np.testing.assert_array_equal(np.asarray(level)[some], expected)
    assert tree.counts == (3 + 3, 5 + 3)
    rest = np.setdiff1d(np.arange(SPACE.nodes), some)
    for level, count in zip(tree.clusters, size.levels[::-1], strict=True):
        np.testing.assert_array_equal(np.asarray(level)[rest], count + SPACE.layer[rest])
    # Levels nest.
    levels = [*map(np.asarray, tree.clusters), np.arange(SPACE.nodes)]
    for upper, lower in itertools.pairwise(levels):
        pairs = np.unique(np.stack([upper, lower]), axis=1)
        assert len(pairs[0]) == len(np.unique(lower))


def test_planted_blocks_are_the_clusters():
    """Two groups of nodes that are tied within and hardly between."""
    size = GraphSize(Space(1, 4, 6), 6, (2,))
    block = np.arange(10) % 2
    edges = np.tril(np.where(block[:, None] == block, 1.0, 0.01), -1).astype(np.float32)
    tree = clusters(edges, np.arange(6), size, jax.random.key(0), HierarchyConfig(least=2))
    found = np.asarray(tree.clusters[0])
    assert (found == found[0]).tolist() == (block == block[0]).tolist()
    assert tree.counts == (2,)  # every feature is in the graph: none is left over


def test_sizes_are_known_before_any_work():
    config = ExtractConfig(candidates=8, hierarchy=HierarchyConfig(ratio=0.35, least=3))
    assert graph_size(config, SPACE).counts == (3 + 3, 5 + 3)
    deep = dataclasses.replace(config, levels=1)
    assert graph_size(deep, SPACE).levels == (5,)
    assert graph_size(ExtractConfig(), SPACE).levels == ()  # too few nodes for a sixteenth of them
    assert graph_size(dataclasses.replace(config, candidates=99), SPACE).rest == 0


@pytest.mark.parametrize(
    ("sizes", "count"), [((4, 1), 3), ((1, 1, 9), 6), ((5, 3, 2), 10), ((7,), 2)]
)
def test_centres_go_by_highest_averages(sizes, count):
    """Sainte-Laguë by hand, and never more centres than nodes."""
    given = np.ones(len(sizes), int)
    for _ in range(count - len(sizes)):
        given[np.argmax([s / (2 * g + 1) if g < s else -1 for s, g in zip(sizes, given)])] += 1  # noqa: B905
    group = np.repeat(np.arange(len(sizes)), sizes)
    found = np.asarray(
        centre_groups(np.random.default_rng(0).permutation(group), len(sizes), count)
    )
    assert np.bincount(found, minlength=len(sizes)).tolist() == given.tolist()


def test_the_learner_sees_in_arrays_what_it_sees_of_a_graph():
    """Against `describe` of a `NodeGraph` of the same edges."""
    size, edges, chosen, flow = made_edges()
    config = meta.LearnerConfig(width=16, heads=2, rounds=2)
    learner = init_learner(config, jax.random.key(0))
    weight = jax.random.normal(jax.random.key(1), (16,))
    learner = learner.replace(params=learner.params | {"weight": weight})
    scores = np.random.default_rng(5).normal(size=SPACE.nodes).astype(np.float32)
    some = np.asarray(nodes_of(chosen, size))
    reader, writer = np.nonzero(edges)
    arrays = {
        "nodes": NodePlaces.of(SPACE), "edges": edges[reader, writer], "senders": some[writer],
        "receivers": some[reader], "globals": None, "n_node": np.array([SPACE.nodes]),
        "n_edge": np.array([len(reader)]),
    }  # fmt: skip
    graph = NodeGraph(jraph.GraphsTuple(**arrays), flow, SPACE, 1)
    described = meta.describe(graph, Nodes.from_flat(SPACE, scores))
    expected = meta.score(learner, described).flat()
    found = np.asarray(membership(learner, edges, chosen, flow, scores, size))
    assert np.ptp(expected[some]) > 1
    # Nodes without an edge have eigenvectors of one eigenvalue among them, and no basis of those.
    np.testing.assert_allclose(found[some], expected[some], atol=2e-3)


@pytest.mark.parametrize(("asked", "pairs"), [(5, 3), (1, 2), (23, 2), (9, 0)])
def test_swaps_are_those_of_repair(asked, pairs):
    config = ExtractConfig(nodes=str(asked), search="masks",
                           repair=RepairConfig(rounds=1, pairs=pairs))  # fmt: skip
    setting = setting_of(config, SPACE)
    rng = np.random.default_rng(asked)
    mask = np.zeros(SPACE.nodes, bool)
    mask[rng.permutation(SPACE.nodes)[:asked]] = True
    slope = rng.normal(size=SPACE.nodes).astype(np.float32)
    repair = importlib.import_module("hagd_jax.search.repair")
    expected = repair._proposals(mask, slope, pairs)
    found = np.asarray(searching.proposals(jax.numpy.asarray(mask), slope, setting))
    np.testing.assert_array_equal(found, expected)
    assert (found.sum(1) == asked).all()
    assert len(swap_sizes(setting)) <= setting.rows


def grouped(seed, count, length):
    """Prompts of two templates and two lengths, some of them twice."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(1, 8, 2 + (i % 2) * (length - 2)).tolist() for i in range(count)]
    rows[-1] = rows[0]
    group = ["a" if len(row) == 2 else "b" for row in rows]
    other = [[(token + 1) % 8 for token in row] for row in rows]
    return make_prompts(rows, other, [1] * count, [2] * count, vocab_size=8, group=group)


@pytest.mark.parametrize("few", [5, 25])
def test_means_of_batches_are_those_of_the_reference(few):
    """Summed batch by batch over prompts of one shape, as `reference_means` of each split."""
    model = make_copier()
    splits = {"discover": grouped(0, 20, 3), "select": grouped(1, few, 2)}
    text = Text("", "", "", "", "")
    texts = {name: (text,) * len(prompts) for name, prompts in splits.items()}
    wide = reading.read_splits(Task("t", "Nothing.", splits, texts))
    assert wide["select"].clean.shape[1] == wide["discover"].clean.shape[1] == 3
    groups, nodes = means.groups_for(wide), neurons(model).bare()
    tables = means.empty_tables(model, nodes, wide["discover"][:1], (len(means.groups_in(wide)), 3))
    for number, (name, prompts) in enumerate(wide.items()):
        for start in range(0, len(prompts), 5):
            some = slice(start, start + 5)
            own = groups[name]._replace(
                group=groups[name].group[some], shared=groups[name].shared[some],
                once=groups[name].once[some],
            )  # fmt: skip
            batch = prompts[some]
            sums = means.batch_sums(model, nodes, batch, np.ones(len(batch), np.float32), own)
            tables = means.added(tables, np.int32(number), sums)
    for name, prompts in splits.items():
        expected, places = reference_means(model, nodes, prompts, splits["discover"], batch_size=8)
        own = nodes.values(forward(model, prompts.clean, capture=nodes.capture).trace)
        wanted = expected.values(own, prompts, *places)
        own = nodes.values(forward(model, wide[name].clean, capture=nodes.capture).trace)
        found = means.means_of(tables, groups[name]).values(
            own, wide[name], *means.places_of(groups[name])
        )
        for kind, values in wanted.items():
            width = values.shape[2]
            np.testing.assert_allclose(found[kind][:, :, :width], values, atol=1e-6)
            assert np.abs(values).max() > 1e-4
