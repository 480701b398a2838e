"""`hagd validate`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape

from hagd_jax import parallel, pipeline, tasks
from hagd_jax.causal import (
    Circuit,
    EdgeCircuit,
    ValidateConfig,
    ValidationReport,
    load_circuit,
    validate,
)
from hagd_jax.cli.output import show
from hagd_jax.cli.prologue import Devices, Session
from hagd_jax.files import require_writable, write_atomic
from hagd_jax.report.claims_table import claims_table
from hagd_jax.report.progress import Stop, bars, never
from hagd_jax.tasks import Sizes
from hagd_jax.units.dictionary import MLPS, NEURONS


@dataclasses.dataclass(frozen=True)
class Validate:
    """Test what is claimed of a circuit, under ablations that it was not found with.

    Attributes:
        circuit: A circuit.json, as `hagd extract` writes.
        model: The one it was found in: a folder, a .gguf file, a preset, or a hub id.
        task: The behaviour; the circuit's own by default. Benchmarks with their file.
        features: What the nodes inside MLPs are: neurons, or a transcoder as a folder or hub id.
        keep_error: Whether what a transcoder leaves unexplained stays in every circuit.
        out: File for the verdicts, and beside it a page; validation.json beside the circuit by
            default.
        wait: Wait while another process writes there, instead of ending at once.
        others: Other tasks of the model, which should not need the circuit.
        again: Circuits found with other seeds or prompts, which should be the same.
        sizes: Prompts in each split.
        dtype: Of weights and computation: float32 or bfloat16.
        devices: The devices to run on.
        config: How hard it is tested.
    """

    circuit: Path
    model: str
    task: str = ""
    features: str = NEURONS
    keep_error: bool = True
    out: Path | None = None
    wait: bool = False
    others: tuple[str, ...] = ()
    again: tuple[Path, ...] = ()
    sizes: Sizes = Sizes()
    dtype: str = "float32"
    devices: Annotated[Devices, tyro.conf.arg(name="")] = Devices()
    config: Annotated[ValidateConfig, tyro.conf.arg(name="")] = ValidateConfig()


def run_validate(command: Validate, line: str = "", stop: Stop = never) -> ValidationReport:
    """`hagd validate`.

    Args:
        command: The parsed arguments.
        line: What the user typed, for the record.
        stop: Called as the work goes on; raises `Interrupted` if it should stop there.

    Returns:
        The report, which was also saved.
    """
    session = Session(command.devices, line, stop)
    out = command.out or command.circuit.with_name("validation.json")
    circuits = [load_circuit(path) for path in (command.circuit, *command.again)]
    require_writable(out.parent)
    with pipeline.only_writer(out, wait=command.wait, file=True):
        return _validate(command, session, circuits, out)


def _validate(
    command: Validate, session: Session, circuits: list[Circuit | EdgeCircuit], out: Path
) -> ValidationReport:
    """Test the first circuit, beside the others, and write what was found."""
    circuit, *again = circuits
    name = tasks.find(command.task or circuit.task)
    model = session.model(command.model, command.dtype)
    if model.name != circuit.model:
        show(escape(f"note: found in {circuit.model!r}, tested in {model.name!r}"))
    mlps = command.features == NEURONS and getattr(circuit, "dictionary", "") == MLPS
    features = MLPS if mlps else command.features
    nodes = session.dictionary(model, features, keep_error=command.keep_error)
    task, *others = (
        tasks.task(each, model, sizes=command.sizes, seed=command.config.seed)
        for each in (name, *map(tasks.find, command.others))
    )
    for note in task.notes:
        show(escape(note))
    done: list[str] = []
    with bars(stop=session.stop) as progress:

        def tell(ablation: str) -> None:
            done.append(ablation)
            progress.update("judge", len(done), len(command.config.ablations))

        report = validate(
            model, circuit, task, command.config, dictionary=nodes, others=others, again=again,
            progress=tell,
        )  # fmt: skip
    if parallel.is_main():
        # Drawing takes a third of a second to import.
        from hagd_jax.report.validation_page import validation_page

        record = report.to_json() | {"command": session.line}
        write_atomic(out, json.dumps(record, indent=1, allow_nan=False) + "\n")
        facts = session.facts(model, circuit=str(command.circuit))
        look = out.with_suffix(".html")
        write_atomic(look, validation_page(report, facts))
        show(claims_table(report))
        show(f"Look at it: {escape(str(look))}")
    return report
