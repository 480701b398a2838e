"""Run `hagd transfer`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

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
        models: Both models: folders, .gguf files, presets or hub ids. By default the models that
            runs trained, or those of the names that they keep.
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
    circuits = {path: _circuit(path) for path in paths}
    _require_tasks(command, circuits)
    pair = (command.first, command.second)
    sources = command.models or tuple(_model(path) for path in pair)
    weights = tuple(_record(path).get("weights") for path in pair)
    require_writable(command.out)
    session = Session(command.devices, line, stop)
    with pipeline.only_writer(command.out, wait=command.wait):
        return _transfer(command, session, circuits, list(zip(sources, weights, strict=True)))


def _transfer(
    command: Transfer,
    session: Session,
    circuits: dict[Path, Circuit],
    sources: list[tuple[str, Any]],
) -> Comparison:
    """Measure the circuits of the first model, then those of the second, and compare them."""
    several = 2 + len(command.others) + len(command.twice) + command.random + command.permuted
    with bars(stop=session.stop) as progress:
        bench = _Bench(command, progress, several)
        model = _loaded(session, sources[0], command.dtype)
        own = digest(model)
        first = bench.measured(model, circuits[command.first])
        model = _loaded(session, sources[1], command.dtype)
        circuit = circuits[command.second]
        second = bench.measured(model, circuit)
        nulls = {
            OTHERS: [bench.measured(model, circuits[path]) for path in command.others],
            RANDOM: [bench.measured(model, circuit, seed) for seed in range(command.random)],
        }
        if command.permuted:
            nulls[PERMUTED] = [bench.measured(permuted(model), circuit)]
        again = [bench.measured(model, circuits[path]) for path in command.twice]
    if digest(model) == own:
        show("Both circuits are of one model: their similarity is a ceiling.")
    found = transfer.compare(
        first, second, command.match,
        nulls={name: some for name, some in nulls.items() if some},
        twice=[(second, other) for other in again], control=command.control,
    )  # fmt: skip
    if parallel.is_main():
        # The templates take a third of a second to import, so they are imported late.
        from hagd_jax.report.transfer_page import transfer_page

        record = found.to_json() | {"command": session.line}
        write_atomic(command.out / "transfer.json",
                     json.dumps(record, indent=1, allow_nan=False) + "\n")  # fmt: skip
        page = command.out / "transfer.html"
        config = {
            name: dataclasses.asdict(getattr(command, name)) for name in ("portrait", "match")
        }
        write_atomic(page, transfer_page(found, session.facts(), config))
        show(compared_table(found))
        show(f"Report: {escape(str(page))}")
    return found


@dataclasses.dataclass
class _Bench:
    """It measures circuits, and keeps what it measured in the folder of the comparison."""

    command: Transfer
    progress: Bars
    several: int
    done: int = 0
    usual: dict[str, transfer.Population] = dataclasses.field(default_factory=dict)

    def measured(self, model: LanguageModel, circuit: Circuit, seed: int | None = None) -> Portrait:
        """The portrait of a circuit, or with a seed that of a random one like it."""
        self.progress.update("portrait", self.done, self.several)
        config = self.command.portrait
        key = [circuit.to_json(), digest(model), repr(config), repr(self.command.sizes), seed]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        found = _kept(self.command.out / "portraits" / f"{name}.safetensors",
                      lambda: self._measured(model, circuit, seed))  # fmt: skip
        self.done += 1
        self.progress.update("portrait", self.done, self.several)
        return found

    def _measured(self, model: LanguageModel, circuit: Circuit, seed: int | None) -> Portrait:
        name = tasks.find(require_name(circuit.task))
        task = tasks.task(name, model, sizes=self.command.sizes, seed=self.command.portrait.seed)
        units: Any = circuit
        if seed is not None:
            units = transfer.lookalikes(neurons(model).space, circuit.units, seed)
        at = f"{digest(model)} {name}"
        if at not in self.usual:
            self.usual[at] = transfer.population(model, task, self.command.portrait)
        return transfer.portrait(model, task, units, self.command.portrait, among=self.usual[at])


def _kept(path: Path, make: Callable[[], Portrait]) -> Portrait:
    """Read a portrait that was measured before, or measure it."""
    if path.exists():
        try:
            return transfer.load_portrait(path)
        except CheckpointError as error:
            show(f"{escape(str(error))} It is measured again.")
    found = make()
    if parallel.is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        transfer.save_portrait(found, path)
    return found


def _circuit(path: Path) -> Circuit:
    """The circuit of a run, or of a file; one of units that have signatures."""
    found = Circuit.load(path / "circuit.json" if path.is_dir() else path)
    if found.dictionary != NEURONS or not len(found):
        raise InputError(
            f"circuit {named(path)}", got=f"{len(found)} units of {quoted(found.dictionary)}",
            expected="one or more of whole heads and neurons",
            mend="Signatures exist for these, and for units made of them.",
        )  # fmt: skip
    return found


def _record(path: Path) -> dict[str, Any]:
    """What a run says of itself; nothing where a circuit's file stands alone."""
    config = (path if path.is_dir() else path.parent) / "config.json"
    return read_json_object(config) if config.exists() else {}


def _model(path: Path) -> str:
    """Where the model of a run is: what it trained, a folder or a preset of the name it keeps."""
    folder = path if path.is_dir() else path.parent
    if (folder / "model").is_dir():
        return str(folder / "model")
    found = _record(path).get("model")
    if isinstance(found, str) and (found in models.presets() or Path(found).exists()):
        return found
    raise InputError(
        f"model of {named(path)}", got=f"the name {quoted(found)}" if found else "no name",
        expected="one that a preset, a folder or a file has",
        mend="Say where the models are with --models FIRST SECOND.",
    )  # fmt: skip


def _loaded(session: Session, known: tuple[str, Any], dtype: str) -> LanguageModel:
    """Load the model of a run, and refuse other weights than those that the run names."""
    source, weights = known
    found = session.model(source, dtype)
    if isinstance(weights, str) and dtype == "float32" and digest(found) != weights:
        raise InputError(f"model {source}", got=f"weights {digest(found)}",
                         expected=f"those of the run, {quoted(weights)}",
                         mend="Say where the models are with --models FIRST SECOND.")  # fmt: skip
    return found


def _require_tasks(command: Transfer, circuits: dict[Path, Circuit]) -> None:
    """Refuse circuits of another task where they should be of one, and the other way round."""
    own = circuits[command.second].task
    same = [*command.twice, *(() if command.control else (command.first,))]
    for path in same:
        if circuits[path].task != own:
            raise InputError(
                f"circuit {named(path)}", got=f"one of {quoted(circuits[path].task)}",
                expected=f"one of {quoted(own)}, as the second circuit",
                mend="Circuits of other tasks are a null (--others); --control compares them.",
            )  # fmt: skip
    for path in command.others:
        if circuits[path].task == own:
            raise InputError(f"circuit {named(path)}", got=f"one of {quoted(own)}",
                             expected="one of another task",
                             mend="The same task's belong to --twice.")  # fmt: skip
