"""What happens after a step of the fused executor: log lines, progress and checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import jax

from hagd_jax.corpus import Batches
from hagd_jax.errors import CheckpointError
from hagd_jax.parallel import agree
from hagd_jax.pipeline.context import Context
from hagd_jax.pipeline.fused.setting import Setting
from hagd_jax.pipeline.fused.state import State
from hagd_jax.pipeline.fused.turns import Turn
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.transcoders.training.state import TrainingError

# Steps between lines of the log.
_LOGGED = 10
# Stages whose progress the staged executor shows under other names.
_SHOWN = {"hierarchy": "graph", "search": "masks"}
# Checkpoints are numbered through all stages; none has so many turns.
APART = 10**9


class Nothing:
    """Turns that are short enough to be taken again."""

    def begin(self, done: int) -> None:
        """Before the first turn that is left."""

    def after(self, number: int, turn: Turn, state: State, said: Mapping[str, Any]) -> None:
        """After turn number `number`, counted from 1."""


class Saving(Nothing):
    """The turns of a stage: their numbers are logged, and the state is saved by the clock.

    Args:
        context: The inputs of the stage.
        stage: Its name.
        index: Its place among the stages.
        total: Its turns.
    """

    def __init__(self, context: Context, stage: str, index: int, total: int):
        self.context, self.stage, self.index, self.total = context, stage, index, total
        self.saved = time.monotonic()

    def begin(self, done: int) -> None:
        """Forget log lines that are written again."""
        if self.context.run is not None:
            self.context.run.rewind(self.stage, done)

    def after(self, number: int, turn: Turn, state: State, said: Mapping[str, Any]) -> None:
        """Log, report and save."""
        run, last = self.context.run, number == self.total
        if run is not None and (last or number % _LOGGED == 0):
            run.log(self.stage, step=number, part=turn.part, **numbers(said))
        self.context.progress(_SHOWN.get(self.stage, self.stage), number, self.total)
        # All processes save together, so one clock decides. What the last turn gave is kept.
        late = time.monotonic() - self.saved >= self.context.save_every
        if run is not None and not last and agree(late):
            run.steps.save(self.index * APART + number, state)
            self.saved = time.monotonic()


class Learning(Nothing):
    """The turns that learn a transcoder, kept as `transcoders.train` keeps its own.

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
        self.saved = time.monotonic()

    def begin(self, done: int) -> None:
        """Forget log lines that are written again."""
        if self.own is not None:
            self.own.rewind("transcoder", max(done - self.ahead, 0))

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
        length, config = self.setting.length, self.setting.config.train
        tokens = min(step * config.batch_size * length, config.tokens)
        self.context.progress("transcoder", tokens, config.tokens)
        late = last or time.monotonic() - self.saved >= self.context.save_every
        if self.own is not None and agree(late):
            assert state.learning is not None
            self.own.write(position_file(step), json.dumps(self.text.state()))
            self.own.checkpoints.save(step, state.learning.train)
            self.saved = time.monotonic()


def numbers(said: Mapping[str, jax.Array]) -> dict[str, float]:
    """The numbers that the part that acted has said."""
    return {name: float(value) for name, value in said.items() if float(value)}


def position_file(step: int) -> str:
    """The file of the position in the data after a training step."""
    return f"positions/{step}.json"


def position(own: RunFolder, step: int) -> dict[str, Any]:
    """The position in the data after a training step.

    Raises:
        CheckpointError: If it was not kept.
    """
    path = own.path / position_file(step)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            str(path), got=str(error), expected="where in the data the checkpoint was taken",
            mend="Begin with --from features.",
        ) from error  # fmt: skip
