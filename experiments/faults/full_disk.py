"""Is anything lost when a disk is full, read-only or broken, whichever write it happens at?

    python -m experiments.faults.full_disk                       # every write site, about an hour
    python -m experiments.faults.full_disk --works transcoder --every 5

Every kind of work is done once, and the system calls are counted that its files are made by: those
of the package's writer (files/system.py), and Orbax's saves, which have a writer of their own. Then
it is done again and again, and one of them fails: as ENOSPC, EDQUOT, EROFS and EIO by turns, in the
midst of what it should have written, and so do all calls after it, as on a disk that stays full.
Expected: one typed error of one line; what lies there by then is whole; and the same work without a
fault goes on from there to the end of work that never failed. A small tmpfs does the same by
itself, at sizes from nothing to all that is needed, where the process may mount one. Writes
results/full_disk.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common.cells import Row, measure_cells
from experiments.common.processes import few_programs
from experiments.common.script import Places, run
from experiments.faults.works import WORKS, silent
from hagd_jax.errors import HagdError
from hagd_jax.files import system
from hagd_jax.parallel import checkpoint

CALLS = ("make_folder", "create", "extend", "write", "settle", "replace", "move")
ERRORS = ("ENOSPC", "EDQUOT", "EROFS", "EIO")
# Shares of the room that the work needs, on a real disk that is too small for it.
ROOMS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for working on disks that fail.

    Attributes:
        works: What is done; everything if empty.
        every: Of the calls every so manieth fails, once with each error if it is 1.
        real: Also mount a small disk, where that is allowed.
    """

    works: tuple[str, ...] = ()
    every: int = 1
    real: bool = True


@dataclasses.dataclass
class Disk:
    """Disk counts the calls that write, and lets them fail from one of them on.

    Attributes:
        fails_at: Number of the first call that fails; none does if it is negative.
        error: What it says.
        count: Calls so far.
    """

    fails_at: int = -1
    error: str = "ENOSPC"
    count: int = 0

    def call(self, name: str, real: Any, *arguments: Any, **options: Any) -> Any:
        """Make the call, or let it fail."""
        self.count += 1
        if 0 <= self.fails_at < self.count:
            if name == "write" and self.count == self.fails_at + 1:
                file, content = arguments
                real(file, memoryview(content)[: len(content) // 2])
            number = getattr(errno, self.error)
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    @contextlib.contextmanager
    def beneath(self) -> Iterator[None]:
        """Replace the system calls of the package's writer and of Orbax while the block runs."""
        places = [(system, name) for name in CALLS]
        places += [(checkpoint.ocp.CheckpointManager, "save")]
        before = [getattr(place, name) for place, name in places]
        for (place, name), real in zip(places, before, strict=True):
            setattr(place, name, self.over(name, real))
        try:
            yield
        finally:
            for (place, name), real in zip(places, before, strict=True):
                setattr(place, name, real)

    def over(self, name: str, real: Any) -> Any:
        """Replace a function by another while the block runs."""
        return lambda *arguments, **options: self.call(name, real, *arguments, **options)


def main(config: Config) -> None:
    """Let every call that writes fail, one after the other."""
    wholes: dict[str, tuple[str, int, int]] = {}

    def whole(name: str) -> tuple[str, int, int]:
        if name not in wholes:
            few_programs()
            wholes[name] = counted(name, config.runs / "full_disk" / name / "whole")
        return wholes[name]

    def measure(cell: Row) -> list[Row]:
        if "room" in cell:
            return [too_small(cell, *whole(cell["work"]), config)]
        return [failing(cell, whole(cell["work"])[0], config)]

    names = config.works or tuple(WORKS)
    cells = [
        {"work": name, "call": call, "error": error}
        for name in names for call in range(0, whole(name)[1], config.every)
        for error in (ERRORS if config.every == 1 else ERRORS[call // config.every % 4 :][:1])
    ]  # fmt: skip
    if config.real and may_mount(config.runs / "full_disk"):
        cells += [{"work": name, "room": room} for name in names for room in ROOMS]
    elif config.real:
        print("no disk can be mounted here, so that only feigned ones are full")
    rows = measure_cells("full_disk", cells, measure, config, varied=("works", "every", "real"))
    if bad := [row for row in rows if not row["well"]]:
        sys.exit(f"NOT as expected: {bad}")


def counted(name: str, folder: Path) -> tuple[str, int, int]:
    """Return what a piece of work finds, its number of calls, and the bytes that it leaves."""
    shutil.rmtree(folder, ignore_errors=True)
    disk = Disk()
    with disk.beneath():
        found = WORKS[name].go(folder, 0, silent)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return found, disk.count, size


def failing(cell: Row, expected: str, config: Config) -> Row:
    """Do some work on a disk that fails at one call, then again on a disk that works."""
    folder = config.runs / "full_disk" / cell["work"] / "failing"
    shutil.rmtree(folder, ignore_errors=True)
    with Disk(cell["call"], cell["error"]).beneath():
        outcome = attempted(cell["work"], folder, expected)
    return judged(cell, folder, expected, outcome)


def too_small(cell: Row, expected: str, calls: int, size: int, config: Config) -> Row:
    """Do some work on a disk that is too small, then again once there is room."""
    place = config.runs / "full_disk" / "small"
    place.mkdir(parents=True, exist_ok=True)
    # A page for each file and folder, whatever is in it.
    bytes_ = max(int(cell["room"] * (size + 4096 * calls)), 4096)
    mount(place, bytes_)
    try:
        outcome = attempted(cell["work"], place / "out", expected)
        subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)
        return judged(cell, place / "out", expected, outcome) | {"bytes": bytes_}
    finally:
        gc.collect()  # what a run holds open keeps its disk
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def attempted(name: str, folder: Path, expected: str) -> str:
    """Try some work on a failing disk, and return its error message, or what is wrong with it."""
    try:
        found = WORKS[name].go(folder, 0, silent)
    except HagdError as error:
        lines = str(error).splitlines()
        return lines[0] if len(lines) == 1 else f"WRONG: {len(lines)} lines: {error}"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}"
    # What was lost is not needed for the end, such as a lock.
    return "ended all the same" if found == expected else "WRONG: it ended otherwise"


def judged(cell: Row, folder: Path, expected: str, outcome: str) -> Row:
    """Continue without a fault, and compare the results."""
    try:
        same = WORKS[cell["work"]].go(folder, 0, silent) == expected
        again = ""
    except Exception as error:
        same, again = False, f"{type(error).__name__}: {error}"
    left = [str(path) for path in folder.rglob(".*") if path.name != ".lock"]
    well = same and not outcome.startswith("WRONG")
    row = {"said": outcome[:200], "same": same, "well": well, "drafts": len(left)}
    return row | ({"again": again[:300]} if again else {})


def may_mount(folder: Path) -> bool:
    """Return whether this process may mount a small disk."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "probe"
    place.mkdir(exist_ok=True)
    try:
        mount(place, 4096)
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(place)], check=True)
    return True


def mount(place: Path, size: int) -> None:
    """Mount an empty disk in memory.

    Raises:
        CalledProcessError: If that is not allowed.
    """
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
