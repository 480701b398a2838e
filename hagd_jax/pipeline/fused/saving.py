"""What happens after a step of the fused executor: log lines, progress and checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax

from hagd_jax.corpus import Batches
from hagd_jax.errors import TrainingError
from hagd_jax.parallel import Pace
from hagd_jax.pipeline.context import Context
from hagd_jax.pipeline.fused.setting import Setting
from hagd_jax.pipeline.fused.state import State
from hagd_jax.pipeline.fused.turns import Turn
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.transcoders.training.record import position_text

# Steps between lines of the log.
_LOGGED = 10
# Stages whose progress the staged executor shows under other names.
_SHOWN = {"hierarchy": "graph", "search": "masks"}
# Checkpoints are numbered through all stages; none has so many turns.
APART = 10**9


class Nothing:
    """Turns short enough to be repeated need no saving."""

    def begin(self, done: int) -> None:
        """Do nothing before the first remaining turn."""

    def show(self, done: int) -> None:
        """Show nothing of turns that are no stage."""

    def after(self, number: int, turn: Turn, state: State, said: Mapping[str, Any]) -> None:
        """Do nothing after a turn."""


class Saving(Nothing):
    """The turns of a stage are logged, and its state is saved at intervals of time.

    Args:
        context: The inputs of the stage.
        stage: Its name.
        index: Its place among the stages.
        total: Its turns.
    """

    def __init__(self, context: Context, stage: str, index: int, total: int):
        self.context, self.stage, self.index, self.total = context, stage, index, total
        self.pace = Pace(context.save_every)

    def begin(self, done: int) -> None:
        """Drop log lines that will be written again."""
        if self.context.run is not None:
            self.context.run.rewind(self.stage, done)

    def show(self, done: int) -> None:
        """Report that the stage begins."""
        if done < self.total:
            self.context.progress(_SHOWN.get(self.stage, self.stage), done, self.total)

    def after(self, number: int, turn: Turn, state: State, said: Mapping[str, Any]) -> None:
        """Log, report and save after a turn."""
        run, last = self.context.run, number == self.total
        if run is not None and (last or number % _LOGGED == 0):
            run.log(self.stage, step=number, part=turn.part, **numbers(said))
        shown = _SHOWN.get(self.stage, self.stage)
        # What the last turn gave is kept by the stage itself.
        self.pace(
            functools.partial(self.context.progress, shown, number, self.total),
            None
            if run is None or last
            else functools.partial(run.steps.save, self.index * APART + number, state),
        )


class Learning(Nothing):
    """The turns that train a transcoder are saved as `transcoders.train` saves its own.

    Args:
        context: The inputs of the stage.
        own: The transcoder's folder, or None to keep nothing.
        setting: What was asked for.
        text: The batches of text, for their position.
        total: Turns of the stage.
    """

    def __init__(
        self, context: Context, own: RunFolder | None, setting: Setting, text: Batches, total: int
    ):
        self.context, self.own, self.setting, self.text = context, own, setting, text
        self.total, self.ahead = total, total - setting.steps
        self.pace = Pace(context.save_every)

    def begin(self, done: int) -> None:
        """Drop log lines that will be written again."""
        if self.own is not None:
            self.own.rewind("transcoder", max(done - self.ahead, 0))

    def show(self, done: int) -> None:
        """Report that the training begins."""
        if done < self.total:
            self.context.progress(*self._place(max(done - self.ahead, 0)))

    def after(self, number: int, turn: Turn, state: State, said: Mapping[str, Any]) -> None:
        """Log, report and save; a step that met NaN ends the training.

        Raises:
            TrainingError: If a loss or a gradient was not finite.
        """
        step = number - self.ahead
        if step < 1:
            return
        if not bool(said["finite"]):
            raise TrainingError(f"step {step}", got="NaN or infinity", expected="finite numbers",
                                mend="Try a smaller --train.learning-rate.")  # fmt: skip
        last = number == self.total
        if self.own is not None and (last or step % _LOGGED == 0):
            self.own.log("transcoder", step=step, **numbers(said))
        self.pace(
            functools.partial(self.context.progress, *self._place(step)),
            None if self.own is None else functools.partial(self._save, self.own, step, state),
            last=last,
        )

    def _place(self, step: int) -> tuple[str, int, int]:
        """The stage, and its tokens after a step and in all."""
        a_step = self.setting.config.train.batch_size * self.setting.length
        return "transcoder", step * a_step, self.setting.steps * a_step

    def _save(self, own: RunFolder, step: int, state: State) -> None:
        assert state.learning is not None
        own.write(position_file(step), position_text(self.text, step))
        own.checkpoints.save(step, state.learning.train)


def numbers(said: Mapping[str, jax.Array]) -> dict[str, float]:
    """Read the metrics of the part that acted."""
    return {name: float(value) for name, value in said.items() if float(value)}


def position_file(step: int) -> str:
    """Return the file of the data position after a training step."""
    return f"positions/{step}.json"
