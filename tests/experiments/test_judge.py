"""The judge, judged: lies that it catches, and a toy run of the script over known models."""

import dataclasses
import json

from experiments.common.script import Places
from experiments.judge import judged, mutations, roles
from experiments.readme import judge as table
from hagd_jax.causal import ValidateConfig
from hagd_jax.pipeline import ExtractConfig
from hagd_jax.testbeds import hand_built, scrambled


def test_every_lie_is_caught_and_the_truth_is_accepted():
    rows = mutations.verdicts(mutations.Config())
    assert len(rows) >= 11
    assert [row["lie"] for row in rows if not row["caught"]] == []
    verdict = {row["lie"]: row["verdict"] for row in rows}
    assert verdict["none"] == "accepted"
    # Where nothing can be known it says so; what is wrong is rejected.
    for lie in ("erased", "leaked_ablation", "seen_split", "repeated", "nothing_ablated"):
        assert verdict[lie] == "not enough data", lie
    for lie in ("empty_alike", "near_whole", "one_less", "circuit_as_control"):
        assert verdict[lie] == "rejected", lie


def test_the_judge_is_judged_on_a_known_model(places, read, monkeypatch):
    case = scrambled(next(case for case in hand_built() if case.name == "both"), 1)
    monkeypatch.setattr(judged, "known_cases", lambda names: iter([case]))
    config = judged.Config(**places, models=("both",), prompts=(4, 48), random=1, less=1)
    judged.main(config)
    rows = read("judge_known")["rows"]
    assert [(r["prompts"], r["kind"], r["verdict"]) for r in rows if r["kind"] == "true"] == [
        (4, "true", "not enough data"), (48, "true", "accepted"),
    ]  # fmt: skip
    late = {r["kind"]: r["verdict"] for r in rows if r["prompts"] == 48}
    assert late == dict.fromkeys(judged.KINDS, "rejected") | {"true": "accepted"}
    # Finished cells are not measured again.
    monkeypatch.setattr(judged, "judged", None)
    judged.main(config)
    made = table.judged(read("judge_known"))
    assert len(made) == len(judged.KINDS)
    assert made[0][1] == "4 prompts: never enough data, of 1; 48 prompts 100.0% of 1 (of 1)"
    assert judged.task_of(case, 500, 0) is None


def test_the_judge_was_judged_at_the_settings_that_users_get():
    """What is measured of it holds for nothing else. Batches do not matter to a verdict, nor do
    supersets, which are reported and drawn after all else."""
    record = json.loads((Places().results / "judge_known.json").read_text())
    measured = record["settings"]["judge"] | {"batch_size": 0}
    for own, claims in ((ExtractConfig().judge, "core"), (ValidateConfig(), "all")):
        theirs = json.loads(json.dumps(dataclasses.asdict(own))) | {"batch_size": 0}
        assert theirs.pop("robust") is False
        assert theirs.pop("supersets") > 0
        assert theirs == measured | {"claims": claims}


def test_roles_are_measured_and_named_anew_without_measuring(places, read, monkeypatch):
    monkeypatch.setattr(roles, "STYLES", {"tuning": ("plain",)})
    config = roles.Config(
        **places, sets=("tuning",), seeds=(0,), behaviours=("lookup",), programs=("none",), heads=2
    )
    roles.main(config)
    found = read("roles")
    own = found["summary"]["tuning"]
    assert own["right"] == own["units"] > 0
    assert own["random_heads"] == 2
    assert {"unit", "true", "said", "rule"} <= found["rows"][0].keys()
    assert "values" not in found["rows"][0]
    monkeypatch.setattr(roles, "measured", None)
    roles.main(config)
    assert read("roles")["summary"] == found["summary"]


def test_the_summary_of_roles_counts_by_hand():
    said = [
        ("induction", "induction", "a"), ("induction", "inert", "i"), ("unnamed", "unnamed", ""),
        ("random", "inert", "i"), ("random", "positional", "b"), ("random", "unnamed", ""),
    ]  # fmt: skip
    own = roles.summary([{"true": a, "said": b, "rule": c} for a, b, c in said])
    assert (own["units"], own["right"], own["share_right"]) == (2, 1, 0.5)
    assert (own["random_heads"], own["random_named"], own["random_inert"]) == (3, 1, 1)
    assert own["rules"] == {
        "a": {"fired": 1, "wrong": 0}, "b": {"fired": 1, "wrong": 1}, "i": {"fired": 1, "wrong": 1}
    }  # fmt: skip
    assert own["table"]["induction"] == {"induction": 1, "inert": 1}
