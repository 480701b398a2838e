"""Extraction end to end: a planted circuit, eight devices, and kills."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import hagd_jax as hagd
from hagd_jax.causal import Circuit
from hagd_jax.corpus import corpus_of_tokens
from hagd_jax.errors import CheckpointError, ConfigError, InputError, Interrupted
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.parallel import make_mesh
from hagd_jax.pipeline import extract, open_extraction, open_run, run_staged, run_until
from hagd_jax.pipeline.extract import prepare
from hagd_jax.scores import GradientConfig, mean_scores
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes
from tests.models.noise import on_mesh
from tests.pipeline.copier import EXTRACT, make_copier, make_task


@pytest.fixture(scope="module")
def copier():
    return make_copier()


@pytest.fixture(scope="module")
def task():
    return make_task()


def test_finds_the_planted_head_and_proves_it(copier, task):
    # Of ten units there are nine other circuits of one: 0.1 is the least p-value.
    judge = dataclasses.replace(EXTRACT.judge, alpha=0.1)
    result = extract(copier, task, dataclasses.replace(EXTRACT, judge=judge))
    assert [(n.kind, n.layer, n.index) for n in result.circuit.nodes] == [("head", 0, 1)]
    report = result.report
    assert report.verdict == "accepted", [c for c in report.claims if c.verdict != "holds"]
    rows = {name: set(map(tuple, p.clean.tolist())) for name, p in task.splits.items()}
    new = rows["test"] - rows["discover"] - rows["select"]
    assert 15 < len(new) < 24  # some were drawn twice, or for other splits as well
    assert report.headline == f"accepted on {len(new)} test prompts under mean, resample"
    assert [e.ablation for e in report.evidence] == ["counterfactual", "mean", "resample"]
    for found in report.evidence:
        assert found.alone.faithfulness.ratio_of_means.value == pytest.approx(1, abs=0.05)
        assert found.necessity.value == pytest.approx(1, abs=0.05)
        model, _, circuit, complement = (e.value for e in found.accuracy)
        assert model == circuit == 1
        assert complement < 0.5
        # Of what it was found with no more is measured than it takes to show it.
        assert found.decides == (found.ablation != "counterfactual") == bool(found.chance)
    assert any(abs(chance) < 0.1 for chance in report.evidence[1].chance)
    assert "ablation counterfactual, which the circuit was found with" in report.aside
    # All claims, with the same seed: the same verdict.
    every = dataclasses.replace(judge, claims="all", subsets=2, greedy=0, permuted=0)
    again = hagd.causal.validate(copier, result.circuit, task, every)
    assert again.headline == report.headline
    own = {(c.name, c.ablation): c.verdict for c in again.decisive}
    assert own == {(c.name, c.ablation): c.verdict for c in report.decisive}
    assert result.curve[-1].faithfulness.value == 1
    assert [point.nodes for point in result.curve] == sorted({p.nodes for p in result.curve})


def test_a_wrong_circuit_is_rejected(copier, task):
    worst = Nodes(np.array([[1.0, 0.0]]), np.zeros((1, 8)))
    mask = hagd.search.top_nodes(worst, 1).mask
    circuit = Circuit.from_mask(mask, worst, model="copier", task="copy")
    report = hagd.causal.validate(copier, circuit, task, EXTRACT.judge)
    assert report.verdict == "not enough data"  # its history is not known
    known = dataclasses.replace(circuit, seen=Seen.nothing())
    report = hagd.causal.validate(copier, known, task, EXTRACT.judge)
    assert report.verdict == "rejected"
    for found in report.evidence:
        assert found.alone.faithfulness.ratio_of_means.value < 0.1
        assert found.alone.passed["accuracy"] is False
        assert not found.chance  # the verdict was clear without


def test_judged_under_what_it_was_found_with_alone_nothing_is_decided(copier, task):
    judge = dataclasses.replace(EXTRACT.judge, ablations=("counterfactual",))
    report = extract(copier, task, dataclasses.replace(EXTRACT, judge=judge)).report
    assert report.verdict == "not enough data"
    assert not report.decisive
    assert report.evidence[0].alone.good


def test_one_and_four_devices_give_the_same_circuit(copier, task):
    config = dataclasses.replace(EXTRACT, nodes="4")
    far = on_mesh(copier, make_mesh("data=2,model=2", devices=jax.devices()[:4]))
    one, other = (
        run_until("select", model, task, config)["select"].circuit for model in (copier, far)
    )
    assert other.nodes == one.nodes
    np.testing.assert_allclose(other.scores, one.scores, atol=1e-5)


def without_times(run):
    file = run.path / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{k: v for k, v in r.items() if k not in ("time", "seconds")} for r in records]


class Killed(BaseException):
    pass


def killed_at(where, copier, task, folder, save_every=0.0, config=EXTRACT):
    """Run in a folder until (stage, steps done) is reported, and no further."""

    def kill(stage, done, total):
        if (stage, done) == where:
            raise Killed

    context, _ = prepare(copier, task, config, out=open_run(folder, {}))
    with pytest.raises(Killed):
        run_staged(dataclasses.replace(context, progress=kill, save_every=save_every))
    return context.run


@pytest.fixture(scope="module")
def whole(copier, task, tmp_path_factory):
    """A run that nobody killed."""
    run = open_run(tmp_path_factory.mktemp("whole"), {})
    return run, extract(copier, task, EXTRACT, out=run)


@pytest.mark.parametrize("save_every", [0, 1e9], ids=["saved", "not saved"])
@pytest.mark.parametrize("batches_before_kill", [0, 1, 2])
def test_a_killed_run_continues_as_if_nothing_had_happened(
    copier, task, whole, tmp_path, batches_before_kill, save_every
):
    run, expected = whole
    where = ("score", 8 * (batches_before_kill + 1))
    broken = killed_at(where, copier, task, tmp_path / "broken", save_every)
    assert [r["step"] for r in without_times(broken)] == [
        8 * (i + 1) for i in range(batches_before_kill + 1)
    ]
    result = extract(copier, task, EXTRACT, out=open_run(tmp_path / "broken", {}))
    np.testing.assert_array_equal(result.scores.flat(), expected.scores.flat())
    assert without_times(broken) == without_times(run)
    saved = [Circuit.load(each.path / "circuit.json") for each in (run, broken)]
    assert saved[0] == saved[1] == expected.circuit


@pytest.mark.parametrize("save_every", [0, 1000])
def test_masks_killed_in_training_end_the_same(copier, task, whole, tmp_path, save_every):
    run, expected = whole
    assert expected.circuit.config["found_by"] == "masks"
    broken = killed_at(("masks", 20), copier, task, tmp_path / "broken", save_every)
    assert bool(broken.masks.steps()) == (save_every == 0)
    result = extract(copier, task, EXTRACT, out=open_run(tmp_path / "broken", {}))
    assert result.circuit == expected.circuit
    assert without_times(broken) == without_times(run)


@pytest.mark.parametrize(
    ("stage", "done", "kept"), [("score", 16, "checkpoints"), ("masks", 10, "masks")]
)
def test_a_run_that_is_asked_to_stop_saves_first(copier, task, whole, tmp_path, stage, done, kept):
    def stop(*now):
        if now[:2] == (stage, done):
            raise Interrupted

    with pytest.raises(Interrupted):
        extract(copier, task, EXTRACT, out=open_run(tmp_path, {}), progress=stop)
    assert getattr(open_run(tmp_path, {}), kept).steps()[-1] == done  # long before its time
    assert extract(copier, task, EXTRACT, out=open_run(tmp_path, {})).circuit == whole[1].circuit
    assert without_times(open_run(tmp_path, {})) == without_times(whole[0])


def test_a_run_continues_on_another_mesh(copier, task, tmp_path):
    """Half done on one device with batches of 8, finished on eight with batches of 24."""
    killed_at(("score", 16), copier, task, tmp_path)
    many = on_mesh(copier, make_mesh("data=8"))
    config = dataclasses.replace(EXTRACT, gradient=GradientConfig(batch_size=24))
    found = run_until("score", many, task, config, out=open_run(tmp_path, {}))["score"]
    expected = mean_scores(copier, task.splits["discover"], config.gradient)
    # Batches of other sizes add up float32 in another order.
    np.testing.assert_allclose(found.flat(), expected.flat(), rtol=1e-6, atol=1e-6)


def test_a_task_by_name_takes_the_sizes_and_wrong_tasks_are_named(copier, task):
    with pytest.raises(InputError, match="Did you mean ioi"):
        extract(copier, "oi", EXTRACT)
    partial = dataclasses.replace(task, splits={"discover": task.splits["discover"]})
    with pytest.raises(InputError, match="'test'"):
        extract(copier, partial, EXTRACT)


def test_text_that_is_given_is_text_of_a_run_with_a_folder(copier, task, tmp_path):
    config = dataclasses.replace(EXTRACT, features="transcoder")
    with pytest.raises(ConfigError, match="text to train"):
        open_extraction(tmp_path, copier, task, config)
    rows = np.random.default_rng(0).integers(0, 8, (64, 3))
    text = corpus_of_tokens("random", rows, copier)
    context, _ = prepare(copier, task, config, out=tmp_path / "run", corpus=text)
    assert context.run.path == tmp_path / "run"
    assert context.corpus is text


def test_a_finished_run_is_repeated_without_searching_again(copier, task, whole):
    run, first = whole
    stages = []
    again = extract(copier, task, EXTRACT, out=run, progress=lambda stage, *_: stages.append(stage))
    assert not {"score", "graph", "masks"} & set(stages)
    assert again.circuit == first.circuit


def test_two_processes_find_what_one_finds(copier, task, tmp_path):
    """One program on two processes of two devices each, as on a pod."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2")
    environment = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-m", "tests.pipeline.worker", coordinator, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    workers = [subprocess.Popen([*command, i, "staged"], env=environment, **pipes) for i in "01"]
    try:
        for worker in workers:
            out, _ = worker.communicate(timeout=180)
            assert worker.returncode == 0, out[-3000:]
    finally:
        for worker in workers:
            worker.kill()
    left = run_until("select", copier, task, dataclasses.replace(EXTRACT, nodes="4"))
    expected = left["select"].circuit
    found = Circuit.load(tmp_path / "circuit.json")
    assert found.nodes == expected.nodes
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


