"""One training, fixed before its first step, and where it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hagd_jax.brief import one_line
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import Checkpoints
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.training.train_config import TrainConfig


class Run(Protocol):
    """A run keeps the checkpoints and the log of a training, e.g. a `pipeline.RunFolder`.

    Attributes:
        path: The folder.
        checkpoints: Numbered states in it.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def checkpoints(self) -> Checkpoints: ...  # noqa: D102
    def log(self, stage: str, **values: Any) -> None: ...  # noqa: D102
    def rewind(self, stage: str, step: int) -> None: ...  # noqa: D102


class Setup(NamedTuple):
    """A setup is one training, fixed before its first step.

    Attributes:
        model: Without tokenizer and name.
        config: The transcoder.
        train: How it is trained.
        steps: How many.
        length: Tokens in a sequence.
    """

    model: LanguageModel
    config: TranscoderConfig
    train: TrainConfig
    steps: int
    length: int

    __repr__ = one_line

    def through(self, done: int) -> bool:
        """Tell whether the step after `done` trains through the model."""
        return done >= self.steps - round(self.train.through * self.steps)
