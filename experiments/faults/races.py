"""Do two processes that write to the same place leave what one of them alone would?

    python -m experiments.faults.races                                 # 20 pairs, some 15 minutes
    python -m experiments.faults.races --ways overwrite --times 10

Two processes are started at about the same moment, the second up to some tenths of a second later:

    run        the same extraction into one folder: one runs there, the other is told who does;
    overwrite  two extractions that differ, both with --overwrite, into one folder: the same;
    wait       as `run`, but with --wait: both end well, one after the other;
    cache      two extractions into folders of their own, whose model is trained for one cache:
               both end well, and the model is trained once;
    link       as `cache`, and the cache's entry is a link to a folder that is none of its business,
               which must stay as it was.

Expected: the one that is refused ends with 2 and one sentence that names the other's process, and
what is left is what a process alone leaves. Writes results/races.json.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from experiments.common.cells import Row, measure_cells
from experiments.common.processes import compiled_once, environment
from experiments.common.script import Places, run
from experiments.faults.works import ending

Way = Literal["run", "overwrite", "wait", "cache", "link"]
REFUSED = "another process that writes there: process"


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for starting pairs of processes.

    Attributes:
        ways: What they do.
        times: Pairs of each.
        modulus: What is learned by the model of the extractions: addition modulo this number.
        until: Last stage of the extractions.
    """

    ways: tuple[Way, ...] = get_args(Way)
    times: int = 4
    modulus: int = 11
    until: str = "page"


class Ended(NamedTuple):
    """Ended holds the exit status of a process and what it said on standard error."""

    status: int
    said: str


def main(config: Config) -> None:
    """Start the configured number of pairs of each kind."""
    numbers = range(config.times)
    cells = [{"way": way, "number": number} for way in config.ways for number in numbers]
    alone: dict[int, str] = {}

    def measure(cell: Row) -> list[Row]:
        if not alone:
            alone.update({seed: by_itself(seed, config) for seed in (0, 1)})
        return [pair(cell, alone, config)]

    rows = measure_cells("races", cells, measure, config, varied=("ways", "times"))
    if bad := [row for row in rows if not row["well"]]:
        sys.exit(f"NOT as expected: {bad}")


def by_itself(seed: int, config: Config) -> str:
    """Return what an extraction leaves that runs alone."""
    folder = config.runs / "races" / f"alone{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    lines, compiled = [command(folder / "out", seed, config)], config.runs / "races" / "compiled"
    ended = together(lines, folder / "cache", compiled, [0.0])[0]
    if ended.status:
        sys.exit(f"an extraction alone ends with {ended.status}: {ended.said}")
    return ending(folder / "out")


def command(out: Path, seed: int, config: Config, *more: str) -> list[str]:
    """Return the command line of an extraction."""
    given = f"--modulus {config.modulus} --nodes 64 --seed {seed} --until {config.until}"
    return [
        *(sys.executable, "-m", "hagd_jax.cli", "extract", "--task", "modular-addition"),
        *(*given.split(), "--out", str(out), *more),
    ]


def together(
    commands: list[list[str]], cache: Path, compiled: Path, delays: list[float]
) -> list[Ended]:
    """Start processes, each some seconds after the one before, and wait for their ends."""
    more = environment({"HAGD_CACHE": str(cache.absolute())} | compiled_once(compiled))
    started = []
    for line, delay in zip(commands, delays, strict=True):
        time.sleep(delay)
        started.append(
            subprocess.Popen(
                line, env=more, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        )
    ends = []
    for process in started:
        said = process.communicate(timeout=1200)[1]
        ends.append(Ended(process.returncode, " ".join(said.split())))  # it was wrapped
    return ends


def pair(cell: Row, alone: dict[int, str], config: Config) -> Row:
    """Start two processes, and check what they leave."""
    way, number = cell["way"], cell["number"]
    folder = config.runs / "races" / f"{way}{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    delay = random.Random(f"{cell}").uniform(0, 0.5)
    seeds = (0, 1) if way == "overwrite" else (0, 0)
    outs = [folder / ("out" if way in ("run", "overwrite", "wait") else name) for name in "ab"]
    more = {"overwrite": ["--overwrite"], "wait": ["--wait"]}.get(way, [])
    # The model is there already but where the cache is raced for.
    cache = folder / "cache"
    if way == "link":
        linked(config, cache, folder / "elsewhere")
    elif way != "cache":
        shutil.copytree(config.runs / "races" / "alone0" / "cache", cache)
        shutil.copytree(config.runs / "races" / "alone1" / "cache", cache, dirs_exist_ok=True)
    lines = [command(*each, config, *more) for each in zip(outs, seeds, strict=True)]
    ends = together(lines, cache, config.runs / "races" / "compiled", [0.0, delay])
    row: Row = {"delay": round(delay, 2), "status": [each.status for each in ends]}
    won = [seed for seed, each in zip(seeds, ends, strict=True) if each.status == 0]
    same = [ending(out) in {alone[seed] for seed in won} for out in dict.fromkeys(outs)]
    well = all(same) and (refused_well(ends) if way in ("run", "overwrite") else len(won) == 2)
    if way in ("cache", "link"):
        entries = [each for each in cache.iterdir() if not each.name.startswith(".")]
        well = well and len(entries) == 1 and not entries[0].is_symlink()
    if way == "link":
        well = well and (folder / "elsewhere" / "thesis.txt").read_text() == "years of work"
    well = well and not any("Traceback" in each.said for each in ends)
    row |= {"same": all(same), "well": well}
    return row if well else row | {"said": [each.said[-400:] for each in ends]}


def refused_well(ends: list[Ended]) -> bool:
    """Return whether one process won and the other named it, or came when it had ended."""
    first, second = sorted(ends)
    if second.status == 0:
        return True
    return first.status == 0 and second.status == 2 and REFUSED in second.said


def linked(config: Config, cache: Path, elsewhere: Path) -> None:
    """Make a cache whose only entry is a link."""
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("years of work")
    cache.mkdir()
    (entry,) = (
        each for each in (config.runs / "races" / "alone0" / "cache").iterdir()
        if not each.name.startswith(".")
    )  # fmt: skip
    (cache / entry.name).symlink_to(elsewhere.absolute())


if __name__ == "__main__":
    run(main, Config, __doc__)
