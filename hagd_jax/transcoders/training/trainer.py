"""Train a transcoder from a corpus: resumable at any moment, and the same as if never stopped."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.corpus import Batch, Batches, Corpus
from hagd_jax.errors import (
    CheckpointError,
    ConfigError,
    require_index,
    require_is,
    require_list,
    require_number,
)
from hagd_jax.files import write_atomic
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import Checkpoints, agree, batch_parts, is_main, sync, to_global
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.training.activations import estimate
from hagd_jax.transcoders.training.losses import Terms
from hagd_jax.transcoders.training.normalise import Normalisation
from hagd_jax.transcoders.training.state import (
    Metrics,
    TrainingError,
    TrainState,
    finish,
    init_state,
)
from hagd_jax.transcoders.training.step import step
from hagd_jax.transcoders.training.train_config import TrainConfig
from hagd_jax.transcoders.transcoder import Transcoder

Progress = Callable[[str, int, int], None]
Watch = Callable[[int, Callable[[], Transcoder]], None]


class Run(Protocol):
    """Where a training keeps its checkpoints and its log, e.g. a `pipeline.RunFolder`.

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
    """One training, fixed before its first step.

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
        """Whether the step after `done` trains through the model."""
        return done >= self.steps - round(self.train.through * self.steps)


def train(
    model: LanguageModel,
    corpus: Corpus,
    config: TrainConfig = TrainConfig(),
    *,
    run: Run | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    on_metrics: Callable[[Metrics], None] | None = None,
    save_every: float = 60.0,
) -> Transcoder:
    """Train a transcoder to imitate a model's MLPs.

    Args:
        model: The model, on any mesh; the transcoder lies on the same.
        corpus: Text to train on; its held-out part is never looked at.
        config: What the transcoder looks like and how it is trained.
        run: Where to log and to keep checkpoints; an interrupted training continues there, and
            ends with the same bits as one that was not interrupted.
        progress: Called with ("transcoder", tokens done, tokens in all).
        watch: Called after each step with (tokens done, a function that returns the transcoder
            as it is now).
        on_metrics: Called after each step with its metrics, still on the devices.
        save_every: Seconds between checkpoints; the last step is always saved.

    Returns:
        The transcoder; its means and scales are folded into its weights.

    Raises:
        ConfigError: If the configuration does not fit the model, the corpus or the mesh.
        InputError: If `model`, `corpus` or `config` is something else.
        TrainingError: If a loss or a gradient is not finite; the message names the layer.
        CheckpointError: If the run cannot be continued, or a checkpoint cannot be written; the
            last good one is kept.

    Example:
        >>> corpus = open_corpus("books/*.txt", model)
        >>> transcoder = train(model, corpus, TrainConfig(features="8x", k=32))
    """
    require_is("model", model, LanguageModel)
    require_is("corpus", corpus, Corpus)
    require_is("config", config, TrainConfig)
    require_number("save_every", save_every, least=0)
    setup = _setup(model, corpus, config)
    share = (jax.process_index(), jax.process_count())
    batches = corpus.batches(config.batch_size, seed=config.seed, share=share)
    begun, state = _begin(setup, batches, run)
    name = f"{model.name}-transcoder"
    if progress is not None:
        progress("transcoder", begun * config.batch_size * setup.length, config.tokens)
    clock = _Clock(setup, run, save_every)
    for done in range(begun, setup.steps):
        state, metrics = _step(setup, state, next(batches), done)
        clock.tick(done + 1, state, metrics, batches)
        tokens = (done + 1) * config.batch_size * setup.length
        if progress is not None:
            progress("transcoder", min(tokens, config.tokens), config.tokens)
        if on_metrics is not None:
            on_metrics(metrics)
        if watch is not None:
            watch(tokens, lambda: finish(state, setup.config, mesh=model.mesh, name=name))  # noqa: B023
    return finish(state, setup.config, mesh=model.mesh, name=name)


def _setup(model: LanguageModel, corpus: Corpus, config: TrainConfig) -> Setup:
    transcoder = config.transcoder(model.config)
    parts = batch_parts(model.mesh)
    if (config.batch_size // config.accumulate) % parts:
        raise ConfigError(
            "batch_size",
            got=f"{config.batch_size} in {config.accumulate} parts",
            expected=f"a multiple of {parts}, among which the mesh splits every part",
        )
    if parts * model.config.n_layers and "model" in (model.mesh.shape if model.mesh else {}):
        shards = model.mesh.shape["model"]  # type: ignore[union-attr]
        if transcoder.n_features % shards:
            raise ConfigError(
                "features", got=transcoder.n_features, expected=f"a multiple of model={shards}"
            )
    length = corpus.train.layout.length
    return Setup(model.bare(), transcoder, config, config.steps(length), length)


def _step(setup: Setup, state: TrainState, batch: Batch, done: int) -> tuple[TrainState, Metrics]:
    tokens, weight = to_global(setup.model.mesh, tuple(batch))
    return step(
        state, setup.model, tokens, weight,
        config=setup.config, train=setup.train, steps=setup.steps, through=setup.through(done),
    )  # fmt: skip


def _begin(setup: Setup, batches: Batches, run: Run | None) -> tuple[int, TrainState]:
    """Where a run was interrupted, or its first state."""
    mesh = setup.model.mesh
    blank = init_state(setup.config, setup.train, Normalisation.identity(setup.config), mesh=mesh)
    saved = run.checkpoints.latest(blank) if run else None
    if run is not None:
        run.rewind("transcoder", saved[0] if saved else 0)
    if saved is not None:
        assert run is not None
        batches.restore(_read_position(run, saved[0]))
        return saved
    some = itertools.islice(batches, setup.train.estimate)
    return 0, blank.replace(stats=estimate(setup.model, some, setup.config))


class _Clock:
    """What happens now and then: metrics a step late, checkpoints by the clock."""

    def __init__(self, setup: Setup, run: Run | None, save_every: float):
        self.setup, self.run, self.save_every = setup, run, save_every
        self.began = self.saved = time.monotonic()
        self.waiting: tuple[int, Metrics] | None = None
        self.first = 0

    def tick(self, done: int, state: TrainState, metrics: Metrics, batches: Batches) -> None:
        """After step number `done`."""
        self.first = self.first or done - 1
        # The step before is done by now, so that reading it does not hold this one up.
        self._report()
        self.waiting = done, metrics
        last = done == self.setup.steps
        due = last or time.monotonic() - self.saved >= self.save_every
        if self.run is not None and agree(due):
            self._report()
            self._save(done, state, batches)
        elif last:
            self._report()

    def _report(self) -> None:
        if self.waiting is None:
            return
        done, metrics = self.waiting
        self.waiting = None
        if self.run is not None:
            seconds = time.monotonic() - self.began
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
        try:
            if is_main():
                write_atomic(_position(self.run, done), json.dumps(batches.state()))
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
        self.saved = time.monotonic()


def summary(metrics: Metrics) -> dict[str, Any]:
    """A step's metrics as plain numbers, for a log.

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


def _read_position(run: Run, step: int) -> dict[str, Any]:
    file = _position(run, step)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            str(file),
            got=str(error),
            expected="where in the data the checkpoint was taken",
            mend="Start again in a new folder.",
        ) from error


def _forget_positions(run: Run) -> None:
    kept = set(map(str, run.checkpoints.steps()))
    for file in (run.path / "positions").glob("*.json"):
        if file.stem not in kept:
            file.unlink(missing_ok=True)


def watch_at(points: list[int], then: Callable[[int, Transcoder], None]) -> Watch:
    """A `watch` that looks only when a number of tokens is first reached.

    Args:
        points: Numbers of tokens.
        then: Called with (tokens done, the transcoder).

    Returns:
        For `train`.

    Raises:
        InputError: If a point is no whole number.
    """
    numbers = require_list("points", points, "numbers of tokens")
    left = sorted(require_index("points", point) for point in numbers)

    def look(tokens: int, transcoder: Callable[[], Transcoder]) -> None:
        due = [point for point in left if point <= tokens]
        if due:
            del left[: len(due)]
            then(tokens, transcoder())

    return look
