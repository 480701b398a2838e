"""`hagd extract`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import jax
import rich
import tyro
from rich.markup import escape

import hagd_jax
from hagd_jax import models, parallel, pipeline, tasks, testbeds, transcoders, units
from hagd_jax.cli.cluster import Cluster
from hagd_jax.cli.train_transcoder import measure, trained
from hagd_jax.corpus import corpus_of_tokens, open_corpus
from hagd_jax.errors import ConfigError
from hagd_jax.pipeline import ExtractConfig, Stage
from hagd_jax.report import Report, circuit_table, page, verdict_table
from hagd_jax.report.progress import Bars, bars
from hagd_jax.units.dictionary import NEURONS

TRANSCODER = "transcoder"
# Twice as many features as the stream is wide, for 1,500 steps; measured on modular addition in
# experiments/transcoders/modular.py.
SMALL_FEATURES = transcoders.TrainConfig(
    features="2x", k=48, batch_size=512, learning_rate=2e-2, decay=0.8
)
_STEPS = 1500


@dataclasses.dataclass(frozen=True)
class Extract:
    """Find the circuit that carries a behaviour, and test it by intervention.

    Attributes:
        task: The behaviour, such as ioi, capitals, agreement or modular-addition; or a benchmark
            with its file, winogrande:dev.jsonl or hellaswag:val.jsonl.
        model: A folder, a .gguf file, a preset such as smollm2-135m, or a hub id. Algorithms, such
            as modular addition, train a small transformer of their own if none is given.
        features: What the nodes inside MLPs are: neurons; a transcoder, as a folder or hub id; or
            "transcoder" to train one first.
        corpus: What it is trained on, see `hagd train-transcoder`; for algorithms, the examples
            that the model was trained on.
        out: Folder of the run; an interrupted run continues there. runs/TASK by default.
        overwrite: Discard what a run with another configuration left in the folder.
        until: Stop after this stage: score, hierarchy, search or judge; the same command without it
            goes on from there.
        begin: Do this stage and those after it again, with what decides them changed or not; what
            came before is taken from the run.
        modulus: Of modular arithmetic, when the model is trained here.
        dtype: Of weights and computation: float32 or bfloat16.
        mesh: Devices to spread over, e.g. data=2,model=4; one device if empty.
        cluster: For runs of several processes.
        config: Size, scoring and judging.
    """

    task: str
    model: str | None = None
    features: str = NEURONS
    corpus: str | None = None
    out: Path | None = None
    overwrite: bool = False
    until: Stage = "judge"
    begin: Annotated[Stage | None, tyro.conf.arg(name="from")] = None
    modulus: int = 53
    dtype: str = "float32"
    mesh: str = ""
    cluster: Cluster = Cluster()
    config: Annotated[ExtractConfig, tyro.conf.arg(name="")] = ExtractConfig()


def run_extract(command: Extract, line: str = "") -> Report | None:
    """`hagd extract`.

    Args:
        command: The parsed arguments.
        line: What the user typed, for the report.

    Returns:
        The report that was written; None if a stage before the last was to be the last.
    """
    command.cluster.start()
    name = tasks.find(command.task)
    began = time.monotonic()
    run = pipeline.open_run(
        command.out or Path("runs") / name.partition(":")[0],
        _decisive(command, name),
        overwrite=command.overwrite,
        begin=command.begin,
    )
    with bars() as progress:
        model = _model(command, name, run, progress)
        nodes = _dictionary(command, name, model, run, progress)
        task = tasks.task(name, model, sizes=command.config.sizes, seed=command.config.seed)
        for note in task.notes:
            progress.say(note)
        if command.until != "judge":
            pipeline.run_until(
                command.until, model, task, command.config, run=run, dictionary=nodes,
                progress=progress.update,
            )  # fmt: skip
            return None
        result = pipeline.extract(
            model, task, command.config, dictionary=nodes, run=run, progress=progress.update
        )
        if not result.report.able and result.report.evidence:
            right = result.report.evidence[0].accuracy[0].value
            progress.say(
                f"warning: the model is right on only {right:.0%} of the test prompts; a circuit "
                "of a behaviour that it lacks means nothing, and the report says so"
            )
    facts = {"command": line, "seconds": f"{time.monotonic() - began:.0f}"}
    report = _report(command, model, nodes, result, facts)
    run.write("report.html", page(report))
    if parallel.is_main():
        rich.print(verdict_table(report))
        rich.print(circuit_table(result.circuit))
        rich.print(f"Look at it: {escape(str(run.path / 'report.html'))}")
    return report


def _decisive(command: Extract, name: str) -> dict:
    """What decides a run's results, as JSON: where it runs and where it writes do not."""
    own = command.model is None and name.startswith("modular")
    source = {"modulus": command.modulus} if own else {}
    return {
        "task": name,
        "model": command.model,
        "features": command.features,
        "corpus": command.corpus,
        "dtype": command.dtype,
        **source,
        "config": dataclasses.asdict(command.config),
        "version": hagd_jax.__version__,
    }


