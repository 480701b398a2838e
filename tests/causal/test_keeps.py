"""What a circuit alone keeps is what the judge measures of it, with the same gates."""

import dataclasses

import pytest

from hagd_jax.causal import Circuit, ValidateConfig, keeps, validate
from hagd_jax.errors import InputError
from hagd_jax.tasks import Seen
from hagd_jax.testbeds import as_task, hand_built, scrambled
from hagd_jax.units import neurons

CASES = {case.name: scrambled(case, 1) for case in hand_built()}
CONFIG = ValidateConfig(claims="core", draws=2, batch_size=27, seed=3)


def circuit_of(case, nodes, seen=Seen.nothing()):  # noqa: B008
    nodes = tuple(sorted(nodes))
    return Circuit(nodes, (1.0,) * len(nodes), neurons(case.model).space, case.model.name,
                   case.name, seen=seen)  # fmt: skip


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if len(case.prompts) > 40])
@pytest.mark.parametrize("whole", [True, False])
def test_gates_are_those_of_the_verdict(name, whole):
    case = CASES[name]
    truth = sorted(case.truth["counterfactual"])
    circuit, task = circuit_of(case, truth if whole else truth[1:]), as_task(case, test=27)
    found = keeps(case.model, circuit, task, CONFIG)
    judged = validate(case.model, circuit, task, CONFIG)
    assert list(found) == [each.ablation for each in judged.evidence]
    for each in judged.evidence:
        own = found[each.ablation]
        assert own.passed == each.alone.passed
        assert own.kl == each.alone.kl
        assert own.faithfulness == each.alone.faithfulness
        assert own.kept == each.alone.kept
    assert any(own.kl.value > 0.01 for own in found.values()) or whole
    if whole:
        assert found["counterfactual"].good is True
        assert found["counterfactual"].faithfulness.ratio_of_means.value == pytest.approx(
            1, abs=1e-4
        )


def test_ablations_that_a_circuit_was_found_with_are_measured_too():
    case = CASES["either"]
    task = as_task(case, test=27)
    seen = task.look("discover", ablation=("counterfactual",))
    circuit = circuit_of(case, case.truth["counterfactual"], seen)
    found = keeps(case.model, circuit, task, dataclasses.replace(CONFIG, ablations=("mean",)))
    assert list(found) == ["mean"]
    both = keeps(case.model, circuit, task, CONFIG)
    assert both["counterfactual"].good is True
    assert both["mean"].kl == found["mean"].kl


def test_what_does_not_fit_is_refused():
    case, other = CASES["either"], CASES["parity"]
    circuit, task = circuit_of(case, case.truth["counterfactual"]), as_task(case, test=27)
    with pytest.raises(InputError, match="one for 'either'"):
        keeps(case.model, circuit, as_task(other, test=27), CONFIG)
    with pytest.raises(InputError):
        keeps(other.model, circuit, task, CONFIG)
    for args in ((None, circuit, task), (case.model, "c", task), (case.model, circuit, None)):
        with pytest.raises(InputError):
            keeps(*args, CONFIG)
    with pytest.raises(InputError, match="config"):
        keeps(case.model, circuit, task, None)
    with pytest.raises(InputError, match="split"):
        keeps(case.model, circuit, dataclasses.replace(task, splits={}, texts={}), CONFIG)
