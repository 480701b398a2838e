"""The judge on circuits whose truth is known, and on what it must refuse."""

import dataclasses
import json

import numpy as np
import pytest

from hagd_jax.causal import Circuit, Node, ValidateConfig, behaviour, validate
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.parallel import make_mesh
from hagd_jax.report.verdict_words import verdict_sentence
from hagd_jax.tasks import Seen, look, make_prompts
from hagd_jax.testbeds import as_task, hand_built, scrambled
from hagd_jax.units import Nodes, neurons
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
    # Sixteen prompts are too few to call a unit idle that did nothing on them; 81 are enough.
    few = report.prompts == 16
    verdict = {c.name: c.verdict for c in more.claims}["minimality"]
    assert verdict == ("not enough data" if few else "fails")
    assert more.verdict == ("not enough data" if few else "rejected")
    rng = np.random.default_rng(0)
    units = sorted(everything(case))
    for _ in range(4):
        chosen = {units[i] for i in rng.permutation(len(units))[: len(truth)]}
        assert judged(case, chosen).verdict == "rejected" or chosen == truth


# Found on a prompt that is none of the case's, which the judge is to set aside.
ELSEWHERE = Seen(ablations=("counterfactual",), prompts=("00000000",))


def seen_of(case, rows, **options):
    """What a circuit has seen that was found on some of the prompts."""
    return look(case.prompts[rows], **options)


def test_a_circuit_is_not_accepted_by_the_ablation_it_was_found_with():
    case = CASES["either"]
    task, truth = as_task(case), case.truth["mean"]
    seen = ELSEWHERE | dataclasses.replace(ELSEWHERE, ablations=("mean",))
    own = circuit(case, truth, seen=seen)
    report = validate(case.model, own, task, CONFIG)
    assert not report.decisive
    assert report.verdict == "not enough data"
    assert "ablation mean, which the circuit was found with" in report.aside
    two = dataclasses.replace(CONFIG, ablations=("mean", "resample"), draws=4)
    report = validate(case.model, own, task, two)
    assert {claim.ablation for claim in report.decisive} == {"resample", ""}
    assert report.headline == "accepted on 81 test prompts under resample"
    record = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert record["verdict"] == "accepted"
    assert record["seen"]["ablations"] == ["counterfactual", "mean"]
    assert len(record["claims"]) == len(report.claims) == 17
    # What is under the ablation it was found with is measured and shown all the same.
    assert [e["decides"] for e in record["evidence"]] == [False, True]
    core = validate(case.model, own, task, dataclasses.replace(two, claims="core"))
    assert core.headline == report.headline


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (Seen.unknown(), "is not known"),
        (ELSEWHERE | Seen.unknown(), "is not known"),
        (look(ablation="counterfactual"), "is not known"),
        (look(split="test", task="either"), "all 81 prompts of the test split"),
    ],
)
def test_a_history_with_holes_decides_nothing(seen, why):
    case = CASES["either"]
    own = circuit(case, case.truth["mean"], seen=seen)
    report = validate(case.model, own, as_task(case), CONFIG)
    assert report.verdict == "not enough data"
    assert not report.decisive
    assert why in " ".join(report.aside)
    assert {c.verdict for c in report.claims if c.name == "sufficiency"} == {"holds"}


