"""Is anything lost when a command is killed or asked to end, in whatever stage?

    python -m experiments.faults.interrupts     # about an hour on two cores
    python -m experiments.faults.interrupts --cases extract --how kill --times 16
    python -m experiments.faults.interrupts --cases extract --how kill --numbers 17 26

Every command on a small model is run to its end once, and it is noted when each of its stages
begins and how long it takes; a run before that has compiled its programs, which are kept. Then it
is started again in a new folder, interrupted at a random moment of a stage (stages take turns), and
run again to its end. `kill` is SIGKILL, of which nobody hears; `int` and `term` are SIGINT and
SIGTERM, after which the process must have ended with 130 or 143 and a sentence, without a
traceback. Expected: all end with what the whole run has found. Writes results/interrupts.json after
each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal, get_args

from experiments.common.cells import Row, measure_cells
from experiments.common.digests import without
from experiments.common.processes import compiled_once, environment
from experiments.common.script import Places, run
from hagd_jax.errors import CheckpointError

How = Literal["kill", "int", "term"]
SIGNALS = {"kill": signal.SIGKILL, "int": signal.SIGINT, "term": signal.SIGTERM}
STATUS = {"int": 130, "term": 143}
# Fields of results that differ between runs which found the same.
_PASSING = ("command", "time", "seconds", "out", "created", "digest")
SENTENCE = "interrupted; the same command continues where it stopped"
_FOUND = "--task modular-addition --modulus 11 --nodes 64"
# Name → arguments, and the file that holds what was found.
CASES = {
    "extract": (f"extract {_FOUND} --out {{out}}", "circuit.json"),
    "extract, features": (
        f"extract {_FOUND} --features transcoder --out {{out}}", "circuit.json"
    ),
    "extract, fused": (f"extract {_FOUND} --executor fused --out {{out}}", "circuit.json"),
    "train-transcoder": (
        "train-transcoder --model {model} --corpus self --text.length 3 --tokens 20000 "
        "--features 4x --k 4 --batch-size 8 --evaluate 2 --contexts 2 --out {out}",
        "transcoder/layer_0.safetensors",
    ),
    "validate": (
        "validate --circuit {circuit} --model {model} --out {out}/validation.json",
        "validation.json",
    ),
    "attribute": (
        "attribute --model {model} --prompt '3 5 =' --out {out}", "graph.json"
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for interrupting commands.

    Attributes:
        cases: Names of commands; all of them if empty.
        how: What interrupts them.
        times: Interruptions of every command in every way.
        numbers: Numbers of these interruptions, by which stages take turns; `times` from 0 if none
            is given.
        model: Folder of the model; a small one is trained if it is empty.
        circuit: File of the circuit to validate; with the model.
    """

    cases: tuple[str, ...] = ()
    how: tuple[How, ...] = get_args(How)
    times: int = 7
    numbers: tuple[int, ...] = ()
    model: str = ""
    circuit: str = ""


@dataclasses.dataclass(frozen=True)
class Whole:
    """Whole is an uninterrupted run: its digest, and (stage, start, seconds) of its stages."""

    digest: str
    stages: tuple[tuple[str, float, float], ...]


def main(config: Config) -> None:
    """Interrupt every command in every way, as often as configured."""
    names = config.cases or tuple(CASES)
    cells = [
        {"case": name, "how": how, "number": number}
        for name in names for number in config.numbers or range(config.times)
        for how in config.how
    ]  # fmt: skip
    wholes: dict[str, Whole] = {}

    def measure(cell: Row) -> list[Row]:
        name = cell["case"]
        if name not in wholes:
            wholes[name] = whole(name, config)
        return [interrupted(cell, wholes[name], config)]

    rows = measure_cells(
        "interrupts", cells, measure, config, varied=("cases", "how", "times", "numbers")
    )
    bad = [row for row in rows if not (row["identical"] and row["ended_well"])]
    if bad:
        sys.exit(f"NOT as expected: {bad}")


def command(name: str, out: Path, config: Config) -> list[str]:
    """Return the command line of a case that works in a folder."""
    base = config.runs / "interrupts" / "base"
    given = {
        "out": out, "model": config.model or base / "model",
        "circuit": config.circuit or base / "circuit.json",
    }  # fmt: skip
    return [sys.executable, "-m", "hagd_jax.cli", *shlex.split(CASES[name][0].format(**given))]


