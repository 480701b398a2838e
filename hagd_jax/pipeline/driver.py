"""Run the composed step to its end: batches, checkpoints, progress."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from hagd_jax import meta
from hagd_jax.corpus import Corpus
from hagd_jax.errors import ConfigError
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import agree
from hagd_jax.pipeline.composed import init, step
from hagd_jax.pipeline.config import Progress
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.pipeline.step_parts import State, StepBatch
from hagd_jax.pipeline.step_plan import StepConfig, plan
from hagd_jax.tasks import Task
from hagd_jax.tasks.batching import batch_rows, padded_batches
from hagd_jax.transcoders import training as tc
from hagd_jax.units import Source, directed

_PHASES = ("train", "attribute", "coarsen", "search")


def run_steps(
    model: LanguageModel,
    task: Task,
    config: StepConfig,
    *,
    corpus: Corpus | None = None,
    dictionary: Source | None = None,
    run: RunFolder | None = None,
    progress: Progress | None = None,
    save_every: float = 30.0,
    log_every: int = 10,
) -> State:
    """All steps of the composed method.

    Args:
        model: The model, on any mesh.
        task: The behaviour; its discover split is read.
        config: What is asked for.
        corpus: For the transcoder, if one is trained.
        dictionary: What the nodes inside MLPs are, if none is trained; neurons by default.
        run: Where to log and to keep checkpoints, in its folder `steps/`; an interrupted run goes
            on there, and ends with the same bits.
        progress: Called with ("steps", done, total).
        save_every: Seconds between checkpoints; the last step is always saved.
        log_every: Steps between lines of the log.

    Returns:
        The state after the last step.

    Raises:
        ConfigError: If a transcoder shall be trained without a corpus.
        CheckpointError: If the run cannot be continued.

    Example:
        >>> state = run_steps(model, task, StepConfig(nodes=64))
        >>> pipeline.circuits(state, model)[64]
    """
    if config.train is not None and corpus is None:
        raise ConfigError("corpus", got="none", expected="text to train the transcoder on")
    nodes = None
    if config.train is None:
        nodes = directed(model, dictionary).bare()
        config = dataclasses.replace(config, features=nodes.space.features)
    learner = meta.load() if config.prior == "learner" else None
    state = init(model, config)
    saved = run.steps.latest(state) if run else None
    if run is not None:
        run.rewind("steps", saved[0] if saved else 0)
    begun, state = saved or (0, _normalised(state, model, config, corpus))
    rows, bare, clock = plan(config, model.config), model.bare(), time.monotonic()
    for done, batch in zip(
        range(begun, config.steps), _batches(model, task, config, corpus, begun), strict=False
    ):
        state, metrics = step(state, bare, batch, nodes, learner)
        last = done + 1 == config.steps
        if run is not None and (last or (done + 1) % log_every == 0):
            phase = [name for name in _PHASES if getattr(rows, name)[done]]
            said = {name: float(value) for name, value in metrics.items() if float(value)}
            run.log("steps", step=done + 1, phase=phase, **said)
        if progress is not None:
            progress("steps", done + 1, config.steps)
        # All processes save together, so one clock decides.
        if run is not None and agree(last or time.monotonic() - clock >= save_every):
            run.steps.save(done + 1, state)
            clock = time.monotonic()
    return state


def _normalised(
    state: State, model: LanguageModel, config: StepConfig, corpus: Corpus | None
) -> State:
    """How a transcoder's activations are normalised, from some batches."""
    if config.train is None or corpus is None:
        return state
    batches = corpus.batches(config.train.batch_size, seed=config.train.seed)
    some = itertools.islice(batches, config.train.estimate)
    stats = tc.estimate(model.bare(), some, config.train.transcoder(model.config))
    trained = state.transcoder.replace(stats=stats)
    return state.replace(transcoder=trained)  # type: ignore[attr-defined]


def _batches(
    model: LanguageModel, task: Task, config: StepConfig, corpus: Corpus | None, begun: int
) -> Iterator[StepBatch]:
    """What each step from `begun` on reads: of the task by its number, of the corpus in order."""
    prompts = task.splits["discover"]
    rows = batch_rows(len(prompts), config.masks.batch_size, model.mesh)
    text = None
    if config.train is not None and corpus is not None:
        batches = corpus.batches(config.train.batch_size, seed=config.train.seed)
        text = itertools.islice(batches, begun, None)
    nothing = np.zeros((rows, 2), np.int32), np.zeros((rows, 2), np.float32)
    for number in range(begun, config.steps):
        chosen = np.random.default_rng([config.seed, number]).integers(0, len(prompts), rows)
        ((own, _),) = padded_batches(model, prompts[chosen], rows)
        tokens, weight = nothing if text is None else next(text)
        yield StepBatch(jnp.asarray(tokens), jnp.asarray(weight), own)
