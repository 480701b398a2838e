"""No path through an extraction gives a circuit that has seen more than it says."""

import copy
import dataclasses
import importlib
import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from hagd_jax import causal
from hagd_jax.pipeline import NAMES, extract, open_extraction, run_until
from hagd_jax.search import MaskConfig, RepairConfig
from hagd_jax.tasks import prompt_digests
from hagd_jax.tasks.definition import BySplit
from tests.pipeline.copier import EXTRACT, make_copier, make_task
from tests.pipeline.test_executors import RICH

COPIER, TASK = make_copier(), make_task()
FOUND = NAMES[: NAMES.index("judge")]
# What each ablation reads: the hooks below are on functions that every finder goes through.
USED: set[tuple[str, str]] = set()


class Splits(BySplit):
    """Prompts by split, which say that they were read while a circuit was looked for."""

    watching = False

    def __getitem__(self, name):
        if Splits.watching:
            USED.add(("splits", name))
        return super().__getitem__(name)


@pytest.fixture(autouse=True)
def watched(monkeypatch):
    """Tell which ablations are used, below what the pipeline says of itself."""
    from hagd_jax.causal import curve
    from hagd_jax.pipeline import levels, scoring
    from hagd_jax.pipeline.fused import turns
    from hagd_jax.search import mask_search, outcome

    repairs = importlib.import_module("hagd_jax.search.repair")
    start = importlib.import_module("hagd_jax.search.start")

    def tells(module, name, ablation_of):
        real = getattr(module, name)

        def wrapped(*args, **options):
            if Splits.watching:
                USED.update(("ablations", a) for a in ablation_of(args, options))
            return real(*args, **options)

        monkeypatch.setattr(module, name, wrapped)

    kind_of = lambda ablation: getattr(ablation, "kind", ablation)  # noqa: E731
    measured = lambda args, options: [kind_of(options["ablation"])]  # noqa: E731
    first_order = lambda args, options: ["counterfactual"]  # noqa: E731
    trained = lambda args, options: ["mean"] * (options["means"] is not None)  # noqa: E731
    tells(curve, "behaviour", measured)
    tells(outcome, "behaviour", measured)
    tells(start, "behaviour", measured)
    tells(scoring, "node_scores", first_order)
    tells(levels, "flow", first_order)
    tells(mask_search, "scan_jitted", first_order)
    tells(mask_search, "target_of", trained)
    tells(repairs, "target_of", trained)
    tells(repairs, "_slope", first_order)
    real = turns.Batcher._batch

    def batch(self, turn, tokens):
        found = real(self, turn, tokens)
        if turn.rows is not None:
            USED.add(("splits", turn.split))
            under = {"score": [1, 0], "flow": [1, 0], "edges": [1, 0], "read": [0, 0]}
            shares = under.get(turn.part, found.shares)
            pairs = zip(("counterfactual", "mean"), shares, strict=True)
            USED.update(("ablations", name) for name, share in pairs if share)
        return found

    monkeypatch.setattr(turns.Batcher, "_batch", batch)
    USED.clear()
    yield
    Splits.watching = False


CHANGES = {
    "mean": st.sampled_from([0.0, 0.5]),
    "rounds": st.sampled_from([0, 1]),
    "share": st.sampled_from([None, 0.0, 0.5]),
    "search": st.sampled_from(["masks", "masks", "top"]),
}


def config_of(mean, rounds, share, search, starts=("ig",)):
    return dataclasses.replace(
        EXTRACT, nodes="2", search=search, starts=starts, masks=MaskConfig(steps=2, mean=mean),
        repair=RepairConfig(rounds=rounds, pairs=1, mean=share),
    )  # fmt: skip


def stopped(folder, task, config, begin, until):
    """Some stages of a run, in a process of its own as far as the folder knows."""
    out = open_extraction(folder, COPIER, task, config, begin=begin, overwrite=begin is None)
    Splits.watching = True
    try:
        return run_until(until, COPIER, task, config, out=out)
    finally:
        Splits.watching = False


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data())
def test_a_circuit_knows_all_that_was_looked_at_on_any_path(tmp_path_factory, data):
    """Stages in any order of --until and --from, with settings of their own each time."""
    folder = tmp_path_factory.mktemp("run")
    task = copy.copy(TASK)
    object.__setattr__(task, "splits", Splits(TASK.splits))
    values = {name: data.draw(choice, name) for name, choice in CHANGES.items()}
    starts = data.draw(st.sampled_from([("ig",), ("relp", "ig")]), "starts")
    USED.clear()
    stopped(
        folder, task, config_of(**values, starts=starts), None, data.draw(st.sampled_from(FOUND))
    )
    for _ in range(data.draw(st.integers(0, 2), "times")):
        begin = data.draw(st.sampled_from([None, "search", "repair", "select"]), "from")
        if begin == "search":
            # What came of the search before is gone, and with it what only that has seen.
            USED.intersection_update(used_by_scores(values, starts))
            values = {name: data.draw(choice, name) for name, choice in CHANGES.items()}
        elif begin == "repair":
            values |= {name: data.draw(CHANGES[name], name) for name in ("rounds", "share")}
            USED.intersection_update(used_by_search(values) | used_by_scores(values, starts))
        until = data.draw(st.sampled_from(FOUND), "until")
        stopped(folder, task, config_of(**values, starts=starts), begin, until)
    left = stopped(folder, task, config_of(**values, starts=starts), None, "select")
    require_said(causal.Circuit.load(folder / "circuit.json").seen, left)


