"""Run `hagd train-transcoder`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape

import hagd_jax
from hagd_jax import models, parallel, pipeline, transcoders
from hagd_jax.cli.output import show
from hagd_jax.cli.prologue import Devices, Session
from hagd_jax.corpus import Corpus, CorpusConfig, open_corpus
from hagd_jax.errors import ConfigError
from hagd_jax.report.progress import Bars, Stop, bars, never
from hagd_jax.transcoders import TrainConfig, Transcoder


@dataclasses.dataclass(frozen=True)
class TrainTranscoder:
    """Train sparse features that replace a model's MLPs (transcoders), and measure them.

    Attributes:
        model: Model whose MLPs are imitated: a folder, a .gguf file, a preset such as smollm2-135m,
            or a hub id.
        corpus: Text to train on: files ("books/*.txt"), hf:OWNER/NAME, task:NAME, or self for text
            that the model generates.
        out: Folder of the run; an interrupted run continues there.
        overwrite: Discard a run with another configuration in the folder.
        wait: Wait while another process writes to the folder, instead of ending with an error.
        evaluate: Number of held-out sequences to measure on; more give more precise measures and
            take more time.
        contexts: Number of top activating contexts to keep for each feature; 0 for none.
        save_every: Seconds between checkpoints; with larger values an interruption loses more work.
        model_dtype: Dtype of the model's weights and computation: float32, or bfloat16, which
            halves their memory; --dtype is that of the transcoder's products.
        devices: Devices to run on.
        text: Settings of the corpus: sequence length and held-out share.
        config: Settings of the transcoder and its training.
    """

    model: str
    corpus: str
    out: Path = Path("runs/transcoder")
    overwrite: bool = False
    wait: bool = False
    evaluate: int = 128
    contexts: int = 10
    save_every: float = 60.0
    model_dtype: str = "float32"
    devices: Annotated[Devices, tyro.conf.arg(name="")] = Devices()
    text: CorpusConfig = CorpusConfig()
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig()

    def __post_init__(self):
        for field, least in (("evaluate", 1), ("contexts", 0)):
            if getattr(self, field) < least:
                raise ConfigError(field, got=getattr(self, field), expected=f"{least} or more")


def run_train_transcoder(
    command: TrainTranscoder, line: str = "", stop: Stop = never
) -> Transcoder:
    """Run `hagd train-transcoder`.

    Args:
        command: The parsed arguments.
        line: Command line, for the report.
        stop: Called regularly during the work; raises `Interrupted` to stop it there.

    Returns:
        The transcoder, which was also saved in the run's folder.
    """
    session = Session(command.devices, line, stop)
    run = pipeline.open_run(
        command.out, _decisive(command), overwrite=command.overwrite, wait=command.wait
    )
    with bars(stop=session.stop) as progress:
        model = session.model(command.model, command.model_dtype)
        corpus = open_corpus(command.corpus, model, command.text, progress=progress.update)
        transcoder = pipeline.trained(
            model, corpus, command.config, run, progress=progress.update,
            save_every=command.save_every,
        )  # fmt: skip
        found = pipeline.measured(
            model, transcoder, corpus, run, command.evaluate, progress=progress.update
        )
        contexts = _contexts(command, model, transcoder, corpus, run, progress)
    facts = session.facts(model, corpus=f"{corpus.name} ({corpus.fingerprint})")
    # The plotting modules take a third of a second to import, so they are imported late.
    from hagd_jax.report.transcoder_page import TranscoderReport, transcoder_page

    report = TranscoderReport.of_run(run.path, transcoder, model, found, contexts, facts)
    run.write("report.html", transcoder_page(report))
    if parallel.is_main():
        show(found.table())
        show(f"Transcoder: {escape(str(run.path / 'transcoder'))}")
        show(f"Report: {escape(str(run.path / 'report.html'))}")
    return transcoder


def _contexts(
    command: TrainTranscoder,
    model: models.LanguageModel,
    transcoder: Transcoder,
    corpus: Corpus,
    run: pipeline.RunFolder,
    progress: Bars,
) -> transcoders.Contexts | None:
    """Find and save the top contexts of all features; None if none were asked for."""
    if not command.contexts:
        return None
    batches = corpus.held_out_batches(command.evaluate)
    progress.update("contexts", 0, len(batches))
    found = transcoders.top_contexts(
        transcoder, model, batches, per_feature=command.contexts, effects=10,
        progress=lambda n: progress.update("contexts", n, len(batches)),
    )  # fmt: skip
    transcoders.save_contexts(found, run.path / "contexts")
    return found


def _decisive(command: TrainTranscoder) -> dict:
    """Return the settings that decide a run's results, as JSON; without devices and folders."""
    return {
        "model": command.model,
        "corpus": command.corpus,
        "model_dtype": command.model_dtype,
        "text": dataclasses.asdict(command.text),
        "config": dataclasses.asdict(command.config),
        "version": hagd_jax.__version__,
    }
