"""One process writes to a place at a time, and the others are told which."""

import contextlib
import errno
import gc
import json
import os
import signal
import socket
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


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"pid": {}}', b"[" * 4000, b'{"pid": 1e999}']
)
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


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def lockless(request, monkeypatch):
    """A file system without locks."""

    def unsupported(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)


def test_where_there_are_no_locks_a_file_stands_for_one(tmp_path, lockless):
    first = hold_folder(tmp_path / "run")
    # As another process would have it.
    locks._held.clear()
    own = rf"process {os.getpid()} on .*If it has ended, remove .*{LOCK}\.held"
    with pytest.raises(BusyError, match=own):
        hold_folder(tmp_path / "run")
    assert sorted(os.listdir(tmp_path / "run")) == [LOCK, f"{LOCK}.held"]
    first.release()
    run = open_run(tmp_path / "run", {})
    del run
    assert os.listdir(tmp_path / "run") == ["config.json"]


@pytest.mark.parametrize(
    ("left", "stale"),
    [
        ({"pid": "GONE", "host": "HERE"}, True),
        ({"pid": "GONE", "host": "another machine"}, False),
        ({"pid": "OWN", "host": "HERE"}, False),
        ({"pid": "GONE"}, False),
        ([], False),
        ({"pid": float("inf"), "host": "HERE"}, False),
        ({"pid": 10**30, "host": "HERE"}, False),
        ({"pid": "9" * 30, "host": "HERE"}, False),
        ({"pid": 1e300, "host": "HERE"}, False),
    ],
)
def test_a_file_that_a_killed_process_has_left_stands_for_no_lock(tmp_path, lockless, left, stale):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    text = json.dumps(left).replace("GONE", str(ended.pid)).replace("OWN", str(os.getpid()))
    held = tmp_path / f"{LOCK}.held"
    held.write_text(text.replace("HERE", socket.gethostname()))
    if stale:
        lock = hold_folder(tmp_path)
        assert json.loads(held.read_text())["pid"] == str(os.getpid())
        lock.release()
        assert not os.listdir(tmp_path)
    else:
        with pytest.raises(BusyError):
            hold_folder(tmp_path)
        assert held.exists()


def test_a_lock_file_that_goes_while_it_is_taken_is_made_anew(tmp_path, lockless, monkeypatch):
    """As by a holder that lets go between our opening the file and standing for it."""
    stand, taken = locks._stand, []

    def late(lock):
        if not taken:
            lock.unlink()
        taken.append(stand(lock))
        return taken[-1]

    monkeypatch.setattr(locks, "_stand", late)
    with contextlib.suppress(BusyError):
        hold_folder(tmp_path / "run")
    assert taken == [True]
    lock = hold_folder(tmp_path / "run")
    assert taken == [True, True]
    assert sorted(os.listdir(tmp_path / "run")) == [LOCK, f"{LOCK}.held"]
    lock.release()
    assert not os.listdir(tmp_path / "run")


def test_a_file_that_cannot_say_whose_it_is_does_not_stand(tmp_path, lockless, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(locks.os, "write", full)
        with pytest.raises(CheckpointError):
            hold_folder(tmp_path)
    hold_folder(tmp_path).release()
