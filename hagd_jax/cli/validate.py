"""Run `hagd validate`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape

from hagd_jax import parallel, pipeline, tasks
from hagd_jax.brief import quoted
from hagd_jax.causal import (
    Circuit,
    ValidateConfig,
    ValidationReport,
    load_circuit,
    validate,
)
from hagd_jax.causal.circuit_file import require_name
from hagd_jax.causal.trials import AnyCircuit
from hagd_jax.cli.output import show
from hagd_jax.cli.prologue import Devices, Session
from hagd_jax.errors import InputError
from hagd_jax.files import require_writable, write_atomic
from hagd_jax.models import LanguageModel
from hagd_jax.models.digest import digest
from hagd_jax.report.claims_table import claims_table
from hagd_jax.report.progress import Stop, bars, never
from hagd_jax.report.table import circuit_table
from hagd_jax.tasks import Sizes
from hagd_jax.units import load_tree
from hagd_jax.units.dictionary import MLPS, NEURONS, whole_label


@dataclasses.dataclass(frozen=True)
class Validate:
    """Test the claims about a circuit, under ablations that it was not found with.

    Attributes:
        circuit: File with the circuit: circuit.json, as written by `hagd extract`.
        model: Model that the circuit was found in: a folder, a .gguf file, a preset, or a hub id.
        task: Task to test on; the circuit's own by default. Benchmarks need their file, such as
            winogrande:dev.jsonl.
        tree: File with the tree that the circuit's units are of. Circuits with clusters need it, so
            that random circuits have clusters, too.
        features: Nodes inside MLPs: neurons, or the features of a transcoder (a folder or hub id).
        keep_error: Whether a transcoder's reconstruction error is part of every circuit.
        out: File for the verdicts, with a page beside it; by default validation.json beside the
            circuit.
        wait: Wait while another process writes the file, instead of ending with an error.
        others: Other tasks of the model, which should not depend on the circuit (specificity).
        again: Circuits found with other seeds or prompts, which should be the same (stability).
        sizes: Number of prompts in each split.
        dtype: Dtype of weights and computation: float32, or bfloat16, which halves the memory.
        devices: Devices to run on.
        config: Settings of the tests.
    """

    circuit: Path
    model: str
    task: str = ""
    tree: Path | None = None
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
    """Run `hagd validate`.

    Args:
        command: The parsed arguments.
        line: Command line, for the record.
        stop: Called regularly during the work; raises `Interrupted` to stop it there.

    Returns:
        The report, which was also saved.
    """
    session = Session(command.devices, line, stop)
    out = command.out or command.circuit.with_name("validation.json")
    circuits = [load_circuit(path) for path in (command.circuit, *command.again)]
    if command.tree is not None:
        circuits[0] = _on(circuits[0], command)
    require_writable(out.parent)
    with pipeline.only_writer(out, wait=command.wait, file=True):
        return _validate(command, session, circuits, out)


def _validate(
    command: Validate, session: Session, circuits: list[AnyCircuit], out: Path
) -> ValidationReport:
    """Test the first circuit, compare it with the others, and write the verdicts."""
    circuit, *again = circuits
    name = tasks.find(command.task or require_name(circuit.task))
    model = _known_as(session.model(command.model, command.dtype), circuit)
    label = whole_label(getattr(circuit, "dictionary", ""))
    mlps = command.features == NEURONS and label == MLPS
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

        progress.update("judge", 0, len(command.config.ablations))
        report = validate(
            model, circuit, task, command.config, dictionary=nodes, others=others, again=again,
            progress=tell,
        )  # fmt: skip
    if parallel.is_main():
        # The plotting modules take a third of a second to import, so they are imported late.
        from hagd_jax.report.validation_page import validation_page

        record = report.to_json() | {"command": session.line}
        write_atomic(out, json.dumps(record, indent=1, allow_nan=False) + "\n")
        facts = session.facts(model, circuit=str(command.circuit))
        look = out.with_suffix(".html")
        write_atomic(look, validation_page(report, facts))
        show(claims_table(report))
        if isinstance(circuit, Circuit):
            show(circuit_table(circuit, found=report))
        show(f"Report: {escape(str(look))}")
    return report


def _on(circuit: AnyCircuit, command: Validate) -> Circuit:
    """The circuit with the tree that was given."""
    assert command.tree is not None
    if not isinstance(circuit, Circuit) or circuit.grouping is None:
        raise InputError("--tree", got=quoted(str(command.tree)), expected="none: the circuit in "
                         f"{quoted(str(command.circuit))} has no units of a tree",
                         mend="Leave --tree out.")  # fmt: skip
    return circuit.on(load_tree(command.tree))


def _known_as(model: LanguageModel, circuit: AnyCircuit) -> LanguageModel:
    """The model under the name that the circuit knows it by, if that one has the same weights."""
    if model.name == circuit.model:
        return model
    if f"{circuit.model}#{digest(model)}" in circuit.seen.models:
        return model.replace(name=circuit.model)
    show(escape(f"note: circuit found in {circuit.model!r}, but tested in {model.name!r}"))
    return model
