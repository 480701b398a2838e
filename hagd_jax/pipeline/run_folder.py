"""A run on disk: its configuration, its log, its checkpoints and its results.

```
config.json     what was asked for; a folder belongs to one configuration
metrics.jsonl   one JSON object a line, as the run went
checkpoints/    what was computed so far; positions/ where in the data that was
hierarchy.npz   clusters of nodes, level by level
steps/          the same of the composed step, if that runs it
masks/          masks in training, checkpoints of their own
circuit.json    the circuit
report.html     the page to look at
```

A run that trains a transcoder keeps it in `transcoder/`, what was measured of it in
`evaluation.json`, and where its features fire most in `contexts/`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hagd_jax.errors import CheckpointError
from hagd_jax.files import finite, write_atomic, writing_to
from hagd_jax.parallel import Checkpoints, agree, is_main
from hagd_jax.pipeline.stages import Stage, left_by, settled_before

RESULTS = (
    *("metrics.jsonl", "circuit.json", "report.html", "checkpoints", "masks", "model", "features"),
    *("transcoder", "evaluation.json", "contexts", "positions", "hierarchy.npz", "steps"),
)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A folder that belongs to one run; open it with `open_run`.

    In a cluster every process holds one; only the first writes text.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def checkpoints(self) -> Checkpoints:
        """Where unfinished work is kept."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def masks(self) -> Checkpoints:
        """Where masks in training are kept."""
        return Checkpoints(self.path / "masks")

    @property
    def steps(self) -> Checkpoints:
        """Where the state of the composed method is kept."""
        return Checkpoints(self.path / "steps")

    def log(self, stage: str, **values: Any) -> None:
        """Append a line to `metrics.jsonl`; what is not a finite number becomes null."""
        if is_main():
            record = finite({"time": round(time.time(), 3), "stage": stage, **values})
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the run, all of it or nothing."""
        if is_main():
            write_atomic(self.path / name, content)

    def rewind(self, stage: str, step: int) -> None:
        """Forget logged lines that a resumed run will write again.

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


def open_run(
    path: str | Path,
    config: dict[str, Any],
    *,
    overwrite: bool = False,
    begin: Stage | None = None,
) -> RunFolder:
    """Begin a run, or continue the one that was begun here with the same configuration.

    Args:
        path: The folder; made if absent.
        config: What decides the results, as plain JSON values.
        overwrite: Discard what a run with another configuration left.
        begin: Discard what this stage of an extraction and those after it left; what decides them
            alone may then differ.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the folder holds something else, or a run with another configuration;
            the message lists the differences; or if it cannot be written.
    """
    path = Path(path)
    # The first process alone looks and writes, the others wait: two would see each other's files.
    problem = None
    if is_main():
        try:
            with writing_to(path):
                _claim(path, config, overwrite, begin)
        except CheckpointError as error:
            problem = error
    if not agree(problem is None):
        raise problem or CheckpointError(str(path), got="refused by the first process")
    return RunFolder(path)


def _claim(path: Path, config: dict[str, Any], overwrite: bool, begin: Stage | None) -> None:
    file = path / "config.json"
    if path.exists() and not path.is_dir():
        raise CheckpointError(str(path), got="a file", expected="a folder")
    if file.exists():
        # Through JSON, so that tuples compare equal to what was written.
        old, new = _read(file), json.loads(json.dumps(config))
        if begin is not None:
            old, new = ({**c, "config": settled_before(begin, c.get("config", {}))}
                        for c in (old, new))  # fmt: skip
        differences = _differences(old, new)
        # Nothing was done yet: the first command may simply have been mistyped.
        overwrite = overwrite or not any((path / name).exists() for name in RESULTS)
        if differences and not overwrite:
            raise CheckpointError(
                str(path),
                got="a run with another configuration: " + "; ".join(differences[:10]),
                mend="Use another --out, or --overwrite to discard that run.",
            )
        if differences:
            _discard(path)
        elif begin is not None:
            _remove(path, left_by(begin))
    elif path.exists() and any(path.iterdir()):
        raise CheckpointError(
            str(path),
            got="a folder with other files",
            expected="an empty one, a new one, or a run",
            mend="Use another --out.",
        )
    write_atomic(file, json.dumps(config, indent=1))


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            str(file), got=f"broken JSON ({error})", mend="Remove the folder, or use another --out."
        ) from error


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in _differences(old.get(key), new.get(key), f"{prefix}{key}.")
        ]
    return [] if old == new else [f"{prefix[:-1]} was {old!r}, now {new!r}"]


def _discard(path: Path) -> None:
    # Only what a run writes: a mistyped folder loses nothing else.
    _remove(path, ("config.json", *RESULTS))


def _remove(path: Path, names: Iterable[str]) -> None:
    for name in names:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)
