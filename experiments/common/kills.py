"""Runs that are killed at a random moment and started again."""

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
    """Runs that are killed and started again.

    Attributes:
        kills: Runs.
        apart: Also run whatever is not killed in a process of its own.
        folder: Work in this folder and end; the script starts itself with it.
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
    """Compare runs that were killed once with a run that was not.

    Args:
        module: The script, which works in the folder that `--folder` names.
        config: How many runs.
        arguments: Its other arguments.
        work: What the script does with a folder, from wherever it was.
        digest: Digest of the result in a folder.
        kill: Kills a process that works in a folder at a random moment, and says when.

    Returns:
        A row for each run, with `identical`: whether it ended as the whole one.
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
    """Kill a process after some seconds, unless it has ended."""
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
