"""Claims told beside the verdict, on models where it is known whether they are true."""

import dataclasses

import jax
import numpy as np
import pytest

from hagd_jax.causal import Circuit, EdgeCircuit, ValidateConfig, validate
from hagd_jax.causal.negative import permuted
from hagd_jax.errors import InputError
from hagd_jax.models import forward
from hagd_jax.parallel import make_mesh
from hagd_jax.tasks import Seen, correct
from hagd_jax.testbeds import as_task, hand_built, necessary_edges
from hagd_jax.units import components, neurons
from tests.models.noise import on_mesh

CASES = {case.name: case for case in hand_built()}
CONFIG = ValidateConfig(
    ablations=("mean",), controls=40, subsets=4, greedy=2, permuted=0, batch_size=128
)


def circuit(case, nodes, **changes):
    chosen = tuple(sorted(nodes))
    space = neurons(case.model).space
    ones = (1.0,) * len(chosen)
    made = Circuit(chosen, ones, space, case.model.name, case.name, seen=Seen.nothing())
    return dataclasses.replace(made, **changes)


def claims(case, nodes, **options):
    config = options.pop("config", CONFIG)
    report = validate(case.model, circuit(case, nodes), as_task(case), config, **options)
    return {claim.name: claim for claim in report.claims}, report


def test_another_task_does_not_need_the_circuit():
    """Two tasks of one model share nothing but their threshold."""
    one, other = CASES["two_tasks_1"], CASES["two_tasks_2"]
    found, _ = claims(one, one.truth["mean"], others=[as_task(other)])
    assert found["specificity"].verdict == "holds"
    assert found["specificity"].p_value < 1e-3
    assert abs(found["specificity"].effect.value) < 0.05
    both = one.truth["mean"] | other.truth["mean"]
    found, _ = claims(one, both, others=[as_task(other)])
    assert found["specificity"].verdict == "fails"
    assert found["specificity"].effect.value > 0.5
    for wrong in ([as_task(one)], [as_task(other)] * 2):
        with pytest.raises(InputError, match=r"others.*expected tasks other than 'two_tasks_1'"):
            claims(one, both, others=wrong)
    lacking = dataclasses.replace(as_task(other), splits={}, texts={})
    with pytest.raises(InputError, match="'test'"):
        claims(one, both, others=[lacking])


def test_heads_that_stand_in_for_each_other_are_seen():
    """An OR's heads cost more together than one by one; an AND's do not."""
    zero = dataclasses.replace(CONFIG, ablations=("zero",))
    found, _ = claims(CASES["either"], CASES["either"].truth["zero"], config=zero)
    assert found["additivity"].verdict == "fails"
    assert found["additivity"].effect.value > 1
    found, report = claims(CASES["both"], CASES["both"].truth["mean"])
    assert found["additivity"].verdict == "holds"
    evidence = report.evidence[0]
    assert evidence.standing == ("needed",) * 3
    assert len(evidence.members) == len(evidence.without) == len(report.circuit) == 3
    assert evidence.members[:2] == ("head 0.0", "head 0.1")
    assert len(evidence.greedy) == 2
    assert evidence.sizes[-1][:2] == pytest.approx((3, 1), abs=1e-3)
    assert evidence.kl[0] == 0 < evidence.kl[1]


def test_a_chosen_part_tells_circuit_and_model_apart():
    """Without its threshold the circuit of a sum has lost a member that only the model has."""
    case = CASES["suppressed"]
    loud = {node for node in case.truth["mean"] if node.kind != "head" or node.index == 0}
    assert len(loud) == 2
    found, _ = claims(case, loud)
    assert found["completeness"].verdict == "fails"
    found, _ = claims(case, case.truth["mean"])
    assert found["completeness"].verdict == "holds"
    assert "chosen to tell them apart, 0%" in found["completeness"].says


def test_a_negative_control_that_could_not_fail_does_not_hold():
    case = CASES["rotation"]
    config = dataclasses.replace(CONFIG, greedy=0, permuted=2)
    report = validate(case.model, circuit(case, case.truth["mean"]), as_task(case), config)
    control = [claim for claim in report.claims if claim.name == "negative control"]
    assert [claim.verdict for claim in control] == ["not enough data"] * 2
    assert all("no circuit could pass there" in claim.says for claim in control)
    assert control[0].says != control[1].says
    # Whoever passes there fails the control: the circuit's own model in its place does.
    lost = permuted(case.model, 0)
    own, theirs = (
        sorted(np.ravel(x).tolist()) for x in (case.model.params["blocks"]["mlp"]["in"]["kernel"],
                                               lost.params["blocks"]["mlp"]["in"]["kernel"])
    )  # fmt: skip
    assert own == theirs
    right = np.mean(correct(forward(lost, case.prompts.clean).logits, case.prompts))
    assert right < 0.8


def test_permuted_weights_stay_on_their_devices():
    case = CASES["either"]
    mesh = make_mesh("data=4,model=2")
    far = permuted(on_mesh(case.model, mesh), 3)
    near = permuted(case.model, 3)
    for a, b in zip(*map(jax.tree.leaves, (near.params, far.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert far.mesh == mesh
    sharding = far.params["blocks"]["mlp"]["in"]["kernel"].sharding
    assert sharding.mesh.size == 8


def test_circuits_found_again_are_compared():
    case = CASES["parity"]
    truth = case.truth["mean"]
    same = [circuit(case, truth, seed=seed) for seed in (1, 2)]
    found, report = claims(case, truth, again=same)
    assert found["stability"].verdict == "holds"
    assert found["stability"].effect.value == 1
    assert len([claim for claim in report.claims if claim.name == "stability"]) == 1
    # Chance does as well as three equal circuits of 100 at a level that 99 draws cannot reach.
    strict = dataclasses.replace(CONFIG, alpha=1e-3)
    found, _ = claims(case, truth, again=same, config=strict)
    assert found["stability"].p_value <= 1e-3
    assert found["stability"].verdict == "holds"
    apart = [circuit(case, list(truth)[:2]), circuit(case, list(truth)[2:])]
    found, _ = claims(case, truth, again=apart)
    assert found["stability"].verdict == "fails"
    # The same file again, once or often, is no second finding.
    found, _ = claims(case, truth, again=[circuit(case, truth)] * 3)
    assert found["stability"].verdict == "not enough data"
    found, _ = claims(case, truth, again=[same[0]] * 3)
    assert found["stability"].says.startswith("2 circuits")
    strange = dataclasses.replace(same[0], task="another")
    with pytest.raises(InputError, match="one for 'another'"):
        claims(case, truth, again=[strange])


def test_circuits_of_edges_are_judged_too():
    """Edges without which some answer changes are the circuit of an AND; one less is none."""
    case = CASES["both"]
    parts = components(case.model)
    needed = necessary_edges(case.model, [case.prompts], "mean", batch_size=128)
    made = EdgeCircuit.from_mask(
        needed, needed, case.model.config, model=case.model.name, task=case.name,
        seen=Seen.nothing(),
    )  # fmt: skip
    assert 4 <= len(made) < parts.space.count() / 2
    report = validate(case.model, made, as_task(case), CONFIG)
    assert report.verdict == "accepted", [c for c in report.decisive if c.verdict != "holds"]
    assert any("→" in name for name in report.evidence[0].members)
    fewer = dataclasses.replace(made, edges=made.edges[1:], scores=made.scores[1:])
    assert validate(case.model, fewer, as_task(case), CONFIG).verdict == "rejected"
    with pytest.raises(InputError, match="components of"):
        made.check_model(neurons(case.model))
