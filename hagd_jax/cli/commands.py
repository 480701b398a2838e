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
from hagd_jax.cli.output import complain, finishing, lost
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
                    kinds, args=argv, description=hagd_jax.__doc__
                )
            except OSError as error:  # parsing touches no file except to print the help
                raise lost(error) from error
            act = next(act for kind, act in COMMANDS.values() if type(command) is kind)
            act(command, shlex.join(["hagd", *argv]), stop)
    except HagdError as error:
        complain(f"[bold red]error:[/] {escape(str(error))}")
        return 1 if isinstance(error, NoCircuitError) else 2
    return 0
