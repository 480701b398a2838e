"""One process writes to a place at a time, and the others are told which."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time

import pytest

from hagd_jax.errors import BusyError, CheckpointError
from hagd_jax.files import LOCK, hold_beside, hold_folder, locks
from hagd_jax.pipeline import open_run

HOLD = """
import sys, time
from pathlib import Path
from hagd_jax.files import hold_folder
lock = hold_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def another(folder):
    """Another process that holds a folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def test_the_second_is_told_who_runs_there_and_a_killed_one_is_no_hindrance(tmp_path):
    folder = tmp_path / "runs" / "ioi"
    with another(folder) as child:
        before = sorted(os.listdir(folder))
        for attempt in (lambda: hold_folder(folder), lambda: open_run(folder, {}, overwrite=True)):
            with pytest.raises(BusyError, match=rf"process {child.pid} on .*`-c .*--wait"):
                attempt()
        # Nothing was written.
        assert sorted(os.listdir(folder)) == before == [LOCK]
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert os.listdir(folder) == [LOCK]
        run = open_run(folder, {})
        run.log("score", step=1)
    del run
    assert sorted(os.listdir(folder)) == ["config.json", "metrics.jsonl"]


def test_waiting_ends_when_the_other_does(tmp_path, monkeypatch, caplog):
    # As another process would have it, for which a second open file stands.
    first = hold_folder(tmp_path / "run")
    locks._held.clear()
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            first.release()

    monkeypatch.setattr(time, "sleep", sleep)
    second = hold_folder(tmp_path / "run", wait=True)
    assert len(waits) == 2
    assert caplog.text.count("waiting for another process") == 1
    locks._held.clear()
    with pytest.raises(BusyError):
        hold_folder(tmp_path / "run")
    second.release()


def test_a_process_may_ask_again_and_the_last_one_lets_go(tmp_path):
    folder = tmp_path / "a" / "b"
    first, second = hold_folder(folder), hold_folder(folder)
    assert first is second
    del first
    assert os.listdir(folder) == [LOCK]
    del second
    gc.collect()
    # Nothing was written there, so nothing is left.
    assert not os.listdir(tmp_path)


def test_names_that_begin_alike_have_locks_of_their_own(tmp_path):
    held = [hold_beside(tmp_path / ("x" * 60 + end)) for end in "ab"]
    assert held[0].path != held[1].path
    locks._held.clear()
    with pytest.raises(BusyError):
        hold_beside(tmp_path / ("x" * 60 + "a"))
    hold_beside(tmp_path / ("x" * 250)).release()
    for lock in held:
        lock.release()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"pid": {}}'])
def test_a_lock_without_a_description_holds(tmp_path, content):
    lock = hold_folder(tmp_path)
    (tmp_path / LOCK).write_bytes(content)
    locks._held.clear()
    with pytest.raises(BusyError, match="does not say which"):
        hold_folder(tmp_path)
    lock.release()


def test_a_refused_folder_is_free_again(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="other files"):
        open_run(tmp_path, {})
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_where_there_are_no_locks_the_log_says_so(tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    hold_folder(tmp_path).release()
    assert "no locks" in caplog.text
