"""Kill runs at a random moment, start them again, and compare their results."""

from __future__ import annotations

import dataclasses
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.common.processes import start
from experiments.common.script import Places

SEED = 0


@dataclasses.dataclass(frozen=True)
class Kills(Places):
    """Kills holds the settings of runs that are killed and started again.

    Attributes:
        kills: Number of runs to kill; more runs try more moments.
        apart: Also use a separate process for the runs that are not killed.
        folder: Work in this folder and end; the script passes it to the processes it starts.
    """

    kills: int = 20
    apart: bool = True
    folder: Path | None = None


def survivors(
    module: str,
    config: Kills,
    arguments: Sequence[object],
    work: Callable[[Path], None],
    digest: Callable[[Path], str],
    kill: Callable[[subprocess.Popen[bytes], Path, random.Random], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Compare runs that were killed once with an uninterrupted run.

    Args:
        module: Dotted name of the script, which works in the folder that `--folder` names.
        config: Number of runs, and whether uninterrupted runs get their own process.
        arguments: Further arguments of the script.
        work: Does the work of the script in a folder, continuing from its last saved state.
        digest: Returns the digest of the result in a folder.
        kill: Kills a process that works in a folder at a random moment, and returns when.

    Returns:
        A row for each run. `identical` says whether its result equals the uninterrupted one.
    """
    rng, rows = random.Random(SEED), []

    def whole_run(folder: Path) -> None:
        if config.apart:
            start(module, "--folder", folder, *arguments).wait()
        else:
            work(folder)

    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        whole_run(whole)
        want = digest(whole)
        for number in range(config.kills):
            folder = Path(scratch) / f"run{number}"
            row = kill(start(module, "--folder", folder, *arguments), folder, rng)
            whole_run(folder)
            rows.append({"run": number} | row | {"identical": digest(folder) == want})
            print(rows[-1], flush=True)
    return rows


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Kill a process after `seconds`, and wait until it has ended."""
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
