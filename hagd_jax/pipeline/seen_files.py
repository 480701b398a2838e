"""What each stage of a run has looked at, kept beside what it left."""

from __future__ import annotations

import json
from collections.abc import Iterable

from hagd_jax.errors import CheckpointError, DamagedError, HagdError
from hagd_jax.files import read_json_object, with_digest, without_digest
from hagd_jax.pipeline.context import Stage
from hagd_jax.pipeline.run_folder import RunFolder, again
from hagd_jax.tasks import Seen


def file_of(stage: str) -> str:
    """Return the file of a stage within the run's folder."""
    return f"seen/{stage}.json"


def remember(run: RunFolder | None, stage: Stage, seen: Seen, then: Iterable[str] = ()) -> Seen:
    """Add to the record of a stage before it reads any data.

    Nothing is ever removed from the record while the stage's results are in the folder, so that a
    circuit made from them knows all they were chosen by.

    Args:
        run: The run's folder, or None to keep nothing.
        stage: The stage.
        seen: The data that it is about to look at.
        then: What the stage and later ones leave. If the record is damaged, or absent though there
            are results, these are removed, so that nothing remains of which it is unknown what it
            was chosen by.

    Returns:
        Everything that the stage has looked at in this run.

    Raises:
        CheckpointError: If the record is one of another model, task or dictionary.
    """
    if run is None:
        return seen
    name, before = file_of(stage.name), None
    if run.has(name):
        before = run.whole(name, lambda: _read(run, stage.name))
        lost = before is None
    else:
        there = [run.has(leaf) for leaf in stage.leaves]  # all processes ask the same questions
        lost = any(there)
        if lost:
            again(run.path / name, CheckpointError("the record", got="none", expected="one"))
    if lost:
        run.forget([name, *stage.leaves, *then])
    if before is not None:
        _require_same(run, name, before, seen)
        seen = before | seen
    # The name of the stage, so that no other stage's record is taken for this one's.
    record = with_digest({"stage": stage.name} | seen.to_json())
    run.write(name, json.dumps(record, indent=1) + "\n")
    return seen


def _read(run: RunFolder, stage: str) -> Seen:
    path = run.path / file_of(stage)
    try:
        record = without_digest(path, read_json_object(path, error=DamagedError))
        if record.pop("stage", None) != stage:
            raise DamagedError(str(path), got="another stage's record", expected=f"that of {stage}")
        return Seen.from_json(record)
    except DamagedError:
        raise
    except HagdError as error:
        raise DamagedError(
            str(path), got=f"a broken record ({str(error)[:80]})",
            expected="what the stage looked at",
        ) from error  # fmt: skip


def _require_same(run: RunFolder, name: str, before: Seen, now: Seen) -> None:
    """Refuse to go on with another model, task or dictionary under the same name."""
    for field in ("models", "tasks", "dictionaries"):
        old, new = (set(getattr(each, field)) for each in (before, now))
        if old and new and old != new:
            ours, theirs = (", ".join(sorted(each)) for each in (new, old))
            raise CheckpointError(
                str(run.path), got=f"{ours} for a run of {theirs}",
                expected=f"the same {field}", mend="Use another --out, or --overwrite.",
            )  # fmt: skip
