"""Run `hagd transfer`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.markup import escape

from hagd_jax import models, parallel, pipeline, tasks, transfer
from hagd_jax.brief import quoted
from hagd_jax.causal import Circuit
from hagd_jax.causal.circuit_file import require_name
from hagd_jax.causal.negative import permuted
from hagd_jax.cli.output import show
from hagd_jax.cli.prologue import Devices, Session
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import named, read_json_object, require_writable, write_atomic
from hagd_jax.models import LanguageModel
from hagd_jax.models.digest import digest
from hagd_jax.report.compared import compared_table
from hagd_jax.report.progress import Bars, Stop, bars, never
from hagd_jax.tasks import Sizes
from hagd_jax.transfer import Comparison, MatchConfig, Portrait, PortraitConfig
from hagd_jax.transfer.compare import OTHERS, PERMUTED, RANDOM
from hagd_jax.transfer.transport import solver
from hagd_jax.units import neurons
from hagd_jax.units.dictionary import NEURONS


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Compare the circuits of one task in two models, unit by unit, and with chance.

    Attributes:
        first: Run folder of `hagd extract`, or the circuit.json of one.
        second: The same task's, usually in another model.
        models: Both models: folders, .gguf files, presets or hub ids. By default a run's own model,
            where it trained one, or what has the name that it keeps.
        task: Task of both circuits, where their files do not say which: benchmarks need their file,
            such as winogrande:dev.jsonl.
        others: Runs of other tasks in the second model, which should resemble the first circuit
            less: the hardest null.
        twice: Further runs of the task in the second model, which should resemble the second
            circuit more: the ceiling.
        random: Number of random circuits of the second model, of the second circuit's kinds, sizes
            and layers.
        permuted: Whether the second circuit's units are also measured in the second model with its
            weights permuted.
        control: Whether the circuits may be of different tasks.
        out: Folder for the report; measured circuits are kept there, too.
        wait: Wait while another process writes there, instead of ending with an error.
        sizes: Number of prompts in each split.
        dtype: Dtype of weights and computation: float32, or bfloat16, which halves the memory.
        devices: Devices to run on.
        portrait: How units, and the edges between them, are measured.
        match: How they are matched.
    """

    first: tyro.conf.Positional[Path]
    second: tyro.conf.Positional[Path]
    models: tuple[str, ...] = ()
    task: str = ""
    others: tuple[Path, ...] = ()
    twice: tuple[Path, ...] = ()
    random: int = 0
    permuted: bool = False
    control: bool = False
    out: Path = Path("runs/transfer")
    wait: bool = False
    sizes: Sizes = Sizes()
    dtype: str = "float32"
    devices: Annotated[Devices, tyro.conf.arg(name="")] = Devices()
    portrait: PortraitConfig = PortraitConfig()
    match: MatchConfig = MatchConfig()


def run_transfer(command: Transfer, line: str = "", stop: Stop = never) -> Comparison:
    """Run `hagd transfer`.

    Args:
        command: The parsed arguments.
        line: Command line, for the record.
        stop: Called regularly during the work; raises `Interrupted` to stop it there.

    Returns:
        The comparison, which was also saved.
    """
    if len(command.models) not in (0, 2):
        raise InputError("models", got=f"{len(command.models)}", expected="both, or neither",
                         mend="Pass --models FIRST SECOND.")  # fmt: skip
    if command.random < 0:
        raise InputError("random", got=command.random, expected="0 circuits or more")
    solver()
    paths = (command.first, command.second, *command.others, *command.twice)
    runs = {path: _run(path) for path in paths}
    _require_tasks(command, runs)
    names = {run.circuit.task: _task(command, run, runs[command.second]) for run in runs.values()}
    sources = command.models or tuple(_model(runs[path]) for path in paths[:2])
    require_writable(command.out)
    session = Session(command.devices, line, stop)
    with pipeline.only_writer(command.out, wait=command.wait):
        require_writable(command.out / "portraits")
        return _transfer(command, session, runs, _Bench(command, names, sources, len(paths)))


