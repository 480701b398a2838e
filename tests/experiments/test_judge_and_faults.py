"""Experiments on the judge and on runs that are killed, at toy size."""

import numpy as np

from experiments.common import kills
from experiments.common.known import places as places_of
from experiments.common.known import sample, truth_of
from experiments.faults import inputs, interrupts, transcoder
from experiments.judge import calibrated, ground_truth_edges, known_models
from hagd_jax.testbeds import hand_built
from hagd_jax.units import neurons


def test_simulated_circuits_give_a_row_for_each_kind(places, read):
    calibrated.main(calibrated.Config(**places, circuits=4))
    rows = read("judge_calibrated")["rows"]
    assert [row["what"] for row in rows] == [
        *calibrated.NULLS, *calibrated.FAMILIES, *calibrated.INTERVALS
    ]  # fmt: skip
    for row in rows:
        assert all(0 <= row[name] <= 1 for name in ("ks_p", "below_0.05", "covers") if name in row)


def test_simulated_nulls_are_null_and_intervals_are_not_too_short():
    rng = np.random.default_rng(1)
    p = np.array([calibrated.sufficiency(rng) for _ in range(400)])
    assert abs(p.mean() - 0.5) < 0.08  # uniform: a standard error of .014
    assert abs((p <= 0.5).mean() - 0.5) < 0.13
    covers = np.mean([calibrated.accuracy_interval(rng) for _ in range(400)])
    assert covers >= 0.92  # 95%, and three standard errors below it


def test_compiled_programs_need_the_edges_that_were_published(places, read):
    ground_truth_edges.main(
        ground_truth_edges.Config(**places, programs=("reverse",), ablations=("resample",))
    )
    result = read("ground_truth_edges")
    (row,) = result["rows"]
    assert row["accuracy"] == 1
    assert row["resample"] == row["published resample"] == 2
    assert row["edges"] > row["of the program"] > 2
    assert len(result["needed"]["reverse, resample"]) == 2


def test_known_circuits_are_flat_masks():
    case = hand_built()[0]
    space = neurons(case.model).space
    truth = truth_of(case, "mean")
    assert truth.sum() == len(case.truth["mean"])
    every = places_of(space)
    assert sorted(every.values()) == list(range(space.nodes))
    assert {node for node, place in every.items() if truth[place]} == set(case.truth["mean"])
    few = sample(case.prompts, 5, 0)
    rows = case.prompts.clean.tolist()
    at = [rows.index(row) for row in few.clean.tolist()]
    assert at == sorted(at)
    assert len(set(at)) == 5


def test_a_killed_training_ends_with_the_same_bytes(places, read):
    transcoder.main(transcoder.Config(**places, kills=1, steps=3, apart=False))
    result = read("transcoder_kills")
    assert (result["identical"], result["kills"]) == (1, 1)
    assert 1 <= result["rows"][0]["killed_near_step"] <= 2


def test_a_command_that_is_asked_to_end_says_so_and_ends_the_same(tiny, places, read):
    interrupts.main(
        interrupts.Config(**places, cases=("attribute",), how=("term",), times=1, model=tiny)
    )
    (row,) = read("interrupts")["rows"]
    assert (row["stage"], row["ended_well"], row["identical"]) == ("start", True, True)
    assert row["status"] in (143, 0)


def test_files_that_were_tampered_with_are_refused_or_read_as_they_are(places, read):
    inputs.main(inputs.Config(**places, readers=("circuit",), files=40))
    (row,) = read("inputs")["rows"]
    assert (row["files"], row["bad"]) == (40, [])
    assert row["refused"] > 20


def test_a_run_that_ends_otherwise_is_noticed(tmp_path):
    """A run that adds a line, whether it was killed or not, so that a second start shows."""

    def work(folder):
        folder.mkdir(exist_ok=True)
        with (folder / "digest").open("a") as file:
            file.write("line\n")

    rows = kills.survivors(
        "platform", kills.Kills(kills=1, apart=False), (), work,
        lambda folder: (folder / "digest").read_text(),
        lambda process, folder, rng: {"killed": work(folder) or process.wait()},
    )  # fmt: skip
    assert [row["identical"] for row in rows] == [False]


def test_a_folder_without_steps_was_reached_by_none(tmp_path):
    assert transcoder.newest(tmp_path) == 0


def test_true_circuits_are_proved(places, read):
    known_models.main(
        known_models.Config(**places, models=("both", "program first"), ablations=("mean", "zero"))
    )
    result = read("known_models")
    # Of a program no circuit is stated under zero ablation, as constants may be needed then.
    assert [(row["model"], row["ablation"], row["units"]) for row in result["rows"]] == [
        ("both", "mean", 3), ("both", "zero", 4), ("program first", "mean", 1),
    ]  # fmt: skip
    assert result["models"] == 2
    assert result["off"] < 1e-3
    assert result["least"] > 0.04
    assert all(row["accuracy"] == 1 for row in result["rows"])
    assert min(row["touched"] for row in result["rows"]) > 0.1
