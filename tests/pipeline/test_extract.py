"""Extraction end to end: a planted circuit, eight devices, and kills."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hagd_jax as hagd
from hagd_jax.attribution import GradientConfig
from hagd_jax.causal import Circuit, JudgeConfig
from hagd_jax.interventions import Nodes
from hagd_jax.models import DecoderConfig, init
from hagd_jax.parallel import make_mesh
from hagd_jax.pipeline import ExtractConfig, extract, open_run, score
from hagd_jax.tasks import Text, make_prompts

# The answer repeats the first token: head 1 of layer 0 looks at it, everything else is noise.
CONFIG = DecoderConfig(
    vocab_size=8, n_layers=1, d_model=16, n_heads=2, d_mlp=8, norm="none", max_positions=3,
    qkv_bias=False, attn_out_bias=False, mlp_bias=False,
)  # fmt: skip
EXTRACT = ExtractConfig(
    nodes="1",
    gradient=GradientConfig(batch_size=8),
    judge=JudgeConfig(ablations=("counterfactual", "mean", "resample"), controls=7, batch_size=8),
)


@pytest.fixture(scope="module")
def copier():
    """A transformer whose head 1 copies position 0's token to the logits of the last position."""
    model = init(CONFIG, jax.random.key(0))
    p = jax.tree.map(lambda x: np.array(x) * 0.05, model.params)
    identity = np.eye(16)
    p["embed"]["embedding"][:] = identity[:8]  # tokens in dimensions 0 to 7
    p["positions"]["embedding"][:] = 0
    p["positions"]["embedding"][0, 14] = p["positions"]["embedding"][2, 15] = 1
    attn = p["blocks"]["attn"]
    for name in "qkvo":
        attn[name]["kernel"][:] *= 0.1
    attn["q"]["kernel"][0, 15, 1, 0] = 30  # the last position asks
    attn["k"]["kernel"][0, 14, 1, 0] = 1  # for the first one
    attn["v"]["kernel"][0, :8, 1, :8] = np.eye(8)
    attn["o"]["kernel"][0, 1, :8, 8:] = np.eye(8)
    p["unembed"]["kernel"][:] = 0
    p["unembed"]["kernel"][8:] = 5 * np.eye(8)
    return model.replace(params=jax.tree.map(jnp.asarray, p), name="copier")


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    splits = {}
    for split in ("discover", "select", "test"):
        first = rng.integers(0, 8, 24)
        other = (first + rng.integers(1, 8, 24)) % 8
        rest = rng.integers(0, 8, (24, 2))
        clean, corrupted = np.c_[first, rest], np.c_[other, rest]
        splits[split] = make_prompts(clean, corrupted, first, other, vocab_size=8)
    texts = {split: (Text("a", "b", "c", "d", "t"),) * 24 for split in splits}
    return hagd.tasks.Task("copy", "Repeat the first token.", splits, texts, tuple(range(8)))


def test_finds_the_planted_head_and_proves_it(copier, task):
    result = extract(copier, task, EXTRACT)
    assert [(n.kind, n.layer, n.index) for n in result.circuit.nodes] == [("head", 0, 1)]
    for verdict in result.verdicts:
        assert verdict.faithfulness.ratio_of_means.value == pytest.approx(1, abs=0.05)
        assert verdict.necessity.value == pytest.approx(1, abs=0.05)
        assert verdict.accuracy["model"].value == verdict.accuracy["circuit"].value == 1
        assert verdict.accuracy["complement"].value < 0.5
        assert all(verdict.gates.values())
        assert any(abs(control) < 0.1 for control in verdict.controls)
    assert result.curve[-1].faithfulness.value == 1
    assert [point.nodes for point in result.curve] == sorted({p.nodes for p in result.curve})


def test_a_wrong_circuit_is_rejected(copier, task):
    worst = Nodes(np.array([[1.0, 0.0]]), np.zeros((1, 8)))
    mask = hagd.search.top_nodes(worst, 1, CONFIG)
    circuit = Circuit.from_mask(mask, worst, CONFIG, model="copier", task="copy")
    for verdict in hagd.causal.evaluate(copier, circuit, task, EXTRACT.judge):
        assert verdict.faithfulness.ratio_of_means.value < 0.1
        assert not verdict.gates["accuracy"]
        assert verdict.p_value > 0.1


def test_one_and_eight_devices_give_the_same_circuit(copier, task):
    config = dataclasses.replace(EXTRACT, nodes="4")
    one = extract(copier, task, config)
    spread = init(CONFIG, jax.random.key(0), mesh=make_mesh("data=4,model=2"), name="copier")
    place = lambda x, like: jax.device_put(x, like.sharding)  # noqa: E731
    many = spread.replace(params=jax.tree.map(place, copier.params, spread.params))
    other = extract(many, task, config)
    assert other.circuit.nodes == one.circuit.nodes
    np.testing.assert_allclose(other.circuit.scores, one.circuit.scores, atol=1e-5)
    for a, b in zip(one.verdicts, other.verdicts, strict=True):
        assert b.metric == pytest.approx(a.metric, abs=1e-4)
        assert b.accuracy == a.accuracy


def without_times(run):
    text = (run.path / "metrics.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in r.items() if k not in ("time", "seconds")} for r in records]


@pytest.mark.parametrize("batches_before_kill", [0, 1, 2])
def test_a_killed_run_continues_as_if_nothing_had_happened(
    copier, task, tmp_path, batches_before_kill
):
    class Killed(BaseException):
        pass

    def kill(stage, done, total):
        if (stage, done) == ("score", batches_before_kill + 1):
            raise Killed

    whole = open_run(tmp_path / "whole", {})
    expected = extract(copier, task, EXTRACT, run=whole)
    broken = open_run(tmp_path / "broken", {})
    with pytest.raises(Killed):
        score(copier, task, EXTRACT.gradient, run=broken, progress=kill, save_every=0)
    assert [r["step"] for r in without_times(broken)] == list(range(1, batches_before_kill + 1))
    result = extract(copier, task, EXTRACT, run=open_run(tmp_path / "broken", {}))
    np.testing.assert_array_equal(result.scores.flat(), expected.scores.flat())
    assert without_times(broken) == without_times(whole)
    saved = [Circuit.load(run.path / "circuit.json") for run in (whole, broken)]
    assert saved[0] == saved[1] == expected.circuit


def test_a_finished_run_is_repeated_without_scoring_again(copier, task, tmp_path):
    run = open_run(tmp_path, {})
    first = extract(copier, task, EXTRACT, run=run)
    stages = []
    again = extract(copier, task, EXTRACT, run=run, progress=lambda stage, *_: stages.append(stage))
    assert "score" not in stages
    assert again.circuit == first.circuit
