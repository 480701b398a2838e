"""Stage 1: the nodes inside MLPs. A transcoder may be learned for the run."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import NamedTuple

from hagd_jax import parallel, transcoders, units
from hagd_jax.brief import one_line
from hagd_jax.corpus import Corpus, corpus_of_tokens, open_corpus
from hagd_jax.corpus.rows import Rows
from hagd_jax.errors import ConfigError
from hagd_jax.files import require_sealed
from hagd_jax.models import LanguageModel
from hagd_jax.pipeline.config import TRANSCODER, Progress
from hagd_jax.pipeline.context import Context, Left, silent
from hagd_jax.pipeline.opening import open_run
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.tasks import Algorithm, Seen, algorithm_of, look
from hagd_jax.testbeds import MOST_EXAMPLES
from hagd_jax.transcoders import Evaluation, TrainConfig, Transcoder
from hagd_jax.units import Dictionary, as_dictionary
from hagd_jax.units.dictionary import MLPS, NEURONS

# Twice as many features as the stream is wide, for 1,500 steps; measured on modular addition in
# experiments/transcoders/modular.py.
SMALL_FEATURES = TrainConfig(features="2x", k=48, batch_size=512, learning_rate=2e-2, decay=0.8)
_STEPS = 1500
# Held-out sequences that a transcoder is measured on.
_MEASURED = 128
# What a run's transcoder is called.
_FOLDER = "transcoder"


class Basis(NamedTuple):
    """A basis is the dictionary that the search selects nodes from.

    Attributes:
        nodes: The dictionary of the nodes inside MLPs.
        evaluation: Measures of the transcoder on held-out text, if it was learned for the run.
        seen: The task, the model and the dictionary, by name and digest.
    """

    nodes: Dictionary
    evaluation: Evaluation | None
    seen: Seen

    __repr__ = one_line


def looks(context: Context, left: Left) -> Seen:
    """Return an empty record, as this stage reads none of the task's prompts."""
    return Seen.nothing()


def features(context: Context, left: Left) -> Basis:
    """Load or train the dictionary that the configuration names.

    Raises:
        ConfigError: If a transcoder is to be learned and there is no text.
        InputError: If the dictionary is one for another model.
    """
    model, named, evaluation = context.model, context.config.features, None
    if context.dictionary is not None or named == NEURONS:
        nodes = as_dictionary(model, context.dictionary)
    elif named == MLPS:
        nodes = units.blocks(model)
    elif named == TRANSCODER:
        transcoder, evaluation = _learned(context)
        nodes = as_dictionary(model, transcoder)
    else:
        dtype = model.config.dtype
        found = transcoders.load(named, mesh=model.mesh, model=model, dtype=dtype)
        nodes = as_dictionary(model, found)
        units.warn_of_nothing(model, nodes)
    return basis_of(context, nodes, evaluation)


def basis_of(context: Context, nodes: Dictionary, evaluation: Evaluation | None) -> Basis:
    """Make a basis from nodes and their source."""
    seen = look(task=context.task.name, model=context.model, dictionary=nodes)
    return Basis(nodes, evaluation, seen)


def width(context: Context) -> int | None:
    """Return the nodes inside each MLP before any work; None for a transcoder not loaded yet."""
    model, named = context.model, context.config.features
    if context.dictionary is not None or named == NEURONS:
        return as_dictionary(model, context.dictionary).space.features
    if named == MLPS:
        return units.blocks(model).space.features
    if named == TRANSCODER:
        return train_config(context).transcoder(model.config).n_features
    return None


def train_config(context: Context) -> TrainConfig:
    """Configure the transcoder of a run; its seed is the sum of both seeds."""
    config, algorithm = context.config.train, _algorithm(context)
    if algorithm is not None and config == TrainConfig():
        # A small algorithm has fewer inputs than a batch; as many steps are taken all the same.
        rows = _examples(context, algorithm).train
        assert isinstance(rows, Rows)
        size = min(SMALL_FEATURES.batch_size, len(rows))
        tokens = _STEPS * size * algorithm.width
        config = dataclasses.replace(SMALL_FEATURES, tokens=tokens, batch_size=size)
    return dataclasses.replace(config, seed=config.seed + context.config.seed)


