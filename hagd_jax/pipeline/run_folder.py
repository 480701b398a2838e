"""A run on disk: its configuration, its log, and what each stage left.

```
config.json     the configuration; a folder belongs to one
metrics.jsonl   the log, one JSON object a line
seen/           what each stage looked at, one JSON file a stage
features/       the transcoder that was learned for the run
checkpoints/    running sums of the node scores; scores.npz the scores
starts.json     the choice among several kinds of scores, with all that was measured
hierarchy.npz   clusters of nodes, level by level, and where masks begin
tree.safetensors  the tree of units, as `hagd validate --tree` reads it
masks/          masks in training; search.npz the circuits of units, or the ranks of all nodes, at
                each size
repair.npz      the circuit after repair
steps/          the state of the fused executor
circuit.json    the circuit
validation.json the verdict of the judge
report.html     the page to look at
```

A run that trains a transcoder keeps it in `transcoder/`, its measures in `evaluation.json`, its
features' top contexts in `contexts/`, and the position in the data in `positions/`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import CheckpointError, DamagedError, HagdError
from hagd_jax.files import (
    DIGEST,
    Lock,
    append_line,
    arrays_digest,
    decoded,
    finite,
    parse_json,
    read_bytes,
    read_npz,
    require_digest,
    write_atomic,
)
from hagd_jax.files.parsing import LINE
from hagd_jax.parallel import Checkpoints, agree, is_main, sync

LOG = "metrics.jsonl"
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, repr=False)
class RunFolder:
    """A run's folder belongs to one run; open it with `open_run`.

    In a cluster every process holds one; only the first writes text.

    Attributes:
        path: The folder.
        lock: What keeps other processes from writing there, as long as the run is referred to.
        deciders: File or folder → digest of what decides it, which it carries, so that what another
            run has left is not taken for this one's.
    """

    path: Path
    lock: Lock | None = dataclasses.field(default=None, compare=False, repr=False)
    deciders: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)

    __repr__ = one_line

    @property
    def checkpoints(self) -> Checkpoints:
        """Return the folder of unfinished work."""
        return self._states("checkpoints")

    def sums(self, name: str) -> Checkpoints:
        """Return the folder of one of several kinds of scores that are unfinished."""
        return Checkpoints(self.path / "checkpoints" / name, of=self.decides("checkpoints"))

    @property
    def masks(self) -> Checkpoints:
        """Return the folder of masks in training."""
        return self._states("masks")

    @property
    def steps(self) -> Checkpoints:
        """Return the folder of the fused executor's state."""
        return self._states("steps")

    def _states(self, name: str) -> Checkpoints:
        return Checkpoints(self.path / name, of=self.decides(name))

    def decides(self, name: str) -> str:
        """Return the digest of what decides a file or folder of the run; empty if unknown."""
        return self.deciders.get(name, "")

    def log(self, stage: str, **values: Any) -> None:
        """Append a line to `metrics.jsonl`; numbers that are not finite become null."""
        if is_main():
            record = finite({"time": round(time.time(), 3), "stage": stage, **values})
            append_line(self.path / LOG, json.dumps(record, allow_nan=False))

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the run atomically."""
        if is_main():
            write_atomic(self.path / name, content)

    def has(self, name: str) -> bool:
        """Tell whether the run has a file or folder; every process must ask."""
        return agree((self.path / name).exists())

    def keep(self, name: str, **arrays: np.ndarray) -> None:
        """Write arrays and their digest as a compressed .npz file, atomically."""
        held = io.BytesIO()
        of = arrays_digest(arrays, {"of": self.decides(name)})
        named: dict[str, Any] = {**arrays, DIGEST: _digits(of)}
        np.savez_compressed(held, **named)
        self.write(name, held.getvalue())

    def kept(self, name: str, **shapes: tuple[int, ...] | None) -> dict[str, np.ndarray] | None:
        """Read the arrays that `keep` wrote.

        Args:
            name: The file.
            **shapes: Name → shape of every array that it must hold, None for any.

        Returns:
            Name → array, or None if there is no such file, or a damaged one.

        Raises:
            CheckpointError: If the file is whole, and holds arrays of other names or shapes.
        """
        if not self.has(name):
            return None
        path, mend = self.path / name, "Remove it; it is made again."
        found = self.whole(name, lambda: _arrays(path, self.decides(name)))
        if found is None:
            return None
        got = {key: array.shape for key, array in found.items()}
        wanted = {key: got.get(key) if shape is None else shape for key, shape in shapes.items()}
        if got != wanted:
            raise CheckpointError(
                str(path), got=f"arrays {got}", expected=f"{shapes} for this model", mend=mend
            )
        return found

    def whole(self, name: str, read: Callable[[], T]) -> T | None:
        """Read what the run has left, unless it is damaged; every process must ask.

        Args:
            name: The file or folder, for the log.
            read: Reads it.

        Returns:
            What was read; None if it is damaged, which the log says: it is made again.
        """
        found = error = None
        try:
            found = read()
        except DamagedError as damage:
            error = damage
        # What the first process reads decides, as it alone writes.
        if agree(error is not None):
            again(self.path / name, error)
            return None
        if error is not None:
            raise error
        return found

    def forget(self, names: Iterable[str]) -> None:
        """Remove files and folders that the run has left; every process must ask."""
        if is_main():
            remove(self.path, names)
        sync("files of the run removed")

    def rewind(self, stage: str, step: int) -> None:
        """Drop logged lines that a resumed run will write again.

        Keeps the lines of other, earlier stages, and of this one up to `step`; lines that are
        damaged, or were cut off by a kill, go too.

        Args:
            stage: The stage that is resumed.
            step: Its last step that was saved.
        """
        path = self.path / LOG
        if not (is_main() and path.exists()):
            return
        lines = read_bytes(path).split(b"\n")
        kept: list[bytes] = []
        for number, line in enumerate(lines, 1):
            place = _place(line)
            if place is None:
                # The end of the file is no line, and what a kill cut off is no damage.
                if number < len(lines):
                    _log.warning("%s: line %d is damaged and left out", path, number)
                continue
            name, at = place
            if name == stage and at > step:
                break
            kept.append(line + b"\n")
            if name == stage and at == step:
                break
        write_atomic(path, b"".join(kept))


def again(place: Path, error: Exception | None) -> None:
    """Say in the log that something damaged is made again."""
    _log.warning("%s is damaged and is made again: %s", place, error or "another process says so")


def remove(path: Path, names: Iterable[str]) -> None:
    """Remove files and folders, if they are there; links are removed and not followed.

    Raises:
        OSError: If one cannot be removed.
    """
    for each in (path / name for name in names):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink(missing_ok=True)


def _arrays(path: Path, of: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, which must have the digest that it says, of this run."""
    found = read_npz(path, error=DamagedError)
    told = found.pop(DIGEST, np.zeros(0, np.uint8))
    require_digest(path, told.tobytes().hex(), arrays_digest(found, {"of": of}))
    return found


def _digits(digest: str) -> np.ndarray:
    """A digest as bytes, since archives hold numbers alone."""
    return np.frombuffer(bytes.fromhex(digest), np.uint8)


def _place(line: bytes) -> tuple[str, int] | None:
    """Stage and step of a line of the log; None if it is none."""
    try:
        record = parse_json(decoded(line, LOG), LOG, LINE)
        stage, step = record["stage"], record.get("step", 0)
    except (HagdError, LookupError, TypeError, AttributeError):
        return None
    whole = isinstance(stage, str) and isinstance(step, int)
    return (stage, step) if whole else None