def test_prompts_that_were_seen_are_set_aside():
    case = CASES["either"]
    own = circuit(case, case.truth["mean"], seen=seen_of(case, slice(50)))
    report = validate(case.model, own, as_task(case), CONFIG)
    # Counterfactuals of the prompts that it has seen were read as well.
    read = {tuple(row) for side in ("clean", "corrupted")
            for row in np.asarray(getattr(case.prompts, side))[:50].tolist()}  # fmt: skip
    left = [i for i, row in enumerate(case.prompts.clean.tolist()) if tuple(row) not in read]
    assert 20 < len(left) < 31
    assert report.headline == f"accepted on {len(left)} test prompts under mean"
    assert f"{81 - len(left)} of 81 prompts, since the circuit has seen them" in report.aside
    # What is left is what a task of just those prompts would be.
    rest = case._replace(prompts=case.prompts[np.array(left)])
    task = as_task(rest)
    whole = as_task(case)
    task = dataclasses.replace(
        task, splits=task.splits | {"discover": case.prompts},
        texts=task.texts | {"discover": whole.texts["discover"]},
    )  # fmt: skip
    alone = validate(case.model, circuit(case, case.truth["mean"]), task, CONFIG)
    assert [c.says for c in alone.claims] == [c.says for c in report.claims]
    every = circuit(case, case.truth["mean"], seen=seen_of(case, slice(None)))
    report = validate(case.model, every, as_task(case), CONFIG)
    assert (report.prompts, report.decisive) == (81, ())
    assert "on the test split" in report.headline


def with_test_split(case, rows):
    """A task whose test split has these prompts; it is discovered on all."""
    task = as_task(case)
    texts = task.texts["test"]
    return dataclasses.replace(
        task,
        splits=task.splits | {"test": case.prompts[rows]},
        texts=task.texts | {"test": tuple(texts[int(i)] for i in rows)},
    )


def test_repeated_prompts_are_one_prompt():
    """Of parity, four inputs sixteen times each; and 16 inputs four times are those 16 once."""
    case = CASES["parity"]
    draw = np.random.default_rng(0).permutation(32)
    truth = case.truth["mean"]
    less = truth - {min(truth, key=lambda node: (node.kind, -node.index))}
    for nodes in (truth, less):
        few = with_test_split(case, np.repeat(draw[:4], 16))
        report = validate(case.model, circuit(case, nodes), few, CONFIG)
        assert (report.prompts, report.verdict) == (4, "not enough data")
        assert "60 rows that repeat a prompt" in " ".join(report.aside)
        once, often = (
            validate(case.model, circuit(case, nodes), with_test_split(case, rows), CONFIG)
            for rows in (draw[:16], np.tile(draw[:16], 4))
        )
        assert (once.prompts, once.verdict) == (often.prompts, often.verdict)
        for a, b in zip(once.claims, often.claims, strict=True):
            assert (a.name, a.verdict, a.says) == (b.name, b.verdict, b.says)


def test_a_prompt_asked_twice_in_two_ways_is_averaged():
    """The same tokens with other counterfactuals: one prompt, whose KL is the mean of two."""
    case = CASES["either"]
    rows = np.arange(81)
    p = case.prompts
    other = np.asarray(p.corrupted)[np.roll(rows, 7)]
    twice = dataclasses.replace(
        case.prompts[np.tile(rows, 2)], corrupted=np.concatenate([p.corrupted, other])
    )
    task = as_task(case)
    both = dataclasses.replace(
        task, splits=task.splits | {"test": twice},
        texts=task.texts | {"test": task.texts["test"] * 2},
    )  # fmt: skip
    config = dataclasses.replace(CONFIG, ablations=("counterfactual",), claims="core")
    report = validate(case.model, circuit(case, case.truth["mean"]), both, config)
    assert report.prompts == 81
    mean = np.mean([
        behaviour(case.model, prompts, [Nodes.full(neurons(case.model).space, False)],
                  ablation="counterfactual", batch_size=128).kl.mean()
        for prompts in (p, dataclasses.replace(p, corrupted=other))
    ])  # fmt: skip
    assert report.evidence[0].kl[1] == pytest.approx(mean, rel=1e-5)


def test_intervals_are_over_templates():
    case = CASES["either"]
    task = as_task(case)
    several = {
        split: tuple(text._replace(template=str(i % 3)) for i, text in enumerate(texts))
        for split, texts in task.texts.items()
    }
    task = dataclasses.replace(task, texts=several)
    less = circuit(case, sorted(case.truth["mean"])[1:])
    clustered = validate(case.model, less, task, CONFIG)
    plain = judged(case, less.nodes)
    assert (clustered.templates, plain.templates) == (3, 1)
    assert clustered.evidence[0].necessity.value == pytest.approx(plain.evidence[0].necessity.value)
    assert clustered.evidence[0].alone.kl != plain.evidence[0].alone.kl