def require_text(context: Context) -> None:
    """Refuse to train a transcoder without text.

    Raises:
        ConfigError: If there is none.
    """
    if context.corpus is None and context.config.corpus is None and _algorithm(context) is None:
        raise ConfigError(
            "corpus",
            got="none",
            expected="text to train a transcoder on",
            mend='Add --corpus "books/*.txt", or train one with `hagd train-transcoder` first.',
        )


def text_of(context: Context) -> Corpus:
    """Open the text that the transcoder of a run is trained on.

    Raises:
        ConfigError: If there is none.
    """
    require_text(context)
    if context.corpus is not None:
        return context.corpus
    if context.config.corpus is not None:
        return open_corpus(context.config.corpus, context.model, progress=context.progress)
    algorithm = _algorithm(context)
    assert algorithm is not None
    return _examples(context, algorithm)


def _examples(context: Context, algorithm: Algorithm) -> Corpus:
    rows, _ = algorithm.table("train", MOST_EXAMPLES)
    return corpus_of_tokens("what the model was trained on", rows, context.model)


def _algorithm(context: Context) -> Algorithm | None:
    return algorithm_of(context.task.name, context.model)


def features_run(context: Context) -> RunFolder | None:
    """Open the folder within the run's that holds the transcoder's training."""
    if context.run is None:
        return None
    about = {"run": context.run.decides("features")}
    return open_run(
        context.run.path / "features", dataclasses.asdict(train_config(context)) | about
    )


def _learned(context: Context) -> tuple[Transcoder, Evaluation]:
    """A transcoder trained for this run."""
    model, corpus, own = context.model, text_of(context), features_run(context)
    transcoder = trained(model, corpus, train_config(context), own, progress=context.progress)
    return transcoder, measured_here(context, corpus, transcoder, own)


def measured_here(
    context: Context, corpus: Corpus, transcoder: Transcoder, own: RunFolder | None
) -> Evaluation:
    """Read the held-out measures of a transcoder that was trained for a run."""
    progress = context.progress
    return measured(context.model, transcoder, corpus, own, _MEASURED, progress=progress)


def trained(
    model: LanguageModel,
    corpus: Corpus,
    config: TrainConfig,
    run: RunFolder | None,
    *,
    progress: Progress = silent,
    save_every: float = 60.0,
) -> Transcoder:
    """Train the transcoder of a run, or load it if that was done.

    Args:
        model: The model.
        corpus: Text to train on.
        config: How it is trained.
        run: The run's folder, which keeps it as `transcoder/`; None to keep nothing.
        progress: Called with ("transcoder", tokens done, tokens in all).
        save_every: Seconds between checkpoints.

    Returns:
        The transcoder, as its folder gives it back.
    """
    if run is not None and run.has(_FOLDER):
        found = run.whole(_FOLDER, functools.partial(_read, run, model))
        if found is not None:
            return found
        run.forget([_FOLDER])
    made = transcoders.train(model, corpus, config, run=run, progress=progress,
                             save_every=save_every)  # fmt: skip
    if run is None:
        return made
    transcoders.save(made, run.path / _FOLDER, model_name=model.name, of=run.decides(_FOLDER))
    parallel.sync("transcoder saved")
    return _read(run, model)


def _read(run: RunFolder, model: LanguageModel) -> Transcoder:
    """The transcoder that a run has kept.

    Raises:
        DamagedError: If its files are no longer those that were written.
    """
    folder = run.path / _FOLDER
    require_sealed(folder, run.decides(_FOLDER))
    return transcoders.load(folder, mesh=model.mesh, model=model)


def measured(
    model: LanguageModel,
    transcoder: Transcoder,
    corpus: Corpus,
    run: RunFolder | None,
    sequences: int,
    *,
    progress: Progress = silent,
) -> Evaluation:
    """Measure a transcoder on held-out text, and keep the result as `evaluation.json`.

    Args:
        model: The model.
        transcoder: A transcoder of it.
        corpus: Its held-out part is read.
        run: Where the result is kept; None to keep nothing.
        sequences: How many sequences are read, if the corpus holds so many.
        progress: Called with ("evaluate", batches done, batches in all).

    Returns:
        The measures.
    """
    batches = corpus.held_out_batches(sequences)
    progress("evaluate", 0, len(batches))
    found = transcoders.measure(
        transcoder, model, batches, progress=lambda n: progress("evaluate", n, len(batches))
    )
    if run is not None:
        run.write("evaluation.json", json.dumps(found.to_json(), indent=1) + "\n")
    return found