def _transfer(
    command: Transfer, session: Session, runs: dict[Path, _Run], bench: _Bench
) -> Comparison:
    """Measure the circuits of the first model, then those of the second, and compare them."""
    with bars(stop=session.stop) as progress:
        bench.progress = progress
        model = bench.loaded(session, 0, [runs[command.first]])
        one, first = digest(model), bench.measured(model, runs[command.first].circuit)
        rest = (command.second, *command.others, *command.twice)
        model = bench.loaded(session, 1, [runs[path] for path in rest])
        circuit = runs[command.second].circuit
        second, *several = (bench.measured(model, runs[path].circuit) for path in rest)
        cut = len(command.others)
        nulls = {
            OTHERS: several[:cut],
            RANDOM: [bench.measured(model, circuit, seed) for seed in range(command.random)],
        }
        if command.permuted:
            nulls[PERMUTED] = [bench.measured(permuted(model), circuit)]
        if digest(model) == one and not command.control:
            progress.say("Both circuits are of one model.")
        found = transfer.compare(
            first, second, command.match,
            nulls={name: some for name, some in nulls.items() if some},
            twice=[(second, other) for other in several[cut:]], control=command.control,
            progress=lambda done, total: progress.update("match", done, total),
        )  # fmt: skip
    if parallel.is_main():
        _write(command, session, found)
    return found


def _write(command: Transfer, session: Session, found: Comparison) -> None:
    """Write the record and the page, and print the table."""
    # The templates take a third of a second to import, so they are imported late.
    from hagd_jax.report.transfer_page import transfer_page

    record = found.to_json() | {"command": session.line}
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_atomic(command.out / "transfer.json", text)
    config = {name: dataclasses.asdict(getattr(command, name)) for name in ("portrait", "match")}
    page = command.out / "transfer.html"
    write_atomic(page, transfer_page(found, session.facts(), config))
    show(compared_table(found))
    show(f"Report: {escape(str(page))}")


class _Run(NamedTuple):
    """A run that was named: its circuit, and what it says of its model."""

    path: Path
    circuit: Circuit
    own: Path | None
    model: Any
    weights: Any
    dtype: Any


@dataclasses.dataclass
class _Bench:
    """It loads models and measures circuits, and keeps what it measured."""

    command: Transfer
    tasks: dict[str, str]
    sources: tuple[str, ...]
    several: int
    progress: Bars | None = None
    done: int = 0
    usual: dict[str, transfer.Population] = dataclasses.field(default_factory=dict)

    def loaded(self, session: Session, which: int, runs: list[_Run]) -> LanguageModel:
        """Load a model, and refuse other weights than those of the runs."""
        dtype = self.command.dtype
        found = session.model(self.sources[which], dtype)
        for run in runs:
            if not isinstance(run.weights, str):
                continue
            if run.dtype != dtype:
                show(f"The weights of {escape(named(run.path))} are not compared with the model's: "
                     f"the run had {escape(quoted(run.dtype))}, not {dtype}.")  # fmt: skip
            elif digest(found) != run.weights:
                raise InputError(
                    f"run {named(run.path)}", got=f"a model with the weights {quoted(run.weights)}",
                    expected=f"{digest(found)}, those of {self.sources[which]}",
                    mend="Name the model of the run with --models FIRST SECOND; the runs of "
                    "--others and --twice are of the second.",
                )  # fmt: skip
        return found

    def measured(self, model: LanguageModel, circuit: Circuit, seed: int | None = None) -> Portrait:
        """The portrait of a circuit, or with a seed that of a random one like it."""
        several = self.several + self.command.random + self.command.permuted
        assert self.progress is not None
        self.progress.update("portrait", self.done, several)
        units = circuit.units
        if seed is not None:
            units = transfer.lookalikes(neurons(model).space, units, seed)
        config, task = self.command.portrait, self.tasks[circuit.task]
        key = [circuit.to_json(), digest(model), repr(config), repr(self.command.sizes), task, seed]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        path = self.command.out / "portraits" / f"{name}.safetensors"
        found = _kept(path)
        if found is None or (found.units, found.model) != (units, model.name):
            found = self._measured(model, circuit if seed is None else units, task)
            if parallel.is_main():
                transfer.save_portrait(found, path)
        self.done += 1
        self.progress.update("portrait", self.done, several)
        return found

    def _measured(self, model: LanguageModel, circuit: Any, name: str) -> Portrait:
        config = self.command.portrait
        task = tasks.task(name, model, sizes=self.command.sizes, seed=config.seed)
        at = f"{digest(model)} {name}"
        if at not in self.usual:
            self.usual[at] = transfer.population(model, task, config)
        return transfer.portrait(model, task, circuit, config, among=self.usual[at])


