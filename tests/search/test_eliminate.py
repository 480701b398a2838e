"""Backward elimination: against brute force, nested, with losses that can be measured again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.baselines import exhaustive, random_scores
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.parallel import make_mesh
from hagd_jax.search import (
    EliminateConfig,
    RepairConfig,
    eliminate,
    elimination_cost,
    measured_losses,
    top_nodes,
)
from hagd_jax.search.unit_config import TRAINED
from hagd_jax.tasks import Seen, look
from hagd_jax.testbeds import hand_built, true_edges
from hagd_jax.units import Nodes, Selection, components, neurons
from tests.models.noise import on_mesh

CASES = {case.name: case for case in hand_built()}
ONE = EliminateConfig(ablations=("counterfactual",), at_once=0, swaps=0)


def truth_of(case, ablation="counterfactual"):
    space = neurons(case.model).space
    heads, right = space.layers * space.heads, np.zeros(space.nodes, bool)
    for node in case.truth[ablation]:
        width, start = (space.heads, 0) if node.kind == "head" else (space.features, heads)
        right[start + node.layer * width + node.index] = True
    return right


def again(case, mask, ablation):
    """The loss of a circuit, measured on its own."""
    (found,) = measured_losses(case.model, case.prompts, [mask], RepairConfig(batch_size=16),
                               ablation=ablation)  # fmt: skip
    return found


@pytest.mark.parametrize("name", list(CASES))
def test_every_round_takes_the_node_that_brute_force_would(name):
    """All 2^N circuits are measured; each round must find the best that lacks one member."""
    case = CASES[name]
    every = exhaustive(case.model, case.prompts, RepairConfig(batch_size=64))
    made = eliminate(case.model, case.prompts, None, 1, ONE)
    now = np.ones(neurons(case.model).space.nodes, bool)
    for step in made.path[1:]:
        below = [row for row in every.members
                 if row.sum() == now.sum() - 1 and not (row & ~now).any()]  # fmt: skip
        weight = 1 << np.arange(len(now))
        least = min(every.losses[row @ weight] for row in below)
        now = step.mask.flat()
        assert step.worst == pytest.approx(every.losses[now @ weight], rel=1e-4, abs=1e-6)
        assert step.worst <= least * (1 + 1e-4) + 1e-6
    assert now.sum() == 1


@pytest.mark.parametrize("name", ["both", "either", "suppressed"])
@pytest.mark.parametrize("at_once", [0.0, 0.5])
def test_the_true_circuit_is_left(name, at_once):
    """Two heads of an OR are each superfluous alone, and may not leave together."""
    case, right = CASES[name], truth_of(CASES[name])
    config = dataclasses.replace(ONE, at_once=at_once, swaps=4)
    made = eliminate(case.model, case.prompts, None, int(right.sum()), config)
    assert (made.mask.flat() == right).all()
    assert made.found


def test_swaps_end_where_none_helps():
    """From a random circuit, which only swaps can mend, against every circuit one swap away."""
    case, space = CASES["both"], neurons(CASES["both"].model).space
    every = exhaustive(case.model, case.prompts, RepairConfig(batch_size=64))
    config = dataclasses.replace(ONE, swaps=20, entering=space.nodes, least=0)
    mended = 0
    for seed in range(4):
        start = top_nodes(random_scores(space, seed), 4)
        made = eliminate(case.model, case.prompts, start, 4, config)
        now = made.mask.flat()
        near = every.members[(every.members.sum(1) == 4) & ((every.members ^ now).sum(1) <= 2)]
        rows = near @ (1 << np.arange(space.nodes))
        assert made.swapped[-1] <= every.losses[rows].min() * (1 + 1e-3) + 1e-6
        assert list(made.swapped) == sorted(made.swapped, reverse=True)
        mended += made.swapped[-1] < made.swapped[0]
    assert mended


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["both", "either", "suppressed"]), st.integers(1, 9),
    st.sampled_from([0.0, 0.3, 0.9]),
    st.lists(st.sampled_from(TRAINED), min_size=1, max_size=3, unique=True),
)  # fmt: skip
def test_circuits_nest_and_losses_are_what_is_measured(name, size, at_once, ablations):
    case = CASES[name]
    config = EliminateConfig(tuple(ablations), at_once=at_once, swaps=2)
    made = eliminate(case.model, case.prompts, None, size, config)
    sizes = [len(step.mask) for step in made.path]
    assert sizes[0] == neurons(case.model).space.nodes
    assert sizes[-1] == size == len(made.mask)
    for larger, smaller in zip(made.path, made.path[1:], strict=False):
        assert len(smaller.mask - larger.mask) == 0 < len(larger.mask) - len(smaller.mask)
    for step in (made.path[-1], made):
        for ablation, loss in step.losses.items():
            assert loss == pytest.approx(again(case, step.mask, ablation), rel=1e-4, abs=1e-6)
    nothing = Nodes.full(neurons(case.model).space, False)
    for ablation, loss in made.empty.items():
        assert loss == pytest.approx(again(case, nothing, ablation), rel=1e-4, abs=1e-6)
    assert max(made.losses.values()) == made.swapped[-1] <= made.swapped[0] == made.path[-1].worst


@pytest.mark.parametrize("swaps", [0, 3])
@pytest.mark.parametrize("size", [1, 4, 10])
def test_the_cost_is_known_before(size, swaps):
    case = CASES["both"]
    config = dataclasses.replace(ONE, swaps=swaps)
    made = eliminate(case.model, case.prompts, None, size, config)
    assert made.evaluations <= elimination_cost(10, 10, size, config)
    if not swaps:
        assert made.evaluations == elimination_cost(10, 10, size, config)
        assert made.evaluations == 2 + sum(range(size + 1, 11))
    costly = dataclasses.replace(config, most=elimination_cost(10, 10, size, config) - 1)
    with pytest.raises(InputError, match=r"elimination: got a plan to measure .*at_once"):
        eliminate(case.model, case.prompts, None, size, costly)


def test_what_decided_the_circuit_is_remembered():
    case = CASES["both"]
    own = look(case.prompts, ablation=TRAINED, model=case.model, dictionary="neurons")
    config = EliminateConfig(swaps=1)
    made = eliminate(case.model, case.prompts, None, 8, config)
    assert {step.mask.seen for step in made.path} == {made.mask.seen} == {own}
    before = look(split="elsewhere", task="another")
    start = Selection(made.path[0].mask.mask, before)
    assert eliminate(case.model, case.prompts, start, 9, config).mask.seen == before | own
    raw = eliminate(case.model, case.prompts, made.mask.mask, 8, config)
    assert raw.mask.seen == Seen.unknown() | own


def test_edges_are_eliminated_too():
    case = CASES["both"]
    parts, truth = components(case.model), true_edges(case, "counterfactual")
    size = int(truth.count())
    made = eliminate(case.model, case.prompts, None, size, ONE, dictionary=parts)
    assert made.found
    assert made.mask.flat().sum() == size
    assert made.swapped[-1] < 1e-3 * made.empty["counterfactual"]


@pytest.mark.parametrize("mesh", ["replica=8", "data=4,model=2"])
def test_a_mesh_changes_nothing_but_rounding(mesh):
    case = CASES["both"]
    config = EliminateConfig(("mean", "resample"), swaps=1)
    alone = eliminate(case.model, case.prompts, None, 4, config)
    made = eliminate(on_mesh(case.model, make_mesh(mesh)), case.prompts, None, 4, config)
    assert (made.mask.flat() == alone.mask.flat()).all()
    assert made.losses == pytest.approx(alone.losses, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at_once": 1.0}, "at_once: got 1.0"),
        ({"swaps": -1}, "swaps: got -1"),
        ({"entering": 0}, "entering: got 0"),
        ({"most": 0}, "most: got 0"),
        ({"ablations": ()}, "ablations: got"),
        ({"ablations": ("mean_overall",)}, "ablations: got 'mean_overall'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        EliminateConfig(**changes)


def test_circuits_that_cannot_be_made_smaller_are_refused():
    case = CASES["both"]
    space = neurons(case.model).space
    with pytest.raises(InputError, match="mask: got an empty circuit"):
        eliminate(case.model, case.prompts, Nodes.full(space, False), 1)
    with pytest.raises(InputError, match=r"sizes: got .*; expected whole numbers from 1 to 3"):
        eliminate(case.model, case.prompts, top_nodes(random_scores(space), 3), 4)
    with pytest.raises(InputError, match="circuit: got"):
        eliminate(case.model, case.prompts, random_scores(space), 4)
    with pytest.raises(InputError, match="sizes: got"):
        elimination_cost(3, 4, 2)


def test_a_member_without_which_activations_overflow_is_swapped():
    """Two neurons cancel; the circuit of one of them has no loss, and others have."""
    case = hand_built()[0]
    params = jax.tree.map(np.array, case.model.params)
    mlp = params["blocks"]["mlp"]
    mlp["in"]["kernel"][:, :, 4:] = 0
    mlp["in"]["bias"][:, 4:] = 1e30
    mlp["out"]["kernel"][:, 4], mlp["out"]["kernel"][:, 5] = 3e8, -3e8
    model = case.model.replace(params=jax.tree.map(jnp.asarray, params))
    for first in ([0, 8, 9], [0, 8]):
        mask = np.isin(np.arange(10), first)
        config = EliminateConfig(ablations=("zero",), swaps=2)
        found = eliminate(
            model, case.prompts, Nodes.from_flat(neurons(model).space, mask), 1, config
        )
        assert not np.isfinite([step.worst for step in found.path]).all()
        assert np.isfinite(found.swapped[-1])
