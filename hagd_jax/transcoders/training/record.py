"""What a training leaves behind as it goes: metrics and checkpoints."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hagd_jax.corpus import Batches
from hagd_jax.errors import CheckpointError, DamagedError, TrainingError
from hagd_jax.files import is_file, read_json_object, with_digest, without_digest, write_atomic
from hagd_jax.parallel import Pace, is_main, sync
from hagd_jax.transcoders.training.losses import Terms
from hagd_jax.transcoders.training.setup import Run, Setup
from hagd_jax.transcoders.training.state import Metrics, TrainState


class Clock:
    """A clock triggers what happens at intervals: metrics a step late, and checkpoints."""

    def __init__(self, setup: Setup, run: Run | None, save_every: float):
        self.setup, self.run = setup, run
        self.began, self.pace = time.monotonic(), Pace(save_every)
        self.waiting: tuple[int, Metrics] | None = None
        self.first = 0

    def tick(
        self,
        done: int,
        state: TrainState,
        metrics: Metrics,
        batches: Batches,
        report: Callable[[], None] | None,
    ) -> None:
        """Log and save after step number `done`, where due; `report` tells of it."""
        self.first = self.first or done - 1
        # The step before is done by now, so that reading it does not hold this one up.
        self._report()
        self.waiting = done, metrics
        last = done == self.setup.steps
        save = functools.partial(self._save, done, state, batches)
        self.pace(report, None if self.run is None else save, last=last)
        if last:
            self._report()

    def _report(self) -> None:
        if self.waiting is None:
            return
        done, metrics = self.waiting
        self.waiting = None
        if self.run is not None:
            # A clock that counts coarsely may not have moved.
            seconds = max(time.monotonic() - self.began, 1e-9)
            rate = (done - self.first) * self.setup.train.batch_size * self.setup.length / seconds
            self.run.log("transcoder", step=done, tokens_per_second=round(rate, 1),
                         tokens=done * self.setup.train.batch_size * self.setup.length,
                         **summary(metrics))  # fmt: skip
        if not bool(metrics.finite):
            raise self._diagnosis(done, metrics.terms)

    def _diagnosis(self, done: int, terms: Terms) -> TrainingError:
        broken = [
            layer for layer, fvu in enumerate(np.asarray(terms.fvu)) if not math.isfinite(fvu)
        ]
        where = f"layer {', '.join(map(str, broken))}" if broken else "the gradient"
        kept = self.run.checkpoints.steps() if self.run is not None else []
        return TrainingError(
            f"step {done}",
            got=f"NaN or infinity in {where}",
            expected="finite numbers",
            mend=f"Checkpoint {kept[-1]} is the last good state; continue with a smaller "
            "learning_rate."
            if kept
            else "Try a smaller learning_rate.",
        )

    def _save(self, done: int, state: TrainState, batches: Batches) -> None:
        assert self.run is not None
        self._report()
        try:
            if is_main():
                write_atomic(_position(self.run, done), position_text(batches, done))
            sync("data position")
            self.run.checkpoints.save(done, state)
            if is_main():
                _forget_positions(self.run)
        except (OSError, ValueError) as error:
            kept = self.run.checkpoints.steps()
            raise CheckpointError(
                str(self.run.path),
                got=str(error),
                expected="a folder that can be written, on a disk that is not full",
                mend=f"The state of step {kept[-1]} is intact; make room and run the same again."
                if kept else "Make room and run the same again.",
            ) from error  # fmt: skip


def summary(metrics: Metrics) -> dict[str, Any]:
    """Convert a step's metrics to plain numbers, for a log.

    Args:
        metrics: From `step`.

    Returns:
        Means over layers, and the error and L0 of each.
    """
    found = jax.tree.map(np.asarray, metrics)
    return {
        "loss": float(found.terms.loss),
        "fvu": float(found.terms.fvu.mean()),
        "l0": float(found.terms.l0.mean()),
        "dead": float(found.dead.mean()),
        "gradient": float(found.norm),
        **{name: float(part) for name, part in found.terms.parts.items()},
        "fvu_by_layer": [round(float(fvu), 5) for fvu in found.terms.fvu],
    }


def _position(run: Run, step: int) -> Path:
    return run.path / "positions" / f"{step}.json"


def read_position(run: Run, step: int) -> dict[str, Any]:
    """Read the data position of a checkpoint.

    Args:
        run: The run.
        step: Of the checkpoint.

    Returns:
        What `Batches.restore` takes.

    Raises:
        DamagedError: If it is damaged.
        CheckpointError: If it was not kept.
    """
    file = _position(run, step)
    if not is_file(file):
        raise CheckpointError(
            str(file),
            got="no such file",
            expected="where in the data the checkpoint was taken",
            mend="Start again in a new folder, or with --from features.",
        )
    found = without_digest(file, read_json_object(file, error=DamagedError))
    if found.pop("step", step) != step:
        raise DamagedError(str(file), got="the position of another step", expected=f"of {step}")
    return found


def position_text(batches: Batches, step: int) -> str:
    """Write the data position of a checkpoint as JSON, with its digest.

    Args:
        batches: The data, at that position.
        step: Of the checkpoint.

    Returns:
        The text, for `read_position`.
    """
    return json.dumps(with_digest({**batches.state(), "step": step}))


def _forget_positions(run: Run) -> None:
    kept = set(map(str, run.checkpoints.steps()))
    for file in (run.path / "positions").glob("*.json"):
        if file.stem not in kept:
            file.unlink(missing_ok=True)
