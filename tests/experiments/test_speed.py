"""Experiments that time this package beside others, at toy size."""

import importlib.util
import io
import subprocess
import sys

import numpy as np
import pytest

from experiments.common.hlo import account, parse
from experiments.common.random_models import Shape, random_model, random_transcoder
from experiments.speed import (
    attribution,
    attribution_peer,
    forward,
    judge,
    timings,
    transcoder_peer,
)
from hagd_jax import transcoders
from hagd_jax.errors import ConfigError, MissingDependencyError

SHAPE = Shape(layers=2, width=16, heads=2, mlp=8, vocabulary=32, positions=16, features=64)


def lacks(*packages):
    return any(importlib.util.find_spec(name) is None for name in packages)


@pytest.mark.skipif(not lacks("torch"), reason="torch is installed")
def test_peers_say_which_package_they_lack(tmp_path):
    with pytest.raises(MissingDependencyError, match=r"circuit-tracer.*torch"):
        attribution_peer.main([str(tmp_path), "{}"])
    with pytest.raises(MissingDependencyError, match=r"sparsify.*torch"):
        transcoder_peer.main([str(tmp_path), "{}"])
    for peer in (attribution_peer, transcoder_peer):
        with pytest.raises(SystemExit):
            peer.main([str(tmp_path), "not JSON"])


@pytest.mark.skipif(not lacks("torch", "transformers"), reason="torch is installed")
def test_forward_passes_need_the_peer(places, tiny):
    with pytest.raises(MissingDependencyError, match="pip install torch"):
        forward.main(forward.Config(**places, model=tiny))


def test_our_side_attributes_once_a_line(tmp_path, monkeypatch, capsys):
    config = attribution.Config(
        tokens=4, features=8, batch=4, shape=SHAPE, contestant=f"per-layer:{tmp_path}"
    )
    attribution.hand_over("per-layer", tmp_path, config)
    monkeypatch.setattr(sys, "stdin", io.StringIO("go 0\ndeliver 0\n"))
    monkeypatch.setattr(attribution, "matmul_speed", lambda: 1e9)
    attribution.main(config)
    answers = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ANSWER ")]
    assert len(answers) == 3  # ready, go, deliver
    handed = np.load(tmp_path / "arrays.npz")
    assert handed["blocks.1.attn.W_Q"].shape == (2, 16, 8)
    assert handed["tc/W_enc"].shape == (2, 64, 16)
    with np.load(tmp_path / "ours.npz") as ours:
        adjacency, features = ours["adjacency"], ours["features"]
    assert features.shape == (8, 3)
    # The peer's copy in another order is the same graph; with one weight changed it is not.
    order = np.arange(8)[::-1]
    whole = np.r_[order, 8 : len(adjacency)]
    theirs = {"features": features[order], "adjacency": adjacency[np.ix_(whole, whole)]}
    np.savez(tmp_path / "peer.npz", **theirs)
    found = attribution.difference(tmp_path)
    assert found["nodes_in_common"] == "8 of 8"
    assert found["largest_difference"] == 0
    assert found["largest_weight"] > 0
    theirs["adjacency"] = theirs["adjacency"] + 0.5
    np.savez(tmp_path / "peer.npz", **theirs)
    assert attribution.difference(tmp_path)["largest_difference"] == pytest.approx(0.5)
    by_hand = 0.0
    for layer, position, _ in [*features.tolist(), *[(2, 3, 0)] * 10]:
        n = position + 1
        by_hand += layer * (4 * 16 * 16 * n + 16 * n * (n + 1) + 2 * 32 * 16 * n)
    assert attribution.arithmetic(tmp_path, config) == by_hand


def test_advantage_is_taken_turn_by_turn():
    mine = [{"seconds": s, "peak": 2} for s in (4, 1, 2)]
    theirs = [{"seconds": s, "peak": 8} for s in (8, 5, 6)]
    assert attribution.advantage(mine, theirs) == {
        "ours_faster": 4, "range": "3.0 to 5.0", "first_faster": 2, "our_peak_share": 0.25
    }  # fmt: skip