def _model(
    command: Extract, name: str, run: pipeline.RunFolder, progress: Bars
) -> models.LanguageModel:
    mesh = parallel.make_mesh(command.mesh)
    trained = run.path / "model"
    if command.model is not None:
        return models.load(command.model, dtype=command.dtype, mesh=mesh)
    algorithm = tasks.small_algorithm(name, p=command.modulus)
    if algorithm is None:
        raise ConfigError("model", expected=f"a model for {name}", mend="Add --model smollm2-135m.")
    if not parallel.agree(trained.exists()):
        model = _train(algorithm, command.config.seed, run, progress)
        if parallel.is_main():
            models.save(model, trained)
        parallel.sync("model saved")
    model = models.load(trained, dtype=command.dtype, mesh=mesh)
    return model.replace(name=algorithm.model_name)


def _train(
    algorithm: tasks.Algorithm, seed: int, run: pipeline.RunFolder, progress: Bars
) -> models.LanguageModel:
    reached = 0.0

    def on_step(step: int, total: int, metrics: Mapping[str, float]) -> None:
        nonlocal reached
        reached = metrics["select_accuracy"]
        progress.update("train", step, total)
        run.log("train", step=step, **metrics)

    run.rewind("train", 0)
    model = testbeds.train_small(algorithm, seed=seed, on_step=on_step)
    progress.finish("train")
    if reached < testbeds.SmallTrainConfig().target:
        progress.say(f"warning: the trained model is right on only {reached:.0%} of unseen inputs")
    return model


def _dictionary(
    command: Extract,
    name: str,
    model: models.LanguageModel,
    run: pipeline.RunFolder,
    progress: Bars,
) -> units.Dictionary:
    """The nodes that `--features` names, for the model of this run."""
    if command.features == NEURONS:
        return units.neurons(model)
    if command.features == TRANSCODER:
        return units.as_dictionary(model, _features(command, name, model, run, progress))
    found = transcoders.load(command.features, mesh=model.mesh, model=model, dtype=command.dtype)
    return units.as_dictionary(model, found)


def _features(
    command: Extract,
    name: str,
    model: models.LanguageModel,
    run: pipeline.RunFolder,
    progress: Bars,
) -> transcoders.Transcoder:
    """A transcoder trained for this run, in a folder of its own within it."""
    config, algorithm = transcoders.TrainConfig(), tasks.algorithm_of(name, model)
    if algorithm is not None:
        tokens = _STEPS * SMALL_FEATURES.batch_size * algorithm.width
        config = dataclasses.replace(SMALL_FEATURES, tokens=tokens)
    if command.corpus is not None:
        corpus = open_corpus(command.corpus, model, progress=progress.update)
    elif algorithm is not None:
        seen, _ = algorithm.table("train", testbeds.MOST_EXAMPLES)
        corpus = corpus_of_tokens("what the model was trained on", seen, model)
    else:
        raise ConfigError(
            "corpus",
            expected="text to train a transcoder on",
            mend='Add --corpus "books/*.txt", or train one with `hagd train-transcoder` first.',
        )
    config = dataclasses.replace(config, seed=command.config.seed)
    own = pipeline.open_run(run.path / "features", dataclasses.asdict(config))
    transcoder = trained(model, corpus, config, own, progress)
    found = measure(model, transcoder, corpus, own, progress, 128)
    progress.say(
        f"features explain {1 - found.mean_fvu:.1%} of what MLPs write on held-out text, "
        f"{sum(found.l0) / len(found.l0):.0f} at a time"
    )
    return transcoder


def _report(
    command: Extract,
    model: models.LanguageModel,
    nodes: units.Dictionary,
    result: pipeline.Result,
    facts: dict[str, str],
) -> Report:
    facts = facts | {
        "description": result.task.description,
        "model": f"{model.name}, {command.dtype}",
        "task": result.task.name,
        "dictionary": f"{result.circuit.dictionary}, {nodes.about}",
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "versions": f"hagd_jax {hagd_jax.__version__}, jax {jax.__version__}",
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    return Report(
        title=f"{result.task.name} in {model.name}",
        circuit=result.circuit,
        validation=result.report,
        scores=result.scores,
        curve=result.curve,
        texts=result.task.texts["test"],
        facts=facts,
    )