@pytest.mark.parametrize("nodes", ["none", "all"])
def test_nothing_and_everything_are_no_circuits(nodes):
    case = CASES["either"]
    report = judged(case, everything(case) if nodes == "all" else set())
    assert report.verdict == "rejected"
    verdicts = {c.name: c.verdict for c in report.claims}
    # The whole model is sufficient, but it is no part of itself.
    failed = "size" if nodes == "all" else "sufficiency"
    assert verdicts[failed] == "fails"


def test_few_prompts_are_never_enough():
    case = CASES["either"]
    task = as_task(case)
    few = {split: prompts[:5] for split, prompts in task.splits.items()}
    texts = {split: said[:5] for split, said in task.texts.items()}
    small = dataclasses.replace(task, splits=few, texts=texts)
    report = validate(case.model, circuit(case, case.truth["mean"]), small, CONFIG)
    assert report.verdict == "not enough data"
    assert "5 distinct prompts are fewer than 8" in " ".join(report.aside)
    assert {c.verdict for c in report.claims if c.ablation} == {"not enough data"}
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
    own = circuit(lost, case.truth["mean"])
    report = validate(case.model, own, as_task(lost), counterfactual)
    assert report.verdict == "rejected"
    assert "the model itself is right on 0% of the prompts" in report.claims[1].says


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
    "change",
    [
        {"ablations": ()},
        {"ablations": ("nothing",)},
        {"alpha": 0},
        {"controls": 0},
        {"claims": "some"},
        {"draws": 0},
    ],
)
def test_a_bad_configuration_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        ValidateConfig(**change)


def test_core_claims_stop_where_the_verdict_is_clear():
    """A circuit that fails alone is compared with no random circuit; the verdict is that of all."""
    case = CASES["either"]
    truth = case.truth["mean"]
    core = dataclasses.replace(CONFIG, claims="core", ablations=("mean", "resample"))
    every = dataclasses.replace(core, claims="all")
    for nodes in (truth, truth - {min(truth)}, truth - {max(truth)}):
        heard = []
        report = judged(case, nodes, core, progress=heard.append)
        assert heard == ["mean", "resample"]
        assert report.verdict == judged(case, nodes, every).verdict
        ran = [bool(e.controls) for e in report.evidence]
        assert ran == ([True, True] if report.accepted else [False, False])
        if not report.accepted:
            assert report.claims[3].says == "members not tested: the circuit fails its gates here"


def test_where_nothing_decides_the_reason_is_true_and_the_title_says_what_failed():
    case = CASES["either"]
    core = dataclasses.replace(CONFIG, claims="core")
    truth = case.truth["mean"]
    for nodes, says, why in (
        (truth, "may carry either in {}.", "nothing is decided under this ablation"),
        (truth - {min(truth)}, "under mean ablation; nothing decides on it.", "fails its gates"),
    ):
        own = circuit(case, nodes, seen=Seen.unknown())
        report = validate(case.model, own, as_task(case), core)
        assert report.verdict == "not enough data"
        assert not report.decisive
        assert report.claims[3].standing == "not tested"
        assert why in report.claims[3].untested
        sentence = verdict_sentence(own, report, report.units)
        assert sentence.endswith(says.format(own.model))
        assert ("does not keep either in" in sentence) == (nodes != truth)
        assert not any("rejected" in claim.says for claim in report.claims)


def test_a_split_that_is_not_there_is_named():
    case = CASES["either"]
    task = as_task(case)
    some = {field: {"discover": getattr(task, field)["discover"]} for field in ("splits", "texts")}
    partial = dataclasses.replace(task, **some)
    with pytest.raises(InputError, match=r"got 'test'; expected one of its splits"):
        validate(case.model, circuit(case, case.truth["mean"]), partial, CONFIG)
    with pytest.raises(ConfigError, match="split: got 'nowhere'; expected one of discover"):
        dataclasses.replace(CONFIG, split="nowhere")
