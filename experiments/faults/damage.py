"""Is anything damaged that a run has left taken for whole?

    python -m experiments.faults.damage                            # 360 damages, some 20 minutes
    python -m experiments.faults.damage --works graph circuit --times 100

Every kind of work is done twice, to its end and up to a stop in the midst of it, by two runs that
find something else. A copy of the first is damaged in one place: a bit of a file is flipped, the
file is cut off, a block of it zeroed, bytes are put behind it, it is deleted, or it is replaced by
another file of the run, by that of the other run, or with all that lies in the same folder at the
top (a whole checkpoint, a whole transcoder). Then the same work goes on. Its outcome is

    again     it said what was damaged and made it again, and ended as a run that was never damaged;
    refused   a typed error;
    same      nothing was said, and it ended the same: what was damaged decides nothing;
    other     it ended otherwise, or went on with what the other run had found;
    untyped   any other error.

Expected: none of the last two. Writes results/damage.json.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

from experiments.common.cells import Row, measure_cells
from experiments.common.processes import few_programs
from experiments.common.script import Places, run
from experiments.faults.works import WORKS, silent, stopping
from hagd_jax.errors import HagdError, Interrupted
from hagd_jax.files import LOCK

KINDS = ("flip", "flip", "cut", "zero", "append", "delete", "mix", "swap", "exchange")
GOOD = ("again", "refused", "same")


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for damaging what runs leave.

    Attributes:
        works: What is damaged; everything if empty.
        times: Damages of each run, whole or stopped.
    """

    works: tuple[str, ...] = ()
    times: int = 20


def main(config: Config) -> None:
    """Damage a copy of every run, as often as configured."""
    cells = [
        {"work": name, "at": at, "number": number}
        for name in config.works or tuple(WORKS)
        for at in range(len(WORKS[name].stops) + 1) for number in range(config.times)
    ]  # fmt: skip
    made: dict[tuple[str, int], tuple[str, Path, Path]] = {}

    def measure(cell: Row) -> list[Row]:
        key = cell["work"], cell["at"]
        if key not in made:
            few_programs()
            made[key] = prepared(*key, config.runs / "damage" / f"{key[0]}-{key[1]}")
        return [damaged(cell, *made[key])]

    rows = measure_cells("damage", cells, measure, config, varied=("works", "times"))
    print(dict(Counter(row["outcome"] for row in rows)))
    bad = [row for row in rows if row["outcome"] not in GOOD]
    if bad:
        sys.exit(f"NOT as expected: {bad}")


def prepared(name: str, at: int, folder: Path) -> tuple[str, Path, Path]:
    """Return what a whole run finds, and the folders of two runs stopped at the same place."""
    shutil.rmtree(folder, ignore_errors=True)
    work = WORKS[name]
    expected = work.go(folder / "whole", 0, silent)
    for variant in (0, 1):
        place = folder / str(variant)
        try:
            work.go(place, variant, stopping(work.stops[at - 1]) if at else silent)
        except Interrupted:
            continue
        if at:
            sys.exit(f"{name}: it ended before its stop {work.stops[at - 1]}")
    return expected, folder / "0", folder / "1"


def damaged(cell: Row, expected: str, one: Path, other: Path) -> Row:
    """Damage a copy of a run and continue it."""
    copy = one.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(one, copy, ignore=shutil.ignore_patterns(LOCK))
    rng = random.Random(f"{cell}")
    kind, file = hurt(copy, other, rng, WORKS[cell["work"]].bound)
    said = Said()
    logging.getLogger().addHandler(said)
    try:
        same = WORKS[cell["work"]].go(copy, 0, silent) == expected
        outcome = "other" if not same else "again" if said.lines else "same"
    except HagdError as error:
        said.lines, outcome = [str(error)], "refused"
    except Exception as error:
        said.lines, outcome = [f"{type(error).__name__}: {error}"], "untyped"
    finally:
        logging.getLogger().removeHandler(said)
    row = {"kind": kind, "file": str(file), "outcome": outcome}
    return row | {"said": " ".join(said.lines)[:300]}


def hurt(folder: Path, other: Path, rng: random.Random, bound: bool) -> tuple[str, Path]:
    """Damage one file of a folder, and return how and which."""
    while True:
        kind, files = rng.choice(KINDS), listed(folder)
        at = rng.randrange(len(files))
        file = files[at]
        raw = file.read_bytes()
        if kind == "delete":
            file.unlink()
            return kind, file.relative_to(folder)
        theirs = listed(other)
        if not bound and kind in ("swap", "exchange")[len(files) > 1 :]:
            continue  # another input, and no damage
        if kind == "exchange" and len(theirs) == len(files):
            top, source = (each.relative_to(place).parts[0] for each, place in (
                (file, folder), (theirs[at], other)))  # fmt: skip
            if (folder / top).is_dir():
                shutil.rmtree(folder / top)
                shutil.copytree(other / source, folder / top)
                return kind, Path(top)
        new = changed(kind, raw, rng)
        if kind == "mix":
            new = rng.choice([each for each in files if each.suffix == file.suffix]).read_bytes()
        if kind == "swap" and len(theirs) == len(files):
            new = theirs[at].read_bytes()
        if new != raw:
            file.write_bytes(new)
            return kind, file.relative_to(folder)


def changed(kind: str, raw: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a file after a kind of damage that changes them."""
    out = bytearray(raw)
    if kind == "append":
        return raw + rng.randbytes(rng.randint(1, 64))
    if not raw:
        return raw
    at = rng.randrange(len(raw))
    if kind == "flip":
        out[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del out[at:]
    elif kind == "zero":
        out[at : at + 512] = bytes(len(out[at : at + 512]))
    return bytes(out)


def listed(folder: Path) -> list[Path]:
    """List all files of a folder except its lock, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)


class Said(logging.Handler):
    """Said is a log handler that keeps what the package says of damage."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of the log."""
        if record.name.startswith("hagd_jax"):
            self.lines.append(record.getMessage())


if __name__ == "__main__":
    run(main, Config, __doc__)