def _kept(path: Path) -> Portrait | None:
    """Read a portrait that was measured before."""
    if not parallel.agree(path.exists()):
        return None
    try:
        return transfer.load_portrait(path)
    except CheckpointError as error:
        show(f"{escape(str(error))} It is measured again.")
        return None


def _run(path: Path) -> _Run:
    """A run's circuit, of units that have signatures, and what its config.json says."""
    folder = path if _exists(path) and path.is_dir() else path.parent
    circuit = Circuit.load(path / "circuit.json" if folder == path else path)
    if circuit.dictionary != NEURONS or not len(circuit):
        raise InputError(
            f"circuit {named(path)}", got=f"{len(circuit)} units of {quoted(circuit.dictionary)}",
            expected="one or more of whole heads and neurons",
            mend="Signatures exist for these, and for units made of them.",
        )  # fmt: skip
    config, own = folder / "config.json", folder / "model"
    record = read_json_object(config) if config.exists() else {}
    return _Run(path, circuit, own if own.is_dir() else None, record.get("model"),
                record.get("weights"), record.get("dtype", "float32"))  # fmt: skip


def _exists(path: Path) -> bool:
    """Tell whether there is such a path, also of names that are too long for one."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _model(run: _Run) -> str:
    """Where the model of a run is: what it trained, or what has the name that it keeps."""
    if run.own is not None:
        return str(run.own)
    found = run.model
    if isinstance(found, str) and found and (found in models.presets() or _exists(Path(found))):
        return found
    raise InputError(
        f"model of {named(run.path)}", got=f"the name {quoted(found)}" if found else "no name",
        expected="one that a preset, a folder or a file has",
        mend="Say where the models are with --models FIRST SECOND.",
    )  # fmt: skip


def _task(command: Transfer, run: _Run, second: _Run) -> str:
    """The task of a run: its own, or for runs of the second's task the one that was named."""
    own = run.circuit.task
    if command.task and own in (second.circuit.task, ""):
        return tasks.find(command.task)
    if not own:
        raise InputError(f"circuit {named(run.path)}", got="no task", expected="one",
                         mend="Say which task is meant, as --task NAME.")  # fmt: skip
    return tasks.find(require_name(own))


def _require_tasks(command: Transfer, runs: dict[Path, _Run]) -> None:
    """Refuse circuits of another task where they should be of one, and the other way round."""
    own = runs[command.second].circuit.task
    same = [*command.twice, *(() if command.control else (command.first,))]
    for path in same:
        if runs[path].circuit.task != own:
            raise InputError(
                f"circuit {named(path)}", got=f"one of {quoted(runs[path].circuit.task)}",
                expected=f"one of {quoted(own)}, as the second circuit",
                mend="Circuits of other tasks are a null (--others); --control compares them.",
            )  # fmt: skip
    for path in command.others:
        if runs[path].circuit.task == own:
            raise InputError(f"circuit {named(path)}", got=f"one of {quoted(own)}",
                             expected="one of another task",
                             mend="The same task's belong to --twice.")  # fmt: skip
