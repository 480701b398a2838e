"""Run `hagd extract`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape

from hagd_jax import models, parallel, pipeline, tasks, testbeds
from hagd_jax.cli.output import show
from hagd_jax.cli.prologue import Devices, Session
from hagd_jax.errors import ConfigError
from hagd_jax.files import require_writable
from hagd_jax.pipeline import NAMES, ExtractConfig
from hagd_jax.report import Report, circuit_table, verdict_table
from hagd_jax.report.progress import Bars, Stop, bars, never

_STAGE = "|".join(NAMES)


@dataclasses.dataclass(frozen=True)
class Extract:
    """Find the circuit that carries a behaviour, and test it by intervention.

    Attributes:
        task: Task whose behaviour is explained, such as ioi, capitals, agreement or
            modular-addition; or a benchmark with its file: winogrande, hellaswag, blimp, sva, lre
            or eap, such as blimp:anaphor_gender_agreement.jsonl.
        model: Model to explain: a folder, a .gguf file, a preset such as smollm2-135m, or a hub id.
            For algorithms such as modular-addition, a small transformer is trained if none is
            given.
        out: Folder of the run, runs/TASK by default; an interrupted run continues there.
        overwrite: Discard a run with another configuration in the folder.
        until: Last stage to run; the same command without this flag continues from there.
        begin: First stage to run again. Settings that only this stage and later ones read may have
            changed; results of earlier stages are taken from the run.
        modulus: Modulus of modular arithmetic, if the model is trained here; a larger one has more
            pairs to learn.
        wait: Wait while another process writes to the folder, instead of ending with an error.
        dtype: Dtype of weights and computation: float32, or bfloat16, which halves the memory.
        devices: Devices to run on.
        config: Settings of size, features, scoring, search and judging.
    """

    task: str
    model: str | None = None
    out: Path | None = None
    overwrite: bool = False
    until: Annotated[str, tyro.conf.arg(metavar=_STAGE)] = NAMES[-1]
    begin: Annotated[str | None, tyro.conf.arg(name="from", metavar=_STAGE)] = None
    modulus: int = 53
    wait: bool = False
    dtype: str = "float32"
    devices: Annotated[Devices, tyro.conf.arg(name="")] = Devices()
    config: Annotated[ExtractConfig, tyro.conf.arg(name="")] = ExtractConfig()


def run_extract(command: Extract, line: str = "", stop: Stop = never) -> Report | None:
    """Run `hagd extract`.

    Args:
        command: The parsed arguments.
        line: Command line, for the report.
        stop: Called regularly during the work; raises `Interrupted` to stop it there.

    Returns:
        The report that was written; None if `--until` stopped before the report.
    """
    name = tasks.find(command.task)
    until = pipeline.require_stage(command.until, "--until")
    out = command.out or Path("runs") / name.partition(":")[0]
    require_writable(out)
    session = Session(command.devices, line, stop)
    with pipeline.only_writer(out, wait=command.wait):
        return _extract(command, session, until)


def _extract(command: Extract, session: Session, until: str) -> Report | None:
    """Run the stages, and print the circuit and its verdicts."""
    name, config = tasks.find(command.task), command.config
    out = command.out or Path("runs") / name.partition(":")[0]
    with bars(stop=session.stop) as progress:
        model = _model(command, name, session, progress)
        task = tasks.task(name, model, sizes=config.sizes, seed=config.seed)
        run = pipeline.open_extraction(
            out, model, task, config, overwrite=command.overwrite, begin=command.begin
        )
        if command.model is None and parallel.is_main() and not (run.path / "model").exists():
            models.save(model, run.path / "model")
        if until != NAMES[-1]:
            pipeline.run_until(until, model, task, config, out=run, progress=progress.update)
            return None
        result = pipeline.extract(
            model, task, config, out=run, progress=progress.update, facts=session.facts(model)
        )
        for note in result.notes:
            progress.say(note)
    if parallel.is_main():
        show(verdict_table(result.page))
        judged = result.page.validation
        show(circuit_table(result.circuit, scores=result.scores, found=judged))
        show(f"Report: {escape(str(run.path / 'report.html'))}")
    return result.page


def _model(command: Extract, name: str, session: Session, progress: Bars) -> models.LanguageModel:
    """Load the model that was named, or train a small one on the task's algorithm."""
    if command.model is not None:
        return session.model(command.model, command.dtype)
    algorithm = tasks.small_algorithm(name, p=command.modulus)
    if algorithm is None:
        raise ConfigError("model", expected=f"a model for {name}", mend="Add --model smollm2-135m.")
    reached = 1.0

    def on_step(step: int, total: int, metrics: Mapping[str, float]) -> None:
        nonlocal reached
        reached = metrics["select_accuracy"]
        progress.update("train", step, total)

    model = testbeds.small_model(
        algorithm, seed=command.config.seed, on_step=on_step, mesh=session.mesh, dtype=command.dtype
    )
    progress.finish("train")
    if reached < testbeds.SmallTrainConfig().target:
        progress.say(f"warning: the trained model is right on only {reached:.0%} of unseen inputs")
    return model
