"""A run folder belongs to one configuration, and loses nothing."""

import contextlib
import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.files import draft_of
from hagd_jax.pipeline import ExtractConfig, RunFolder, open_run
from hagd_jax.report.transcoder_page import points_of_log

CONFIG = {"task": "ioi", "config": {"nodes": "5%", "steps": (0.1, 0.5)}}


def lines(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_the_same_configuration_continues(tmp_path):
    run = open_run(tmp_path / "run", CONFIG)
    run.log("score", step=1)
    run.write("circuit.json", "{}")
    again = open_run(tmp_path / "run", CONFIG)
    assert lines(again)[0]["step"] == 1
    assert (again.path / "circuit.json").read_text() == "{}"


def test_another_configuration_is_refused_and_the_differences_listed(tmp_path):
    open_run(tmp_path, CONFIG).log("score", step=1)
    other = CONFIG | {"config": {"nodes": "7%", "steps": (0.1, 0.5)}, "seed": 3}
    with pytest.raises(CheckpointError, match=r"nodes was '5%', now '7%'.*seed was None, now 3"):
        open_run(tmp_path, other)
    run = open_run(tmp_path, other, overwrite=True)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert json.loads((run.path / "config.json").read_text())["seed"] == 3


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="other files"):
            open_run(tmp_path, CONFIG, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_mistyped_command_does_not_claim_the_folder(tmp_path):
    open_run(tmp_path, CONFIG)
    run = open_run(tmp_path, CONFIG | {"seed": 1})
    assert json.loads((run.path / "config.json").read_text())["seed"] == 1


def test_what_is_not_a_number_is_logged_as_null(tmp_path):
    run = open_run(tmp_path, CONFIG)
    run.log("verdict", value=float("nan"), more={"low": (float("inf"), 1.0)})
    assert lines(run)[0]["more"] == {"low": [None, 1.0]}


def test_discarding_a_run_spares_what_it_did_not_write(tmp_path):
    open_run(tmp_path, CONFIG).log("score", step=1)
    (tmp_path / "notes.txt").write_text("mine")
    open_run(tmp_path, CONFIG | {"seed": 1}, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_and_a_broken_configuration_are_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(CheckpointError, match="a folder"):
        open_run(file, CONFIG)
    open_run(tmp_path / "run", CONFIG).log("score", step=1)
    (tmp_path / "run" / "config.json").write_text('{"task": ')
    with pytest.raises(CheckpointError, match=r"expected JSON.*Remove the folder"):
        open_run(tmp_path / "run", CONFIG)


def test_rewinding_forgets_what_was_not_saved_and_what_was_cut_off(tmp_path):
    run = open_run(tmp_path, CONFIG)
    run.log("train", step=50)
    for step in (1, 2, 3):
        run.log("score", step=step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "sco')
    run.rewind("score", 2)
    assert [(line["stage"], line["step"]) for line in lines(run)] == [
        ("train", 50),
        ("score", 1),
        ("score", 2),
    ]


def test_damaged_lines_of_the_log_are_left_out(tmp_path, caplog):
    run = open_run(tmp_path, CONFIG)
    for step in (1, 2, 3, 4):
        run.log("score", step=step)
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes().split(b"\n")
    odd = [b"\xff\xfe", b"[" * 100_000, b"5", b'{"stage": 3}', b'{"stage": "a", "step": "b"}', b""]
    for number, bad in enumerate(odd):
        file.write_bytes(b"\n".join([whole[0], bad, *whole[1:]]))
        run.rewind("score", 3)
        assert [line["step"] for line in lines(run)] == [1, 2, 3], bad
        assert caplog.text.count("line 2 is damaged") == number + 1


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
def test_no_damage_of_the_log_stops_a_run(tmp_path_factory, changes):
    run = RunFolder(tmp_path_factory.mktemp("log"))
    for step in (1, 2):
        run.log("score", step=step, loss=0.5)
    file = run.path / "metrics.jsonl"
    content = bytearray(file.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    file.write_bytes(content)
    run.rewind("score", 2)
    run.log("score", step=3)
    assert lines(run)[-1]["step"] == 3
    points_of_log(file)


def test_arrays_are_those_that_this_run_has_kept(tmp_path, caplog):
    run = open_run(tmp_path / "one", CONFIG, leaves=("new.npz",))
    tmp_path = tmp_path / "one"
    run.keep("new.npz", scores=np.arange(3.0))
    assert run.kept("new.npz", scores=(3,))["scores"].tolist() == [0, 1, 2]
    with np.load(tmp_path / "new.npz") as held:
        changed = {**held, "scores": np.arange(3.0) + 1}
    np.savez_compressed(tmp_path / "new.npz", **changed)
    assert not caplog.records
    assert run.kept("new.npz", scores=(3,)) is None
    assert "is damaged and is made again" in caplog.text
    assert run.kept("absent.npz", scores=(3,)) is None
    run.keep("new.npz", scores=np.arange(3.0))
    with pytest.raises(CheckpointError, match="for this model"):
        run.kept("new.npz", scores=(4,))
    # Without its digest, and from a run of another configuration.
    caplog.clear()
    np.savez_compressed(tmp_path / "new.npz", scores=np.arange(3.0))
    assert run.kept("new.npz", scores=(3,)) is None
    other = open_run(tmp_path.with_name("other"), CONFIG | {"seed": 7}, leaves=("new.npz",))
    other.keep("new.npz", scores=np.arange(3.0))
    (tmp_path / "new.npz").write_bytes((other.path / "new.npz").read_bytes())
    assert run.kept("new.npz", scores=(3,)) is None
    assert caplog.text.count("is damaged and is made again") == 2


def test_a_clock_that_goes_back_changes_nothing(tmp_path, monkeypatch):
    times = iter(range(100, 0, -10))
    monkeypatch.setattr(time, "time", lambda: next(times))
    run = open_run(tmp_path, CONFIG)
    for step in (1, 2, 3):
        run.log("score", step=step)
    run.rewind("score", 2)
    run.log("score", step=3)
    assert [line["step"] for line in lines(run)] == [1, 2, 3]
    assert [line["time"] for line in lines(run)] == [100, 90, 70]


def test_what_a_killed_process_had_begun_to_write_is_removed(tmp_path):
    run = open_run(tmp_path, CONFIG)
    with contextlib.suppress(KeyboardInterrupt), draft_of(tmp_path / "scores.npz") as draft:
        draft.write_bytes(b"half")
        kept = draft.read_bytes(), draft.name
        raise KeyboardInterrupt
    (tmp_path / kept[1]).write_bytes(kept[0])  # as a kill would have left it
    (tmp_path / ".hidden").write_text("mine")
    del run
    open_run(tmp_path, CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "config.json"]


@pytest.mark.parametrize(
    ("nodes", "total", "size"), [("5%", 1000, 50), ("64", 516, 64), ("100%", 7, 7), ("1", 7, 1)]
)
def test_sizes_are_numbers_or_shares(nodes, total, size):
    assert ExtractConfig(nodes=nodes).size(total) == size


@pytest.mark.parametrize("nodes", ["0", "8", "120%", "many", "-1", "nan%", "0%"])
def test_impossible_sizes_are_refused(nodes):
    with pytest.raises(ConfigError, match=r"nodes: got .*a number of nodes from 1|1 to 7 nodes"):
        ExtractConfig(nodes=nodes).size(7)


@pytest.mark.parametrize(("total", "least"), [(10, 6), (7, 8), (60, 1)])
def test_a_share_of_no_node_is_refused_with_the_least_share_that_is_one(total, least):
    """The least whole percentage p for which p · total / 100 is above one half."""
    expected = rf"got 0.5%, which is 0 of {total} nodes; expected a share from {least}% to 100%"
    with pytest.raises(ConfigError, match=expected):
        ExtractConfig(nodes="0.5%").size(total)
    assert ExtractConfig(nodes=f"{least}%").size(total) == 1
