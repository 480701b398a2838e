"""Train a transcoder from a corpus: resumable at any moment, and the same as if never stopped."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable

import jax

from hagd_jax.corpus import Batch, Batches, Corpus
from hagd_jax.errors import (
    ConfigError,
    DamagedError,
    require_index,
    require_is,
    require_list,
    require_number,
)
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import batch_parts, to_global
from hagd_jax.transcoders.training.activations import estimate
from hagd_jax.transcoders.training.normalise import Normalisation
from hagd_jax.transcoders.training.record import Clock, read_position
from hagd_jax.transcoders.training.setup import Run, Setup
from hagd_jax.transcoders.training.state import (
    Metrics,
    TrainState,
    finish,
    init_state,
)
from hagd_jax.transcoders.training.step import step
from hagd_jax.transcoders.training.train_config import TrainConfig
from hagd_jax.transcoders.transcoder import Transcoder

LOG = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]
Watch = Callable[[int, Callable[[], Transcoder]], None]


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
        >>> from hagd_jax import corpus
        >>> model = hagd.testbeds.hand_built()[0].model
        >>> text = corpus.corpus_of_tokens("pairs", np.array([[0, 1], [0, 2]]), model)
        >>> config = TrainConfig(features="2x", k=4, tokens=2, batch_size=1, estimate=1)
        >>> train(model, text, config).config.n_features
        24
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
    clock = Clock(setup, run, save_every)
    for done in range(begun, setup.steps):
        state, metrics = _step(setup, state, next(batches), done)
        tokens = (done + 1) * config.batch_size * setup.length
        report = progress and functools.partial(
            progress, "transcoder", min(tokens, config.tokens), config.tokens
        )
        clock.tick(done + 1, state, metrics, batches, report)
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
    saved = _saved(run, blank, batches) if run else None
    if run is not None:
        run.rewind("transcoder", saved[0] if saved else 0)
    if saved is not None:
        return saved
    some = itertools.islice(batches, setup.train.estimate)
    return 0, blank.replace(stats=estimate(setup.model, some, setup.config))


def _saved(run: Run, blank: TrainState, batches: Batches) -> tuple[int, TrainState] | None:
    """The last checkpoint that is whole, with its position in the data; damaged ones are removed.

    In a cluster every process reads the same files, and comes to the same step.
    """
    while (saved := run.checkpoints.latest(blank)) is not None:
        try:
            batches.restore(read_position(run, saved[0]))
        except DamagedError as error:
            LOG.warning("a checkpoint without its position is removed: %s", error)
            run.checkpoints.discard(saved[0])
        else:
            return saved
    return None


def watch_at(points: list[int], then: Callable[[int, Transcoder], None]) -> Watch:
    """Make a `watch` that is called only when a number of tokens is first reached.

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
