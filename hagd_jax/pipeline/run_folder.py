"""A run on disk: its configuration, its log, and what each stage left.

```
config.json     the configuration; a folder belongs to one
metrics.jsonl   the log, one JSON object a line
seen/           what each stage looked at, one JSON file a stage
features/       the transcoder that was learned for the run
checkpoints/    running sums of the node scores; scores.npz the scores
hierarchy.npz   clusters of nodes, level by level, and where masks begin
masks/          masks in training; search.npz the ranks of all nodes at each size
repair.npz      the circuit after swaps
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
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hagd_jax.errors import CheckpointError
from hagd_jax.files import finite, write_atomic
from hagd_jax.parallel import Checkpoints, agree, is_main


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run's folder belongs to one run; open it with `open_run`.

    In a cluster every process holds one; only the first writes text.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def checkpoints(self) -> Checkpoints:
        """Return the folder of unfinished work."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def masks(self) -> Checkpoints:
        """Return the folder of masks in training."""
        return Checkpoints(self.path / "masks")

    @property
    def steps(self) -> Checkpoints:
        """Return the folder of the fused executor's state."""
        return Checkpoints(self.path / "steps")

    def log(self, stage: str, **values: Any) -> None:
        """Append a line to `metrics.jsonl`; numbers that are not finite become null."""
        if is_main():
            record = finite({"time": round(time.time(), 3), "stage": stage, **values})
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the run atomically."""
        if is_main():
            write_atomic(self.path / name, content)

    def has(self, name: str) -> bool:
        """Tell whether the run has a file or folder; every process must ask."""
        return agree((self.path / name).exists())

    def keep(self, name: str, **arrays: np.ndarray) -> None:
        """Write arrays as a compressed .npz file, atomically."""
        held = io.BytesIO()
        named: dict[str, Any] = dict(arrays)
        np.savez_compressed(held, **named)
        self.write(name, held.getvalue())

    def kept(self, name: str, **shapes: tuple[int, ...] | None) -> dict[str, np.ndarray] | None:
        """Read the arrays that `keep` wrote.

        Args:
            name: The file.
            **shapes: Name → shape of every array that it must hold, None for any.

        Returns:
            Name → array, or None if there is no such file.

        Raises:
            CheckpointError: If the file is broken, or holds arrays of other names or shapes.
        """
        if not self.has(name):
            return None
        path, mend = self.path / name, "Remove it; it is made again."
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
                found = {key: held[key] for key in held.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise CheckpointError(str(path), got=f"a broken file ({error})", mend=mend) from error
        got = {key: array.shape for key, array in found.items()}
        wanted = {key: got.get(key) if shape is None else shape for key, shape in shapes.items()}
        if got != wanted:
            raise CheckpointError(
                str(path), got=f"arrays {got}", expected=f"{shapes} for this model", mend=mend
            )
        return found

    def rewind(self, stage: str, step: int) -> None:
        """Drop logged lines that a resumed run will write again.

        Keeps the lines of other, earlier stages, and of this one up to `step`; a line that was
        cut off by a kill goes too.

        Args:
            stage: The stage that is resumed.
            step: Its last step that was saved.
        """
        path = self.path / "metrics.jsonl"
        if not (is_main() and path.exists()):
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                break
            if record["stage"] == stage and record.get("step", 0) > step:
                break
            kept.append(line + "\n")
            if record["stage"] == stage and record.get("step", 0) == step:
                break
        write_atomic(path, "".join(kept))
