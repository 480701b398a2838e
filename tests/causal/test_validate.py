"""The judge on circuits whose truth is known, and on what it must refuse."""

import dataclasses
import json

import numpy as np
import pytest

from hagd_jax.causal import Circuit, Node, ValidateConfig, validate
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.parallel import make_mesh
from hagd_jax.tasks import Seen, look, make_prompts
from hagd_jax.testbeds import as_task, hand_built, scrambled
from hagd_jax.units import neurons
from tests.models.noise import on_mesh

CASES = {case.name: scrambled(case, 3) for case in hand_built()}
CONFIG = ValidateConfig(
    ablations=("mean",), controls=40, subsets=4, greedy=0, permuted=0, batch_size=128
)


def circuit(case, nodes, **changes):
    chosen = tuple(sorted(nodes))
    space = neurons(case.model).space
    ones = (1.0,) * len(chosen)
    made = Circuit(chosen, ones, space, case.model.name, case.name, seen=Seen.nothing())
    return dataclasses.replace(made, **changes)


def judged(case, nodes, config=CONFIG, **options):
    return validate(case.model, circuit(case, nodes), as_task(case), config, **options)


def everything(case):
    layers, heads, features = neurons(case.model).space
    both = (("head", heads), ("neuron", features))
    return {Node(kind, i, j) for kind, n in both for i in range(layers) for j in range(n)}


@pytest.mark.parametrize("name", ["either", "suppressed"])
def test_the_true_circuit_is_accepted_and_others_are_not(name):
    case = CASES[name]
    truth = case.truth["mean"]
    report = judged(case, truth)
    assert report.verdict == "accepted", [c for c in report.claims if c.verdict != "holds"]
    for node in truth:
        assert judged(case, truth - {node}).verdict == "rejected", node
    idle = min(everything(case) - case.truth["zero"])
    more = judged(case, truth | {idle})
    assert {c.name: c.verdict for c in more.claims}["minimality"] == "fails"
    assert more.verdict == "rejected"
    rng = np.random.default_rng(0)
    units = sorted(everything(case))
    for _ in range(4):
        chosen = {units[i] for i in rng.permutation(len(units))[: len(truth)]}
        assert judged(case, chosen).verdict == "rejected" or chosen == truth


def test_a_circuit_is_not_accepted_by_the_ablation_it_was_found_with():
    case = CASES["either"]
    task, truth = as_task(case), case.truth["mean"]
    own = circuit(case, truth, seen=look(ablation="mean"))
    report = validate(case.model, own, task, CONFIG)
    assert not report.decisive
    assert report.verdict == "not enough data"
    two = dataclasses.replace(CONFIG, ablations=("mean", "resample"), draws=4)
    report = validate(case.model, own, task, two)
    assert {claim.ablation for claim in report.decisive} == {"resample"}
    assert report.accepted
    record = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert record["verdict"] == "accepted"
    assert len(record["claims"]) == len(report.claims) == 14


@pytest.mark.parametrize("nodes", ["none", "all"])
def test_nothing_and_everything_are_no_circuits(nodes):
    case = CASES["either"]
    report = judged(case, everything(case) if nodes == "all" else set())
    assert report.verdict == "rejected"
    verdicts = {c.name: c.verdict for c in report.claims}
    # The whole model is sufficient, but most of it is not needed.
    failed = "minimality" if nodes == "all" else "sufficiency"
    assert verdicts[failed] == "fails"


def test_few_prompts_are_never_enough():
    case = CASES["either"]
    task = as_task(case)
    few = {split: prompts[:5] for split, prompts in task.splits.items()}
    texts = {split: said[:5] for split, said in task.texts.items()}
    small = dataclasses.replace(task, splits=few, texts=texts)
    report = validate(case.model, circuit(case, case.truth["mean"]), small, CONFIG)
    assert report.verdict == "not enough data"
    assert "8 are the least" in report.claims[0].says
    few = dataclasses.replace(CONFIG, controls=10)
    report = judged(case, case.truth["mean"], few)
    assert {c.name: c.verdict for c in report.claims}["sufficiency"] == "not enough data"
    assert report.verdict == "not enough data"


def test_a_behaviour_that_the_model_does_not_have_is_no_circuits():
    """Right and wrong answers exchanged: the metric is the empty circuit's, or less."""
    case = CASES["either"]
    p = case.prompts
    same = make_prompts(
        p.clean.tolist(), p.clean.tolist(), p.distractor, p.answer, vocab_size=7
    )  # fmt: skip
    lost = case._replace(prompts=same)
    counterfactual = dataclasses.replace(CONFIG, ablations=("counterfactual",))
    own = circuit(lost, case.truth["mean"], seen=look(ablation="zero"))
    report = validate(case.model, own, as_task(lost), counterfactual)
    assert report.verdict == "rejected"
    assert "does not tell model from empty" in report.claims[0].says


def test_devices_do_not_matter():
    case = CASES["suppressed"]
    mesh = make_mesh("replica=8")
    far = case._replace(model=on_mesh(case.model, mesh))
    one, other = (judged(c, case.truth["mean"]) for c in (case, far))
    for a, b in zip(one.claims, other.claims, strict=True):
        assert (a.name, a.verdict) == (b.name, b.verdict)
        np.testing.assert_allclose(a.effect, b.effect, atol=1e-5)
        np.testing.assert_allclose(a.p_value, b.p_value, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "another"}, "one for 'another'"),
        ({"space": (1, 4, 7)}, "layers, heads, neurons"),
        ({"dictionary": "mine#12345678"}, "dictionary"),
    ],
)
def test_a_circuit_of_something_else_is_refused(change, words):
    case = CASES["either"]
    nodes = {Node("head", 0, 1)}
    with pytest.raises(InputError, match=words):
        validate(case.model, circuit(case, nodes, **change), as_task(case), CONFIG)


@pytest.mark.parametrize(
    "change", [{"ablations": ()}, {"ablations": ("nothing",)}, {"alpha": 0}, {"controls": 0}]
)
def test_a_bad_configuration_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        ValidateConfig(**change)
