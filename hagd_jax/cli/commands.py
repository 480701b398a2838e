"""Parse the command line of `hagd`, and run its subcommands."""

from __future__ import annotations

import dataclasses
import importlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tyro
from rich.markup import escape

import hagd_jax
from hagd_jax.cli.output import complain, finishing, lost, show
from hagd_jax.errors import HagdError, NoCircuitError
from hagd_jax.report.progress import Stop, never

# Runs a command: (arguments, command line, `stop`).
Act = Callable[[Any, str, Stop], Any]


class Command(NamedTuple):
    """A command is described here, and imported only when it is asked for.

    The imports of all commands take 2 s, which neither `hagd --help` nor a mistyped name should.

    Attributes:
        summary: The first sentence of its help.
        example: A command that runs as it stands, for the end of its help.
        module: Name of its module in this package.
        kind: Name of the class of its arguments there.
        act: Name of the function there that runs it.
    """

    summary: str
    example: str
    module: str
    kind: str
    act: str

    def load(self) -> tuple[type, Act]:
        """Import the class of its arguments and the function that runs it."""
        module = importlib.import_module(f"hagd_jax.cli.{self.module}")
        return getattr(module, self.kind), getattr(module, self.act)

    def outline(self) -> type:
        """Make a class without arguments that stands for it in a list of commands."""
        return dataclasses.make_dataclass(self.kind, (), namespace={"__doc__": self.summary})


COMMANDS = {
    "attribute": Command(
        "Trace which features drive a prompt's next token, and what drives those features.",
        'hagd attribute --model smollm2-135m --prompt "The capital of France is" --out runs/paris',
        "attribute", "Attribute", "run_attribute",
    ),
    "extract": Command(
        "Find the circuit that carries a behaviour, and test it by intervention.",
        "hagd extract --task ioi --model smollm2-135m --units 32 --nodes 20% --out runs/ioi",
        "extract", "Extract", "run_extract",
    ),
    "plan": Command(
        "Plan the memory of a forward pass on each chip of a TPU slice; no TPU is needed.",
        "hagd plan --model llama-70b --topology v5e:8x8 --mesh data=8,model=8",
        "plan", "PlanMemory", "run_plan",
    ),
    "train-transcoder": Command(
        "Train sparse features that replace a model's MLPs (transcoders), and measure them.",
        'hagd train-transcoder --model smollm2-135m --corpus "books/*.txt" --tokens 100000 '
        "--out runs/transcoder",
        "train_transcoder", "TrainTranscoder", "run_train_transcoder",
    ),
    "transfer": Command(
        "Compare the circuits of one task in two models, unit by unit, and with chance.",
        "hagd transfer runs/ioi runs/ioi-again --out runs/transfer",
        "transfer", "Transfer", "run_transfer",
    ),
    "validate": Command(
        "Test the claims about a circuit, under ablations that it was not found with.",
        "hagd validate --circuit runs/ioi/circuit.json --model smollm2-135m",
        "validate", "Validate", "run_validate",
    ),
}  # fmt: skip


def load(argv: Sequence[str]) -> None:
    """Import the command that arguments name, if they name one.

    Args:
        argv: Arguments after `hagd`.
    """
    if argv and argv[0] in COMMANDS:
        COMMANDS[argv[0]].load()


def run(argv: Sequence[str], *, own: bool = False, stop: Stop = never) -> int:
    """Run a command.

    Args:
        argv: Arguments after `hagd`.
        own: Whether this process was started for the command, and ends with it.
        stop: Called at points where work can be saved; raises `Interrupted` to stop there.

    Returns:
        The exit status: 0 for success, 1 if no circuit was found, 2 for other errors.
    """
    name = argv[0] if argv else ""
    kinds = {each: command.outline() for each, command in COMMANDS.items()}
    act: Act = _nothing
    try:
        with finishing():
            if name in COMMANDS:
                kinds[name], act = COMMANDS[name].load()
                if own:
                    _keep_memory()  # must run before anything computes
            try:
                command = tyro.extras.subcommand_cli_from_dict(
                    kinds, prog="hagd", args=argv, description=hagd_jax.__doc__
                )
            except SystemExit as ended:
                if not ended.code:  # the help was asked for
                    show(f"Example: {escape(_example(argv))}")
                raise
            except OSError as error:  # parsing touches no file except to print the help
                raise lost(error) from error
            act(command, shlex.join(["hagd", *argv]), stop)
    except HagdError as error:
        complain(f"[bold red]error:[/] {escape(str(error))}")
        return 1 if isinstance(error, NoCircuitError) else 2
    return 0


def _nothing(command: Any, line: str, stop: Stop) -> None:
    """Do nothing: without a command that exists, parsing ends with a message."""


def _keep_memory() -> None:
    """Keep the memory that this process frees."""
    from hagd_jax.transcoders.kernels import native

    native.keep_memory()


def _example(argv: Sequence[str]) -> str:
    """Return the example of the command whose help is asked for."""
    return COMMANDS[next((word for word in argv if word in COMMANDS), "extract")].example