LEVELS = dataclasses.replace(
    EXTRACT, hierarchy=HierarchyConfig(ratio=0.5, least=2), levels=1, candidates=4
)


def test_stages_stop_and_begin_again(copier, task, tmp_path):
    """Until each stage, then from it with other settings of its own; not of an earlier one."""
    expected = extract(copier, task, LEVELS)
    out = tmp_path / "run"
    for stage, there in (("score", "checkpoints"), ("hierarchy", "hierarchy.npz"),
                         ("search", "search.npz"), ("select", "circuit.json"),
                         ("page", "report.html")):  # fmt: skip
        assert not (out / there).exists()
        left = run_until(stage, copier, task, LEVELS, out=out)
        assert (out / there).exists()
    assert left["select"].circuit == expected.circuit
    changed = dataclasses.replace(LEVELS, nodes="2")
    with pytest.raises(CheckpointError, match="nodes was '1', now '2'"):
        open_extraction(out, copier, task, changed)
    again = open_extraction(out, copier, task, changed, begin="search")
    assert (out / "hierarchy.npz").exists()
    assert not (out / "masks").exists()
    assert not (out / "circuit.json").exists()
    assert len(extract(copier, task, changed, out=again).circuit) == 2
    earlier = dataclasses.replace(changed, candidates=3)
    with pytest.raises(CheckpointError, match="candidates"):
        open_extraction(out, copier, task, earlier, begin="search")
    with pytest.raises(ConfigError, match="--until: got 'dance'; expected one of features, score"):
        run_until("dance", copier, task, LEVELS, out=out)
    with pytest.raises(ConfigError, match="--from: got 'dance'"):
        open_extraction(out, copier, task, LEVELS, begin="dance")


def test_a_prior_without_weights_is_refused_before_any_work(copier, task, monkeypatch):
    def absent(path=None):
        raise CheckpointError("learner", got="nothing")

    monkeypatch.setattr(hagd.meta, "load", absent)
    seen = []
    with pytest.raises(CheckpointError, match="learner"):
        extract(
            copier, task, dataclasses.replace(EXTRACT, prior="learner"),
            progress=lambda *stage: seen.append(stage),
        )  # fmt: skip
    assert not seen


def test_the_learner_is_where_masks_begin(copier, task, monkeypatch):
    from hagd_jax.meta.learner import LearnerConfig, init

    learner = init(LearnerConfig(width=8, heads=2, rounds=1), jax.random.key(0))
    monkeypatch.setattr(hagd.meta, "load", lambda path=None: learner)
    result = extract(copier, task, dataclasses.replace(EXTRACT, prior="learner"))
    assert [(n.kind, n.layer, n.index) for n in result.circuit.nodes] == [("head", 0, 1)]
