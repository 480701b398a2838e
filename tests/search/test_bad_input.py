"""Arguments of searches and of what they begin at: taken, or refused by a typed error."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from hagd_jax import baselines, hierarchy, meta, search, units
from hagd_jax.errors import HagdError
from hagd_jax.scores import node_graph
from hagd_jax.testbeds import hand_built
from hagd_jax.units import neurons
from tests.test_bad_input import WRONG

CASE = {case.name: case for case in hand_built()}["both"]
MODEL, PROMPTS = CASE.model, CASE.prompts
SPACE = neurons(MODEL).space
STEPS = search.MaskConfig(steps=1, check_every=1)


@functools.cache
def graph():
    return node_graph(MODEL, PROMPTS)


def search_calls():
    scores, tree = baselines.random_scores(SPACE), search.Tree.of([np.arange(SPACE.nodes) % 2])
    some, key = search.top_nodes(scores, 3), jax.random.key(0)
    state = search.init_masks(key, scores, STEPS)
    own = {"model": MODEL, "prompts": PROMPTS}
    return {
        "search_masks": (
            search.search_masks,
            {**own, "scores": scores, "sizes": [3], "config": STEPS, "tree": tree,
             "dictionary": None, "seed": 0},
        ),
        "train_masks": (
            lambda **given: list(search.train_masks(**given)),
            {**own, "state": state, "sizes": [3], "config": STEPS, "least": 2, "tree": None},
        ),
        "init_masks": (
            search.init_masks,
            {"key": key, "scores": scores, "config": STEPS, "tree": tree, "sizes": 1},
        ),
        "mask_ranks": (search.mask_ranks, {"state": state, "sizes": [3], "tree": None}),
        "search_many": (
            search.search_many,
            {"model": MODEL, "prompts": {"a": PROMPTS}, "scores": {"a": scores}, "sizes": [3],
             "config": STEPS, "dictionary": None, "seed": 0},
        ),
        "search_many's prompts": (
            lambda prompts: search.search_many(MODEL, {"a": prompts}, {"a": scores}, [3], STEPS),
            {"prompts": PROMPTS},
        ),
        "search_restarts": (
            search.search_restarts,
            {**own, "starts": [scores], "size": 3, "config": STEPS,
             "swaps": search.RepairConfig(), "seed": 0},
        ),
        "repair": (
            search.repair,
            {**own, "mask": some, "config": search.RepairConfig(), "dictionary": None},
        ),
        "measured_losses": (
            search.measured_losses,
            {**own, "masks": [some], "config": STEPS, "ablation": "zero"},
        ),
        "seen_by_masks": (
            search.seen_by_masks, {**own, "scores": scores, "config": STEPS, "tree": tree}
        ),
        "top_nodes": (search.top_nodes, {"scores": scores, "size": 3}),
        "core": (
            search.core, {"scores": np.eye(32), "size": 3, "config": search.CoreConfig(), "seed": 0}
        ),
        "core_of_rule": (
            search.core_of_rule,
            {"rule": lambda rows, seed: np.arange(4) < 2, "prompts": 32, "units": 4,
             "config": search.CoreConfig(subsets=20), "seed": 0},
        ),
        "Tree.of": (search.Tree.of, {"clusters": [np.arange(4) % 2]}),
        "schedule": (
            search.schedule, {"config": STEPS, "total": 9, "least": 2, "levels": 1}
        ),
        "CoreConfig": (
            search.CoreConfig,
            {"kept": 2, "subsets": 99, "threshold": 0.5, "alpha": 0.1, "block_bytes": 99},
        ),
        "MaskConfig": (
            search.MaskConfig,
            {"steps": 3, "learning_rate": 0.1, "batch_size": 2, "start": 0.5, "shrinking": 0.5,
             "opening": 0.5, "mean": 0.5, "metric": 1.0, "check_every": 1},
        ),
        "RepairConfig": (
            search.RepairConfig,
            {"rounds": 1, "pairs": 1, "batch_size": 1, "metric": 1.0, "mean": 0.5, "least": 0.1},
        ),
    }  # fmt: skip


def other_calls():
    learner, described = meta.load(), meta.describe(graph())
    measured = meta.Measured(np.array([1, 2]), np.array([0.5, 1.0]))
    example = meta.Example(described.graph, np.arange(SPACE.nodes) < 3, measured)
    ties = hierarchy.weights([0, 1], [1, 2], [1.0, 2.0], 3)
    config = hierarchy.HierarchyConfig(ratio=0.5, least=1)
    return {
        "exhaustive": (
            baselines.exhaustive,
            {"model": MODEL, "prompts": PROMPTS, "config": search.RepairConfig(batch_size=64),
             "ablation": "counterfactual"},
        ),
        "describe": (meta.describe, {"graph": graph(), "scores": graph().scores}),
        "score": (meta.score, {"learner": learner, "described": described}),
        "adapt": (
            meta.adapt, {"learner": learner, "described": described, "measured": measured}
        ),
        "effects": (
            meta.effects,
            {"model": MODEL, "prompts": PROMPTS, "places": np.array([1]), "ablation": "zero",
             "batch_size": 32},
        ),
        "train": (
            meta.train, {"examples": [example], "config": meta.MetaConfig(steps=1)},
        ),
        "members": (hierarchy.coarsen(ties, config).members, {"level": 0, "supernode": 0}),
        "clusters_of": (
            hierarchy.clusters_of, {"graph": graph(), "config": config, "seed": 0}
        ),
        "as_weights": (hierarchy.as_weights, {"graph": graph(), "dense": 99}),
        "with_rest": (
            hierarchy.with_rest,
            {"clusters": [np.array([0])], "nodes": np.array([1]), "group": np.array([0, 0])},
        ),
    }  # fmt: skip


def elimination_calls():
    config = search.EliminateConfig(("counterfactual",), swaps=0)
    return {
        "eliminate": (
            search.eliminate,
            {"model": MODEL, "prompts": PROMPTS, "mask": None, "size": 8, "config": config,
             "dictionary": None},
        ),
        "eliminate's mask": (
            lambda mask: search.eliminate(MODEL, PROMPTS, mask, 3, config),
            {"mask": search.top_nodes(baselines.random_scores(SPACE), 4)},
        ),
        "elimination_cost": (
            search.elimination_cost, {"total": 9, "members": 6, "size": 3, "config": config},
        ),
    }  # fmt: skip


def unit_calls():
    scores, tree, key = baselines.random_scores(SPACE), units.tree(MODEL), jax.random.key(0)
    own = {"model": MODEL, "prompts": PROMPTS}
    config = search.UnitMaskConfig(steps=4, check_every=4, ablations=("counterfactual",))
    repair = search.UnitRepairConfig(rounds=1, proposals=1, ablations=("counterfactual",))
    state = search.init_units(key, scores, SPACE, config)
    chosen = search.UnitCircuit(tree.roots, (1.0,), (1, SPACE.nodes), {}, tree.seen)
    given = {"sizes": [(2, 3)], "config": config, "dictionary": None}
    return {
        "init_units": (
            search.init_units,
            {"key": key, "scores": scores, "space": SPACE, "config": config, "sizes": 1},
        ),
        "search_units": (search.search_units, {**own, "scores": scores, **given, "seed": 0}),
        "train_units": (
            lambda **given: list(search.train_units(**given)), {**own, "state": state, **given},
        ),
        "seen_by_units": (
            search.seen_by_units, {**own, "scores": scores, "config": config},
        ),
        "unit_losses": (
            search.unit_losses,
            {**own, "tree": tree, "circuits": [tree.roots], "config": repair, "dictionary": None},
        ),
        "repair_units": (
            search.repair_units,
            {**own, "tree": tree, "circuit": chosen, "config": repair, "dictionary": None},
        ),
    }  # fmt: skip


ROOMS = [search_calls, other_calls, elimination_calls, unit_calls]


@pytest.mark.parametrize("calls", ROOMS, ids=lambda calls: calls.__name__)
def test_no_argument_leads_to_a_bare_error(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bare = []
    for name, (function, right) in calls().items():
        function(**right)
        for argument in right:
            refused = 0
            for wrong in WRONG:
                try:
                    function(**(right | {argument: wrong}))
                except HagdError:
                    refused += 1
                except Exception as error:
                    bare.append(
                        f"{name}({argument}={wrong!r:.20}): {type(error).__name__} {error!s:.60}"
                    )
            if not refused:
                bare.append(f"{name}({argument}) takes anything")
    assert not bare, "\n".join(bare)
