"""Pruning of circuits of units: what is left is needed, and what backs another up is kept once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax import units
from hagd_jax.causal import Ablation
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.search import UnitPruneConfig, UnitRepairConfig, prune_units, unit_losses
from hagd_jax.search.unit_prune import _less
from hagd_jax.testbeds import hand_built, scrambled
from tests.search.test_unit_repair import circuit_of, truth_of

CASES = {case.name: scrambled(case, 1) for case in hand_built()}
CONFIG = UnitPruneConfig(ablations=("counterfactual",), prompts=81, batch_size=81)
MEASURE = UnitRepairConfig(ablations=("counterfactual",), batch_size=81)


def leaves(case):
    tree = units.tree(case.model)
    return tree, [tree.leaf(place).name for place in range(tree.space.nodes)]


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_circuit_of_a_known_model_is_what_is_left_of_all_nodes(name):
    """The other nodes do nothing, and each of the truth is needed."""
    case = CASES[name]
    tree, every = leaves(case)
    start = circuit_of(tree, every, (len(every), len(every)))
    calls = []
    made = prune_units(
        case.model, case.prompts, tree, start, CONFIG, progress=lambda *at: calls.append(at)
    )
    left = {unit.name for unit in made.circuit.units}
    assert left <= set(every)
    assert 0 < len(left) < len(every)
    if name != "either":  # there one of two is enough
        assert left == set(truth_of(case))
    assert made.loss[0] == pytest.approx(0, abs=1e-6)
    assert made.loss[-1] < CONFIG.least * (len(every) - len(left))
    ranks = dict(zip([unit.name for unit in start.units], start.ranks, strict=True))
    assert made.circuit.ranks == tuple(ranks[unit.name] for unit in made.circuit.units)
    assert made.circuit.seen.ablations == ("counterfactual",)
    assert calls[0][0] == 0
    assert len(left) <= calls[0][1] <= len(every)
    assert all(done <= total <= len(every) for done, total in calls)
    assert calls[-1][0] == calls[-1][1] > 0


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_units_are_worth_is_what_leaving_them_out_adds(name):
    case = CASES[name]
    tree, every = leaves(case)
    start = circuit_of(tree, every, (len(every), len(every)))
    made = prune_units(case.model, case.prompts, tree, start, CONFIG)
    kept = made.circuit.units
    without = [tuple(unit for unit in kept if unit != out) for out in kept]
    chains = [(), kept, *without]
    losses = unit_losses(case.model, case.prompts, tree, chains, MEASURE)["counterfactual"]
    worth = (losses[2:] - losses[1]) / losses[0]
    # Those that are worth far more than the least were measured before others left.
    near = worth < 4 * CONFIG.least
    np.testing.assert_allclose(np.array(made.worth)[near], worth[near], atol=1e-6)
    assert len(kept) == 1 or min(*worth, *made.worth) >= CONFIG.least
    assert made.loss[-1] == pytest.approx(losses[1] / losses[0], abs=1e-6)


def test_only_the_first_prompts_are_measured_and_partners_are_among_all():
    case = CASES["either"]
    tree, every = leaves(case)
    start = circuit_of(tree, every, (len(every), len(every)))
    some = UnitPruneConfig(ablations=("mean",), prompts=5)
    made = prune_units(case.model, case.prompts, tree, start, some)
    losses = unit_losses(
        case.model, case.prompts[:5], tree, [(), made.circuit.units],
        UnitRepairConfig(ablations=("mean",)), ablations={"mean": Ablation("mean", case.prompts)},
    )["mean"]  # fmt: skip
    assert made.loss[-1] == pytest.approx(losses[1] / losses[0], abs=1e-6)


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=9), st.integers(0, 30))
@settings(max_examples=60)
def test_of_units_whose_worths_add_up_all_that_are_worth_too_little_leave_at_once(worth, loss):
    """Against the definition, for a loss that is a sum; a unit always stays."""
    chain = tuple(units.tree(CASES["either"].model).leaf(i) for i in range(len(worth)))
    value = dict(zip(chain, worth, strict=True))

    def shares(chains):
        return np.array([loss + sum(value[u] for u in chain if u not in one) for one in chains])

    left, found = _less(chain, np.array(worth, float), float(loss), shares, 4.0)
    few = min(sum(w < 4 for w in worth), len(worth) - 1)
    out = np.argsort(worth, kind="stable")[:few]
    assert left == tuple(unit for i, unit in enumerate(chain) if i not in out)
    assert found == loss + sum(worth[i] for i in out)


def test_what_few_prompts_let_leave_and_many_do_not_stays():
    """A single prompt lets more leave than the truth; the others let fewer."""
    case = CASES["either"]
    tree, every = leaves(case)
    start = circuit_of(tree, every, (len(every), len(every)))
    few = UnitPruneConfig(ablations=("counterfactual",), prompts=1)
    for i in range(len(case.prompts)):
        alone = prune_units(case.model, case.prompts[i : i + 1], tree, start, few).circuit.units
        losses = unit_losses(
            case.model, case.prompts, tree, [(), start.units, alone], MEASURE
        )["counterfactual"]  # fmt: skip
        if (losses[2] - losses[1]) / losses[0] > few.least * (len(every) - len(alone)):
            break
    order = [i, *[j for j in range(len(case.prompts)) if j != i]]
    made = prune_units(case.model, case.prompts[np.array(order)], tree, start, few)
    kept = made.circuit.units
    assert len(alone) < len(kept) <= len(every) == len(start.units)
    empty, before, after = unit_losses(
        case.model, case.prompts, tree, [(), start.units, kept], MEASURE
    )["counterfactual"]  # fmt: skip
    # No more left than all prompts agree to, and what did is worth less than the least each.
    assert after - before <= few.least * (empty - before) * (len(every) - len(kept)) + 1e-6
    assert len(made.worth) == len(kept)
    assert len(made.loss) == 1 + (len(kept) < len(every))


def test_nothing_is_left_out_where_that_would_add_too_much_together():
    """Two that are worth nothing alone, and everything together: one of them may leave."""
    chain = tuple(units.tree(CASES["either"].model).leaf(i) for i in range(3))
    shares = lambda chains: np.array([0.0 if len(set(one) & set(chain[:2])) else 1.0  # noqa: E731
                                       for one in chains])  # fmt: skip
    left, loss = _less(chain, np.array([0.0, 0.0, 0.5]), 0.0, shares, 0.01)
    assert left == chain[1:]
    assert loss == 0
    assert _less(chain[1:], np.array([1.0, 0.5]), 0.0, shares, 0.01) == (chain[1:], 0.0)


@pytest.mark.parametrize("name", ["either", "parity"])
def test_a_circuit_that_does_little_does_not_lose_that(name):
    """Of a circuit that is hardly better than the empty one, most of the little is kept."""
    case = CASES[name]
    tree, every = leaves(case)
    losses = lambda chain: unit_losses(  # noqa: E731
        case.model, case.prompts, tree, [(), tree.antichain(chain)], MEASURE
    )["counterfactual"]
    poor = [n for n in every if n not in truth_of(case)[1:]]
    start = circuit_of(tree, poor, (len(poor), len(poor)))
    made = prune_units(case.model, case.prompts, tree, start, CONFIG)
    empty, before = losses(poor)
    gain = 1 - before / empty
    after = losses([unit.name for unit in made.circuit.units])[1] / empty
    assert after - before / empty <= max(gain, 0) * CONFIG.least * len(poor) + 1e-6
    assert made.loss[-1] == pytest.approx(after, abs=1e-6)


def test_an_ablation_that_is_not_given_is_refused():
    case = CASES["either"]
    tree, every = leaves(case)
    given = (case.model, case.prompts, tree, [tree.antichain(every)], MEASURE)
    for ablations in ({}, {"mean": Ablation("mean")}, {"counterfactual": "mean"}):
        with pytest.raises(InputError, match="counterfactual"):
            unit_losses(*given, ablations=ablations)
    with pytest.raises(InputError, match="ablations"):
        unit_losses(*given, ablations=[Ablation("counterfactual")])
    with pytest.raises(InputError, match="known"):
        Ablation("mean", known=3)


def test_what_does_not_fit_is_refused():
    case = CASES["either"]
    tree = units.tree(case.model)
    good = circuit_of(tree, ["head 0.0"], (1, 1))
    for circuit, match in ((None, "circuit"), (good._replace(units=(), ranks=()), "without units")):
        with pytest.raises(InputError, match=match):
            prune_units(case.model, case.prompts, tree, circuit, CONFIG)
    other = units.tree(CASES["parity"].model)
    with pytest.raises(InputError, match="tree"):
        prune_units(case.model, case.prompts, other, good, CONFIG)
    with pytest.raises(InputError, match="config"):
        prune_units(case.model, case.prompts, tree, good, MEASURE)
    for fields in ({"prompts": 0}, {"ablations": "x"}, {"ablations": ()}, {"least": -1},
                   {"least": 1}, {"batch_size": 0}, {"metric": -1}):  # fmt: skip
        with pytest.raises(ConfigError):
            UnitPruneConfig(**fields)
