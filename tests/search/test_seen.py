"""Finders add what they looked at to what was seen before, and erase nothing."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax import meta
from hagd_jax.baselines import random_scores
from hagd_jax.errors import InputError
from hagd_jax.hierarchy import HierarchyConfig, Levels, as_weights, clusters_of, history
from hagd_jax.scores import GradientConfig, node_graph
from hagd_jax.search import (
    MaskConfig,
    RepairConfig,
    Tree,
    init_masks,
    repair,
    search_masks,
    seen_by_masks,
    top_nodes,
    train_masks,
)
from hagd_jax.search.mask_steps import scan_jitted
from hagd_jax.tasks import Seen, look
from hagd_jax.testbeds import hand_built
from hagd_jax.units import Nodes, Scores, neurons
from tests.graphs.made_up import made_up

CASE = {case.name: case for case in hand_built()}["both"]
MODEL, PROMPTS, SPACE = CASE.model, CASE.prompts, neurons(CASE.model).space
FEW = MaskConfig(steps=2, batch_size=8, check_every=2)
BEFORE = look(ablation="zero", split="elsewhere", task="another")


def scored(seen=BEFORE):
    return Scores(random_scores(SPACE).values, seen)


def own(*ablations, model=MODEL, dictionary="neurons"):
    """What reading these prompts with this model under ablations is recorded as."""
    return look(PROMPTS, ablation=ablations, model=model, dictionary=dictionary)


def clusters(seen):
    return Levels((np.arange(SPACE.nodes) % 2,), seen)


@settings(max_examples=20)
@given(st.sampled_from([0.0, 0.4, 1.0]), st.booleans(), st.sampled_from([BEFORE, Seen.unknown()]))
def test_masks_have_seen_prompts_ablations_scores_and_tree(mean, tree, before):
    of_tree = look(ablation="resample")
    over = Tree.of(clusters(of_tree)) if tree else None
    config = dataclasses.replace(FEW, mean=mean)
    found = seen_by_masks(MODEL, PROMPTS, scored(before), config, tree=over)
    under = [*["counterfactual"] * (mean < 1), *["mean"] * (mean > 0)]
    assert found == before | own(*under) | (of_tree if tree else Seen.nothing())
    assert found.has(PROMPTS).all()
    assert found.known == before.known


def test_circuits_of_a_search_carry_it_and_so_does_their_repair():
    made = search_masks(MODEL, PROMPTS, scored(), [6, 4], dataclasses.replace(FEW, mean=0.5))
    assert {chosen.seen for chosen in made.circuits.values()} == {
        BEFORE | own("counterfactual", "mean")
    }
    other = look(PROMPTS[:4], ablation="resample")
    for chosen, config, added in (
        (made.circuits[4], RepairConfig(rounds=1, pairs=1), own("counterfactual", "mean")),
        (made.circuits[4].after(other), RepairConfig(), own("counterfactual", "mean")),
        (top_nodes(scored(), 4), RepairConfig(), own("counterfactual")),
        (top_nodes(scored(), 4), RepairConfig(mean=1.0), own("mean")),
    ):
        assert repair(MODEL, PROMPTS, chosen, config).mask.seen == chosen.seen | added


def test_values_without_a_history_have_an_unknown_one():
    raw, rows = random_scores(SPACE).values, [np.arange(SPACE.nodes) % 2]
    for scores, tree in ((raw, None), (scored(), Tree.of(rows)), (raw, Tree.of(clusters(BEFORE)))):
        seen = seen_by_masks(MODEL, PROMPTS, scores, FEW, tree=tree)
        assert not seen.known
        assert seen.has(PROMPTS).all()
    assert not top_nodes(raw, 3).seen.known
    assert not repair(MODEL, PROMPTS, top_nodes(raw, 3).mask).mask.seen.known
    # Clusters that no data decided can be said to be such.
    tree = Tree.of(rows, seen=Seen.nothing())
    assert seen_by_masks(MODEL, PROMPTS, scored(), FEW, tree=tree) == BEFORE | own("counterfactual")


def test_trees_know_what_they_were_made_of_and_programs_do_not():
    levels = Levels((np.arange(SPACE.nodes) % 2, np.arange(SPACE.nodes)), BEFORE)
    assert len(levels) == 2
    assert [level.max() for level in levels] == [1, SPACE.nodes - 1]
    for part in (levels, levels[-1:], levels[:0]):
        assert part.seen == BEFORE
    assert Tree.of(levels).history() == BEFORE
    more = look(ablation="mean")
    assert Tree.of(levels, seen=more).history() == BEFORE | more
    assert Tree(()).history() == Seen.nothing()
    programs = []
    for seen in (BEFORE, Seen.unknown(), Seen.nothing()):
        tree = Tree.of(levels[:1], seen=seen)
        state = init_masks(jax.random.key(0), np.zeros(SPACE.nodes), FEW, tree=tree)
        list(train_masks(MODEL, PROMPTS, state, [4], FEW, tree=tree))
        programs.append(scan_jitted._cache_size())
    assert len(set(programs)) == 1


def test_graphs_hand_on_what_they_have_seen():
    graph = node_graph(MODEL, PROMPTS, GradientConfig(steps=(1.0,)))
    seen = graph.seen
    assert seen.has(PROMPTS).all()
    assert clusters_of(graph, HierarchyConfig(ratio=0.5, least=2)).seen == seen
    assert as_weights(graph).seen == seen
    described = meta.describe(graph, scored())
    assert described.seen == BEFORE | seen
    assert not meta.describe(graph, scored().values).seen.known
    assert not history(made_up(1)).known
    prior = meta.score(meta.load(), described)
    assert prior.seen == described.seen
    assert top_nodes(prior, 3).seen == described.seen
    measured = meta.effects(MODEL, PROMPTS, meta.most_telling(prior, 3), ablation="mean")
    assert measured.seen == own("mean")
    known = described._replace(seen=BEFORE)
    assert meta.score(meta.load(), known).seen == BEFORE
    assert meta.adapt(meta.load(), known, measured).seen == BEFORE | own("mean")
    bare = measured._replace(seen=None)
    assert not meta.adapt(meta.load(), known, bare).seen.known


def test_selections_of_other_nodes_are_refused():
    other = Nodes.full(SPACE._replace(features=1), True)
    with pytest.raises(InputError, match=r"circuit, features: got shape \(1, 1\)"):
        repair(MODEL, PROMPTS, other)