def require_said(seen, left):
    """A circuit says all that was used."""
    assert seen == left["select"].circuit.seen
    for field in ("ablations", "splits"):
        used = {name for kind, name in USED if kind == field}
        assert used <= set(getattr(seen, field)), f"{used} used, and said: {seen}"
        assert used
    for split in seen.splits:
        assert set(prompt_digests(TASK.splits[split])) <= set(seen.prompts)
    assert seen.known
    assert "test" not in seen.splits


def test_so_does_a_circuit_of_the_fused_executor(tmp_path):
    config = dataclasses.replace(RICH, executor="fused")
    for until in ("score", "search", "select"):
        left = run_until(until, COPIER, TASK, config, out=tmp_path)
    assert {("splits", "select"), ("ablations", "mean")} <= USED
    require_said(causal.Circuit.load(tmp_path / "circuit.json").seen, left)


def test_so_does_a_circuit_whose_start_was_chosen(tmp_path):
    task = copy.copy(TASK)
    object.__setattr__(task, "splits", Splits(TASK.splits))
    config = config_of(0.0, 0, None, "top", ("relp", "ig"))
    left = stopped(tmp_path, task, config, None, "select")
    assert ("splits", "select") in USED
    require_said(causal.Circuit.load(tmp_path / "circuit.json").seen, left)


def used_by_scores(values, starts):
    """What the scores have used, and the choice among several: it has seen what the search will."""
    used = {("splits", "discover"), ("ablations", "counterfactual")}
    if len(starts) == 1:
        return used
    mean = values["mean"] and values["search"] == "masks"
    return used | {("splits", "select")} | ({("ablations", "mean")} if mean else set())


def used_by_search(values):
    """What the stages up to the search have used."""
    ablations = {"counterfactual"} | ({"mean"} if values["mean"] else set())
    return {("splits", "discover"), *(("ablations", name) for name in ablations)}


def test_masks_trained_under_the_mean_are_never_accepted_under_it():
    """One of the lies that could be told: found with the mean, and judged by it."""
    masks = dataclasses.replace(EXTRACT.masks, mean=0.5)
    judge = dataclasses.replace(EXTRACT.judge, ablations=("mean", "counterfactual"), alpha=0.1)
    report = extract(COPIER, TASK, dataclasses.replace(EXTRACT, masks=masks, judge=judge)).report
    assert report.circuit.seen.ablations == ("counterfactual", "mean")
    assert report.verdict == "not enough data"
    # By what it has not seen it is accepted: the circuit itself is right.
    judge = dataclasses.replace(judge, ablations=("mean", "resample"))
    report = extract(COPIER, TASK, dataclasses.replace(EXTRACT, masks=masks, judge=judge)).report
    assert report.verdict == "accepted"
    assert {claim.ablation for claim in report.decisive} - {""} == {"resample"}


@pytest.mark.parametrize("stage", ["score", "search"])
def test_results_without_a_record_are_made_again(tmp_path, caplog, stage):
    """Nobody knows what those that there are were chosen by."""
    config = config_of(0.0, 0, None, "masks")
    run_until("search", COPIER, TASK, config, out=tmp_path)
    (tmp_path / "seen" / f"{stage}.json").unlink()
    result = extract(COPIER, TASK, config, out=tmp_path)
    assert f"{stage}.json is damaged and is made again" in caplog.text
    whole = extract(COPIER, TASK, config, out=tmp_path.with_name("whole"))
    assert result.circuit.seen.known
    assert result.circuit.to_json() == whole.circuit.to_json()


def test_a_record_is_written_before_anything_is_looked_at(tmp_path):
    """A run that is killed in its first step has in its record what that step has read."""

    class Killed(BaseException):
        pass

    def kill(stage, done, total):
        raise Killed

    config = config_of(0.5, 0, None, "masks")
    for stage, expected in (("score", ["counterfactual"]), ("search", ["counterfactual", "mean"])):
        with pytest.raises(Killed):
            run_until("select", COPIER, TASK, config, out=tmp_path, progress=kill)
        record = json.loads((tmp_path / "seen" / f"{stage}.json").read_text())
        assert record["ablations"] == expected
        assert record["splits"] == ["discover"]
        assert len(record["prompts"]) == len(np.unique(TASK.splits["discover"].clean, axis=0))
        run_until("hierarchy", COPIER, TASK, config, out=tmp_path)
