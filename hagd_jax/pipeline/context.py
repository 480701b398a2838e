"""The inputs of every stage, the results of the stages before it, and what a stage is."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from hagd_jax.brief import one_line
from hagd_jax.causal.ablation import resampled
from hagd_jax.corpus import Corpus
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.pipeline.config import ExtractConfig, Progress
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.tasks import Prompts, Seen, Task
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Dictionary


def silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""


@dataclasses.dataclass(frozen=True)
class Context:
    """The context holds the inputs of an extraction, the same for every stage.

    Attributes:
        model: The model, on any mesh.
        task: The behaviour.
        config: The configuration.
        dictionary: The nodes inside MLPs, if they are given instead of named in the configuration.
        corpus: Text that a transcoder is learned from, if it is given.
        run: The run's folder, or None to keep nothing.
        finding: The fields of the configuration that decide the circuit, as JSON values.
        progress: Called with (stage, steps done, steps in all).
        facts: Provenance for the page: name → value.
        save_every: Seconds between checkpoints.
        began: When the extraction began, in seconds of the monotonic clock.
    """

    model: LanguageModel
    task: Task
    config: ExtractConfig
    dictionary: Dictionary | Transcoder | None = None
    corpus: Corpus | None = None
    run: RunFolder | None = None
    finding: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    progress: Progress = silent
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    save_every: float = 10.0
    began: float = dataclasses.field(default_factory=time.monotonic)

    __repr__ = one_line

    @functools.cached_property
    def searched(self) -> Task:
        """Return the task as finders read it.

        A search over units under resample and not under counterfactual ablation, with its repair
        and pruning, reads no counterfactual at all, so that the judge can decide under it:
        gradients are taken on the way from the partner that resampling gives each prompt. Where a
        partner is shorter than its prompt, there is no such way, and counterfactuals are read.
        """
        config, under = self.config, self.config.unit_ablations
        if config.search != "units" or "counterfactual" in under or "resample" not in under:
            return self.task
        try:
            made, shorter = resampled(self.model, self.task.splits["discover"], None, config.seed)
        except InputError:  # a prompt has no partner that this model can read
            return self.task
        if shorter:
            return self.task
        return dataclasses.replace(self.task, splits={**self.task.splits, "discover": made})

    @property
    def baseline(self) -> str:
        """Return the ablation whose values gradients are taken on the way from."""
        return "counterfactual" if self.searched is self.task else "resample"

    @property
    def discover(self) -> Prompts:
        """Return the prompts that circuits are found on."""
        return self.searched.splits["discover"]

    @property
    def scored(self) -> Prompts:
        """Return the prompts that scores are averaged over."""
        return self.discover[: self.config.score_prompts]

    def log(self, stage: str, **values: Any) -> None:
        """Append a line to the run's log, if there is a run."""
        if self.run is not None:
            self.run.log(stage, **values)

    def log_once(self, stage: str, **values: Any) -> None:
        """Append a line, replacing what an interrupted run logged from this stage on."""
        if self.run is not None:
            self.run.rewind(stage, -1)
            self.run.log(stage, **values)


@dataclasses.dataclass(frozen=True)
class Left:
    """The results of finished stages are passed on to later stages.

    Attributes:
        values: Stage → its result.
        seen: All data that those results were chosen by looking at.
    """

    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seen: Seen = dataclasses.field(default_factory=Seen.nothing)

    __repr__ = one_line

    def __getitem__(self, stage: str) -> Any:
        return self.values[stage]

    def seeing(self, seen: Seen) -> Left:
        """Return the same results with more data added to what they have seen."""
        return Left(self.values, self.seen | seen)

    def after(self, stage: str, value: Any) -> Left:
        """Add the result of a stage and the data it has seen."""
        seen = getattr(value, "seen", Seen.nothing())
        return Left({**self.values, stage: value}, self.seen | seen)


def nothing_kept(context: Context, left: Left) -> None:
    """Return None for a stage whose result is recomputed each time."""


def keep_nothing(run: RunFolder, value: Any) -> None:
    """Keep nothing for a stage that saves its result by itself, or not at all."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage is one step of the method, as a value.

    Attributes:
        name: Its name, for `--until`, `--from` and the log.
        reads: Fields of `ExtractConfig` that decide its result and that of no earlier stage.
        leaves: Files and folders that it writes into the run's folder.
        looks: (context, results of earlier stages) → the data that decide its result.
        make: (context, results of earlier stages) → its result; an interrupted one goes on from
            its checkpoint.
        keep: (run, result) → None, which writes the result into the run's folder.
        kept: (context, results of earlier stages) → the result that the folder holds, or None.
    """

    name: str
    reads: tuple[str, ...]
    leaves: tuple[str, ...]
    looks: Callable[[Context, Left], Seen]
    make: Callable[[Context, Left], Any]
    keep: Callable[[RunFolder, Any], None] = keep_nothing
    kept: Callable[[Context, Left], Any] = nothing_kept

    __repr__ = one_line
