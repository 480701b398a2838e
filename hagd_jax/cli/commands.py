"""Parse the command line of `hagd`, and run its subcommands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from rich.markup import escape

import hagd_jax
from hagd_jax.cli.attribute import Attribute, run_attribute
from hagd_jax.cli.extract import Extract, run_extract
from hagd_jax.cli.output import complain, finishing, lost, show
from hagd_jax.cli.plan import PlanMemory, run_plan
from hagd_jax.cli.train_transcoder import TrainTranscoder, run_train_transcoder
from hagd_jax.cli.validate import Validate, run_validate
from hagd_jax.errors import HagdError, NoCircuitError
from hagd_jax.report.progress import Stop, never
from hagd_jax.transcoders.kernels import native

# Name → class of the arguments, and the function (arguments, command line, `stop`) that runs them.
COMMANDS: dict[str, tuple[type, Callable[[Any, str, Stop], Any]]] = {
    "attribute": (Attribute, run_attribute),
    "extract": (Extract, run_extract),
    "plan": (PlanMemory, run_plan),
    "train-transcoder": (TrainTranscoder, run_train_transcoder),
    "validate": (Validate, run_validate),
}

# Name → a command that runs as it stands, for the end of its help.
EXAMPLES = {
    "attribute": 'hagd attribute --model smollm2-135m --prompt "The capital of France is" '
    "--out runs/paris",
    "extract": "hagd extract --task ioi --model smollm2-135m --nodes 10% --out runs/ioi",
    "plan": "hagd plan --model llama-70b --topology v5e:8x8 --mesh data=8,model=8",
    "train-transcoder": 'hagd train-transcoder --model smollm2-135m --corpus "books/*.txt" '
    "--tokens 100000 --out runs/transcoder",
    "validate": "hagd validate --circuit runs/ioi/circuit.json --model smollm2-135m",
}


def run(argv: Sequence[str], *, own: bool = False, stop: Stop = never) -> int:
    """Run a command.

    Args:
        argv: Arguments after `hagd`.
        own: Whether this process was started for the command, and ends with it.
        stop: Called at points where work can be saved; raises `Interrupted` to stop there.

    Returns:
        The exit status: 0 for success, 1 if no circuit was found, 2 for other errors.
    """
    if own:
        native.keep_memory()  # must run before anything computes
    kinds = {name: kind for name, (kind, _) in COMMANDS.items()}
    try:
        with finishing():
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
            act = next(act for kind, act in COMMANDS.values() if type(command) is kind)
            act(command, shlex.join(["hagd", *argv]), stop)
    except HagdError as error:
        complain(f"[bold red]error:[/] {escape(str(error))}")
        return 1 if isinstance(error, NoCircuitError) else 2
    return 0


def _example(argv: Sequence[str]) -> str:
    """Return the example of the command whose help is asked for."""
    return EXAMPLES[next((word for word in argv if word in EXAMPLES), "extract")]
