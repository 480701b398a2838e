"""The search over a tree of units: known circuits, determinism, resuming, and what is refused."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax import units
from hagd_jax.causal import Circuit
from hagd_jax.causal.partners import partners
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import DecoderConfig, init
from hagd_jax.parallel import make_mesh
from hagd_jax.search import (
    UnitMaskConfig,
    init_units,
    search_units,
    seen_by_units,
    train_units,
    unit_losses,
)
from hagd_jax.search.objective import counterfactual, target_of
from hagd_jax.search.several import loss_weights, partners_of, replaced
from hagd_jax.tasks import Seen
from hagd_jax.tasks.seen import look
from hagd_jax.testbeds import hand_built, scrambled
from hagd_jax.units import Nodes, Scores, Space
from tests.models.noise import on_mesh

CASES = {case.name: scrambled(case, 1) for case in hand_built()}
CONFIG = UnitMaskConfig(
    steps=300, batch_size=32, learning_rate=0.1, ablations=("counterfactual",), superset=0.0
)
SHORT = dataclasses.replace(CONFIG, steps=30, batch_size=6, ablations=("counterfactual", "mean"))


def flat_scores(case):
    """Scores that say nothing, and that no data decided."""
    return Scores(Nodes.full(units.neurons(case.model).space, 0.0), Seen.nothing())


def leaf_names(tree, found):
    return {leaf.name for unit in found for leaf in tree.leaves(unit)}


def truth_of(case, ablation="counterfactual"):
    return {f"{node.kind} {node.layer}.{node.index}" for node in case.truth[ablation]}


@pytest.mark.parametrize("name", ["either", "suppressed", "rotation"])
def test_known_circuits_are_found_as_single_leaves(name):
    """The limit leaves room for the truth alone, at the finest resolution."""
    case = CASES[name]
    truth, tree = truth_of(case), units.tree(case.model)
    made = search_units(case.model, case.prompts, flat_scores(case), tree,
                        [(len(truth), len(truth))], CONFIG)  # fmt: skip
    assert leaf_names(tree, made.circuits[0].units) == truth
    assert made.empty["counterfactual"] > 1
    assert made.circuits[0].worst < 1e-3
    assert made.found == (True,)


def test_whole_blocks_are_found_where_they_cost_a_reader_less():
    """The truth has four leaves, in two blocks: three units hold it if one of them is a block.

    Either block beside the two members in the other one does so, with eight leaves at most.
    """
    case = CASES["either"]
    truth, tree = truth_of(case), units.tree(case.model)
    made = search_units(case.model, case.prompts, flat_scores(case), tree, [(3, 8)], CONFIG)
    (found,) = made.circuits
    assert len(truth) == 4
    assert len(found.units) <= 3
    assert found.leaves <= 8
    assert sum(not unit.leaf for unit in found.units) == 1
    assert truth <= leaf_names(tree, found.units)
    assert found.worst < 1e-3
    circuit = Circuit.of_units(tree, found.units, found.ranks, model="m", task="t", seen=found.seen)
    assert (len(circuit), circuit.leaves) == (len(found.units), found.leaves)


def test_the_same_seed_gives_the_same_and_a_state_goes_on_to_the_same_end():
    case = CASES["parity"]
    tree, sizes = units.tree(case.model), [(4, 6), (3, 3)]
    start = init_units(jax.random.key(0), flat_scores(case), tree, SHORT, sizes=2)
    steps = list(train_units(case.model, case.prompts, start, tree, sizes, SHORT))
    assert [int(state.step) for state, _ in steps] == [10, 20, 30]
    begun, left = (list(map(jax.typeof, jax.tree.leaves(s))) for s in (start, steps[0][0]))
    assert left == begun
    on = list(train_units(case.model, case.prompts, steps[0][0], tree, sizes, SHORT))
    chex.assert_trees_all_equal(on[-1], steps[-1])
    again = list(train_units(case.model, case.prompts, start, tree, sizes, SHORT))
    chex.assert_trees_all_equal(again[-1], steps[-1])
    assert not np.array_equal(steps[-1][0].logits.leaves, start.logits.leaves)
    assert list(train_units(case.model, case.prompts, on[-1][0], tree, sizes, SHORT)) == []
    # The logits of the first size are those at the end of its plateau, not the last.
    kept = steps[-1][0].kept
    assert not np.array_equal(kept.leaves[0], kept.leaves[1])
    np.testing.assert_array_equal(kept.leaves[1], steps[-1][0].logits.leaves)
    metrics = steps[-1][1]
    assert metrics["cost"] == pytest.approx(6, rel=1e-3)
    assert metrics["units"] + metrics["leaves"] == pytest.approx(6, rel=1e-3)
    weights = [metrics[f"weight_{name}"] for name in SHORT.ablations]
    assert sum(weights) == pytest.approx(1, abs=1e-6)
    losses = [metrics[f"loss_{name}"] for name in SHORT.ablations]
    assert metrics["loss"] == pytest.approx(np.dot(weights, losses), rel=1e-5)


def test_a_mesh_changes_nothing_but_rounding():
    case, sizes = CASES["parity"], [(3, 3)]
    tree = units.tree(case.model)
    several = ("counterfactual", "mean", "resample", "zero")
    config = dataclasses.replace(SHORT, steps=4, batch_size=8, check_every=4, ablations=several)
    start = init_units(jax.random.key(0), flat_scores(case), tree, config)
    placed = on_mesh(case.model, make_mesh("replica=8"))
    one, other = (list(train_units(m, case.prompts, start, tree, sizes, config))[-1]
                  for m in (case.model, placed))  # fmt: skip
    np.testing.assert_allclose(one[0].running, other[0].running, rtol=1e-3)
    assert float(one[0].running.min()) > 0
    np.testing.assert_allclose(one[0].logits.leaves, other[0].logits.leaves, atol=1e-2)


def test_each_prompt_has_the_values_of_its_own_ablation():
    """Each ablation alone, beside all at once: rows are the same, exactly."""
    case = CASES["either"]
    parts, names = units.neurons(case.model).bare(), ("counterfactual", "mean", "resample", "zero")
    target = target_of(case.model, case.prompts, 16, means=parts)
    rows = jnp.arange(12)
    batch = target.take(rows, None)
    drawn = partners_of(case.model, case.prompts, 3).take(jnp.int32(2), rows, None)
    which = rows % 4
    mixed = replaced(case.model.bare(), parts, batch, drawn, which, names)
    for i, name in enumerate(names):
        alone = replaced(case.model.bare(), parts, batch, drawn if name == "resample" else None,
                         jnp.zeros(12, int), (name,))  # fmt: skip
        for site, value in mixed.items():
            mine = np.broadcast_to(alone[site], value.shape)[:, i::4]
            np.testing.assert_array_equal(value[:, i::4], mine)
    tokens, _ = partners(case.prompts, None, seed=2)
    np.testing.assert_array_equal(drawn[0], tokens[:12])
    as_pairs = dataclasses.replace(batch.prompts, corrupted=jnp.asarray(tokens[:12]))
    resampled = counterfactual(case.model.bare(), parts, as_pairs)
    assert any(np.abs(value).max() > 0 for value in resampled.values())
    np.testing.assert_array_equal(mixed["neuron"][:, 2::4], resampled["neuron"][:, 2::4])


def test_the_weakest_ablation_weighs_most():
    weights = np.asarray(loss_weights(jnp.array([1.0, 2.0, 3.0]), 0.25))
    np.testing.assert_allclose(weights, np.exp([2, 4, 6]) / np.exp([2, 4, 6]).sum(), rtol=1e-5)
    np.testing.assert_allclose(loss_weights(jnp.zeros(3), 0.25), 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("space", [(1, 1, 1), (1, 1, 4), (2, 1, 1)])
def test_the_smallest_trees_are_searched(space):
    layers, heads, neurons = space
    config = DecoderConfig(vocab_size=7, n_layers=layers, d_model=4, n_heads=heads, d_mlp=neurons)
    model, case = init(config, jax.random.key(0)), CASES["either"]
    prompts = jax.tree.map(lambda x: np.minimum(x, 6), case.prompts[:12])
    tree = units.tree(model)
    few = dataclasses.replace(SHORT, steps=4, check_every=4, ablations=("zero",))
    scores = Scores(Nodes.full(Space(*space), 0.0), Seen.nothing())
    made = search_units(model, prompts, scores, tree, [(1, 1)], few)
    assert [len(unit) for unit in made.circuits[0].units] == [1]


def test_seen_is_recorded():
    case = CASES["either"]
    clusters = [np.arange(units.neurons(case.model).space.nodes) // 2]
    other = look(case.prompts[:3], ablation="mean", split="discover")
    tree = units.tree(case.model, clusters=clusters, seen=other)
    seen = seen_by_units(case.model, case.prompts, flat_scores(case), tree, UnitMaskConfig())
    assert seen.known
    assert seen.ablations == ("counterfactual", "mean", "resample")
    assert seen.splits == ("discover",)
    assert seen.has(case.prompts).all()
    unknown = seen_by_units(case.model, case.prompts, flat_scores(case).values, tree)
    assert not unknown.known


def test_losses_are_those_of_each_ablation():
    case = CASES["either"]
    tree = units.tree(case.model)
    losses = unit_losses(case.model, case.prompts, tree, [tree.roots, ()], UnitMaskConfig())
    assert list(losses) == ["counterfactual", "mean", "resample"]
    for row in losses.values():
        assert row[0] == pytest.approx(0, abs=1e-6)
        assert row[1] > 0.05


def test_what_does_not_fit_is_refused():
    case, other = CASES["either"], CASES["parity"]
    model, prompts, tree = case.model, case.prompts, units.tree(case.model)
    scores, few = flat_scores(case), dataclasses.replace(SHORT, steps=4)
    search = lambda **new: search_units(**{  # noqa: E731
        "model": model, "prompts": prompts, "scores": scores, "tree": tree, "sizes": [(2, 2)],
        "config": few, **new})  # fmt: skip
    wide = Space(3, 4, 5)
    for new, match in (
        ({"scores": Nodes.full(wide, 0.0)}, "scores"),
        ({"scores": np.zeros(10)}, "scores"),
        ({"tree": units.tree(other.model)}, "tree"),
        ({"tree": dataclasses.replace(tree, dictionary="elsewhere#1a2b3c4d")}, "tree"),
        ({"tree": tree.depths()}, "tree"),
        ({"sizes": [(99, 99)]}, "sizes"),
        ({"config": None}, "config"),
        ({"model": None}, "model"),
        ({"prompts": None}, "prompts"),
        ({"seed": -1}, "seed"),
        ({"dictionary": units.components(model)}, "dictionary"),
    ):
        with pytest.raises(InputError, match=match):
            search(**new)
    state = init_units(jax.random.key(0), scores, tree, few, sizes=2)
    for sizes, config in itertools.product([[(2, 2)]], [few, UnitMaskConfig(steps=4)]):
        with pytest.raises(InputError, match="state"):
            train_units(model, prompts, state, tree, sizes, config)
    with pytest.raises(InputError, match="scores"):
        init_units(jax.random.key(0), np.zeros(3), tree)


@pytest.mark.parametrize(
    "fields",
    [{"steps": 0}, {"plateau": 0}, {"temperature": 0}, {"ablations": ()}, {"ablations": ("x",)},
     {"ablations": ("mean", "mean")}, {"batch_size": 2}, {"superset": 2}, {"memory": 1},
     {"leaf_weight": -1}, {"ablations": None}],
)  # fmt: skip
def test_configurations_out_of_range_are_refused(fields):
    with pytest.raises((ConfigError, InputError)):
        UnitMaskConfig(**fields)