def test_a_contestant_that_ends_is_named_and_none_is_refused(places):
    echo = "import sys\nprint('ANSWER {\"before\": 1}', flush=True)\n"
    echo += "for line in sys.stdin:\n"
    echo += "    print('noise\\nANSWER {\"said\": \"' + line.strip() + '\"}', flush=True)"
    process = attribution.Process([sys.executable, "-c", echo], 1)
    assert process.about == {"before": 1}
    assert process.ask("go 3") == {"said": "go 3"}
    process.end()
    assert process.process.returncode == 0
    with pytest.raises(MissingDependencyError, match="contestant"):
        attribution.Process([sys.executable, "-c", "pass"], 1)
    with pytest.raises(ConfigError, match="--peer-python"):
        attribution.main(attribution.Config(**places))


def test_random_transcoders_have_some_32_active_features():
    shape = Shape(layers=2, width=64, features=4096)
    x = np.random.default_rng(0).normal(size=(2, 16, 64)).astype(np.float32)
    for kind in attribution.KINDS:
        active = np.asarray(transcoders.encode(random_transcoder(kind, shape), x) > 0)
        assert active.sum(-1).mean() == pytest.approx(32, abs=4)
    assert random_model(SHAPE).config.vocab_size == 32


def test_the_judge_is_timed_in_turns(tiny, places, read):
    judge.main(judge.Config(**places, model=tiny, rounds=1, circuits=2, passes=2, prompts=4))
    rows = read("judge_speed")["rows"]
    assert [row["against"] for row in rows] == ["passes", "answer_passes"]
    for row in rows:
        assert row["circuits"] == 2
        assert row["ratio"] == row["low"] == row["high"] > 0
        assert row["ratio"] == pytest.approx(
            row["seconds_a_pass"] / row["seconds_a_circuit"], rel=0.5, abs=0.1
        )


def test_make_commands_are_timed_in_a_fresh_clone(places, tmp_path, read):
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "Makefile").write_text("demo:\n\t@echo shown\ndemo-llm:\n\t@false\n")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", repository)
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
        subprocess.run([*git, *arguments], check=True)
    (repository / "Makefile").write_text("what is not committed is not timed")
    config = timings.Config(**places, repository=repository, steps=("make demo", "make demo-llm"))
    with pytest.raises(SystemExit, match="make demo-llm"):
        timings.main(config)
    rows = {row["step"]: row for row in read("timings")["rows"]}
    assert rows["make demo"]["ok"]
    assert not rows["make demo-llm"]["ok"]
    assert (places["runs"] / "timings" / "make-demo.log").read_text() == "shown\n"


HLO = """HloModule m
%body (p: (f32[4,8])) -> (f32[4,8]) {
  %p = (f32[4,8]) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=0
  %w = f32[8,8]{1,0} constant({...})
  %dot = f32[4,8]{1,0} dot(%x, %w), metadata={op_name="a/encode/dot_general"}
  ROOT %t = (f32[4,8]) tuple(%dot)
}
%cond (p: (f32[4,8])) -> pred[] {
  %p = (f32[4,8]) parameter(0)
  ROOT %c = pred[] constant(false)
}
ENTRY %main (x: f32[4,8]) -> (f32[4,8]) {
  %x = f32[4,8]{1,0} parameter(0)
  %t = (f32[4,8]) tuple(%x)
  ROOT %loop = (f32[4,8]) while(%t), condition=%cond, body=%body
}
"""


def test_products_in_a_loop_are_counted_as_often_as_it_runs():
    assert parse(HLO)["body"]["dot"].path == "a/encode/dot_general"
    flops, moved = account(HLO, 5, lambda path: path)
    assert flops == {"a/encode/dot_general": 5 * 2 * 4 * 8 * 8}
    assert moved["a/encode/dot_general"] == 5 * 4 * (4 * 8 + 4 * 8 + 8 * 8)