class Started:
    """Started is a process whose standard error is read as it comes."""

    def __init__(self, line: list[str], cache: Path):
        self.began = time.monotonic()
        more = {"HAGD_CACHE": str(cache.absolute())} | compiled_once(cache.with_name("compiled"))
        self.process = subprocess.Popen(
            line, env=environment(more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as said:
            for line in said:
                self.lines.append((time.monotonic() - self.began, line.rstrip()))

    def end(self) -> str:
        """Wait for the process to end, and return what it said."""
        self.process.wait(timeout=600)
        self._reader.join(timeout=10)
        return "\n".join(line for _, line in self.lines)

    def reach(self, stage: str) -> None:
        """Wait until a stage has begun; the first is the start of the process."""
        while self.process.poll() is None:
            if not stage or any(line.startswith(f"{stage}: begins") for _, line in self.lines):
                return
            time.sleep(0.005)


def whole(name: str, config: Config) -> Whole:
    """Run a command to its end, and note its stages."""
    folder = config.runs / "interrupts" / name.replace(", ", "-")
    _base(config)
    for what in ("compiling", "whole"):
        for old in (folder / what, folder / f"{what}-cache"):
            shutil.rmtree(old, ignore_errors=True)
        ended = Started(command(name, folder / what, config), folder / f"{what}-cache")
        said = ended.end()
        if ended.process.returncode:
            raise CheckpointError(name, got=said, expected="a run that ends well")
    begun = [
        (match[1], when)
        for when, line in ended.lines if (match := re.match(r"(.*): begins", line))
    ]  # fmt: skip
    moments = [("", 0.0), *begun, ("end", ended.lines[-1][0] if ended.lines else 1.0)]
    stages = tuple(
        (stage, when, max(later - when, 0.05))
        for (stage, when), (_, later) in itertools.pairwise(moments)
    )
    return Whole(digest(folder / "whole" / CASES[name][1]), stages)


def _base(config: Config) -> None:
    """Make the model and the circuit that other commands work on."""
    base = config.runs / "interrupts" / "base"
    if not config.model and not (base / "circuit.json").exists():
        subprocess.run(
            command("extract", base, config), check=True, env=environment({}),
            stdout=subprocess.DEVNULL,
        )  # fmt: skip


def interrupted(cell: Row, expected: Whole, config: Config) -> Row:
    """Interrupt a run at a random moment of a stage, and continue it to the end."""
    name, how, number = cell["case"], cell["how"], cell["number"]
    rng = random.Random(f"{name} {how} {number}")
    stage, _, seconds = expected.stages[number % len(expected.stages)]
    delay = rng.uniform(0, seconds)
    if not stage:  # Python itself has to be there.
        delay = max(delay, 0.2)
    folder = config.runs / "interrupts" / name.replace(", ", "-") / f"{how}{number}"
    line, cache = command(name, folder, config), folder.with_name(f"{folder.name}-cache")
    for old in (folder, cache):  # of a measurement that was itself killed
        shutil.rmtree(old, ignore_errors=True)
    first = Started(line, cache)
    first.reach(stage)
    time.sleep(delay)
    first.process.send_signal(SIGNALS[how])
    said = first.end()
    status = first.process.returncode
    well = how == "kill" or status == 0 or (status == STATUS[how] and SENTENCE in said)
    second = Started(line, cache)
    again = second.end()
    row = {
        "stage": stage or "start", "after_s": round(delay, 2), "status": status,
        "ended_well": well and "Traceback" not in said, "second": second.process.returncode,
    }  # fmt: skip
    same = second.process.returncode == 0
    same = same and digest(folder / CASES[name][1]) == expected.digest
    if not same or not row["ended_well"]:
        row |= {"said": said[-500:], "said_again": again[-500:]}
    return row | {"identical": same}


def digest(path: Path) -> str:
    """Return the digest of what was found, without the command and times."""
    if path.suffix != ".json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(
        json.dumps(without(json.loads(path.read_text()), _PASSING)).encode()
    ).hexdigest()


if __name__ == "__main__":
    run(main, Config, __doc__)
