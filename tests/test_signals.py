"""What the command does when it is asked to end, at every kind of moment."""

import signal
import subprocess
import sys

import pytest

from hagd_jax.cli.signals import Signals
from hagd_jax.errors import Interrupted
from hagd_jax.report.progress import Bars, bars

START = """
import sys, time
from hagd_jax.cli import signals
from hagd_jax.errors import Interrupted
signals.GRACE, signals.LAST = {grace}, {last}
asked = signals.Signals()
asked.install()
def up():
    print("up", flush=True)
"""
STOPPED = "interrupted; the same command continues where it stopped"
IMPORTING = "up(); time.sleep(60)"
CHECKING = """
with asked.working():
    up()
    while True:
        asked.check()
        time.sleep(0.01)
"""
NEVER_CHECKING = """
with asked.working():
    try:
        up()
        while True:
            time.sleep(0.01)
    finally:
        print("cleaned up", flush=True)
"""
DEAF = """
with asked.working():
    up()
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
"""


def ended(code, number, grace=30.0, last=60.0):
    """Exit status, standard output and error of a process that is sent a signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", START.format(grace=grace, last=last) + code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("code", "bounds"),
    [
        (IMPORTING, {}),
        (CHECKING, {}),
        (NEVER_CHECKING, {"grace": 0.1}),
        (DEAF, {"grace": 0.1, "last": 0.3}),
    ],
    ids=["importing", "checking", "never checking", "deaf"],
)
def test_a_signal_ends_the_process_with_a_sentence(code, bounds, number, status):
    got, out, err = ended(code, number, **bounds)
    assert got == status
    assert err.splitlines()[-1] == STOPPED
    assert "Traceback" not in err
    assert ("stopping" in err) == (code is not IMPORTING)
    assert ("cleaned up" in out) == (code is NEVER_CHECKING)


def test_a_second_signal_does_not_wait():
    process = subprocess.Popen(
        [sys.executable, "-c", START.format(grace=30, last=60) + DEAF],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "second signal" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (143, f"{STOPPED}\n")


def test_an_interrupt_of_somebody_else_ends_it_as_well(capfd):
    with pytest.raises(SystemExit) as stopped, Signals().working():
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert capfd.readouterr().err == f"{STOPPED}\n"
    Signals().check()  # nobody asked


def test_progress_stops_where_it_is_asked_to():
    def stop():
        raise Interrupted

    with bars(stop=stop) as lines:
        assert isinstance(lines, Bars)
        lines.say("a line")
        with pytest.raises(Interrupted):
            lines.update("score", 1, 2)


def test_nothing_heavy_is_imported_before_signals_are_handled():
    code = "import sys, hagd_jax.cli; print(sorted({'numpy', 'jax', 'tyro'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


IMPORTS_A_COMMAND = """
import sys, time
from hagd_jax.cli import commands, main
def load(self):
    print("up", flush=True)
    time.sleep(60)
commands.Command.load = load
sys.argv = ["hagd", "extract", "--help"]
main()
"""


def test_a_signal_during_the_imports_of_a_command_ends_it_at_once():
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTS_A_COMMAND],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, f"{STOPPED}\n")
