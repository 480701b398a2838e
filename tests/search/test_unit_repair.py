"""Repair of circuits of units: what is proposed, and that the worst loss only falls."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax import units
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.search import UnitCircuit, UnitRepairConfig, repair_units, unit_losses
from hagd_jax.search.unit_proposals import proposals
from hagd_jax.search.unit_sizes import Limit
from hagd_jax.tasks import Seen
from hagd_jax.testbeds import hand_built, scrambled
from tests.units.trees import antichains, trees

CASES = {case.name: scrambled(case, 1) for case in hand_built()}
CONFIG = UnitRepairConfig(rounds=6, proposals=16, ablations=("counterfactual",), batch_size=81)


def circuit_of(tree, names, size):
    chain = tree.antichain(names)
    return UnitCircuit(chain, tuple(float(i) for i in range(len(chain))), size, {}, Seen.nothing())


def truth_of(case):
    return [f"{node.kind} {node.layer}.{node.index}" for node in case.truth["counterfactual"]]


@given(st.data(), trees(least=2), st.integers(0, 99))
@settings(max_examples=40)
def test_proposals_are_other_antichains_within_the_limit(data, tree, seed):
    chain = tuple(data.draw(antichains(tree, least=1)))
    slope = np.random.default_rng(seed).normal(size=tree.space.nodes)
    leaves = data.draw(st.integers(1, tree.space.nodes))
    limit = Limit(data.draw(st.integers(1, leaves)), leaves, np.inf, 0.0)
    found = proposals(tree, chain, slope, limit, 4)
    names = [frozenset(unit.name for unit in one) for one in found]
    assert len(set(names)) == len(names) <= 28
    assert frozenset(unit.name for unit in chain) not in names
    for one in found:
        assert tree.antichain(one) == one
        assert 1 <= len(one) <= limit.units
        assert sum(map(len, one)) <= limit.leaves
    assert proposals(tree, chain, slope, limit, 4) == found
    assert proposals(tree, chain, slope, limit, 0) == []


def test_merges_splits_swaps_additions_and_drops_are_proposed():
    tree = units.tree(CASES["either"].model)  # 4 heads, 6 neurons
    slope = -np.arange(10.0)
    chain = tree.antichain(["head 0.0", "head 0.1", "mlp 0"])
    found = proposals(tree, chain, slope, Limit(4, 10, 99.0, 1.0), 50)
    names = [{unit.name for unit in one} for one in found]
    assert {"attention 0", "mlp 0"} in names
    assert {"head 0.0", "head 0.1", "neuron 0.5", "neuron 0.4"} in names
    assert {"head 0.3", "head 0.1", "mlp 0"} in names
    assert {"head 0.0", "head 0.1", "head 0.3", "mlp 0"} in names
    assert {"head 0.1", "mlp 0"} in names


def test_several_units_are_let_out_or_swapped_at_once():
    tree = units.tree(CASES["either"].model)  # 4 heads, 6 neurons
    # Heads 0 to 3 are worth 0 to 3, neurons 4 to 9; blocks are worth the sum of what they hold.
    chain = tree.antichain(["head 0.0", "head 0.1", "head 0.2", "neuron 0.0", "neuron 0.1"])
    found = proposals(tree, chain, -np.arange(10.0), Limit(5, 6, 99.0, 1.0), 50)
    names = [{unit.name for unit in one} for one in found]
    assert {"head 0.2", "neuron 0.0", "neuron 0.1"} in names
    assert {"neuron 0.1"} in names
    assert {"head 0.2", "neuron 0.0", "neuron 0.1", "neuron 0.5", "neuron 0.4"} in names
    assert {"neuron 0.1", "neuron 0.5", "neuron 0.4", "neuron 0.3", "neuron 0.2"} in names


@pytest.mark.parametrize("name", ["either", "suppressed"])
def test_one_wrong_member_is_swapped_for_the_right_one(name):
    """The truth has no loss, so repair from all but one of it ends there."""
    case = CASES[name]
    truth, tree = truth_of(case), units.tree(case.model)
    spare = next(leaf.name for leaf in map(tree.leaf, range(tree.space.nodes))
                 if leaf.name not in truth)  # fmt: skip
    start = circuit_of(tree, [*truth[1:], spare], (len(truth), len(truth)))
    made = repair_units(case.model, case.prompts, tree, start, CONFIG)
    assert {unit.name for unit in made.circuit.units} == set(truth)
    assert made.worst[0] > 0.05
    assert made.worst[-1] < 1e-3
    assert list(made.worst) == sorted(made.worst, reverse=True)
    assert made.circuit.seen.ablations == ("counterfactual",)
    again = unit_losses(case.model, case.prompts, tree, [made.circuit.units], CONFIG)
    assert made.circuit.losses["counterfactual"] == pytest.approx(again["counterfactual"][0])


def test_the_worst_of_several_ablations_falls_and_the_size_holds():
    case = CASES["either"]
    tree = units.tree(case.model)
    three = ("counterfactual", "mean", "resample")
    several = dataclasses.replace(CONFIG, rounds=2, ablations=three)
    start = circuit_of(tree, truth_of(case)[1:], (4, 8))
    made = repair_units(case.model, case.prompts, tree, start, several)
    assert len(made.worst) > 1
    assert list(made.worst) == sorted(made.worst, reverse=True)
    assert len(made.circuit.units) <= 4
    assert made.circuit.leaves <= 8
    share = [made.circuit.losses[name] / made.empty[name] for name in several.ablations]
    assert max(share) == pytest.approx(made.worst[-1])
    same = repair_units(case.model, case.prompts, tree, start, several)
    assert same.circuit.units == made.circuit.units


def test_no_round_measures_the_circuit_alone():
    case = CASES["either"]
    tree = units.tree(case.model)
    start = circuit_of(tree, truth_of(case), (4, 4))
    made = repair_units(case.model, case.prompts, tree, start,
                        dataclasses.replace(CONFIG, rounds=0))  # fmt: skip
    assert (made.evaluations, made.circuit.units) == (1, start.units)
    assert made.circuit.ranks == start.ranks


def test_what_does_not_fit_is_refused():
    case = CASES["either"]
    tree = units.tree(case.model)
    good = circuit_of(tree, ["head 0.0"], (1, 1))
    far = good._replace(units=(dataclasses.replace(good.units[0], index=99),))
    for circuit, match in ((None, "circuit"), (far, "unit"), (good._replace(size=(9, 2)), "sizes")):
        with pytest.raises(InputError, match=match):
            repair_units(case.model, case.prompts, tree, circuit, CONFIG)
    other = units.tree(CASES["parity"].model)
    with pytest.raises(InputError, match="tree"):
        repair_units(case.model, case.prompts, other, good, CONFIG)
    for fields in ({"rounds": -1}, {"ablations": "x"}, {"least": -1}, {"leaf_weight": 0}):
        with pytest.raises(ConfigError):
            UnitRepairConfig(**fields)
