"""What `hagd` can do."""

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

# Name → its arguments, and what runs them: (arguments, what the user typed, `stop`) → anything.
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
        argv: What stands behind `hagd`.
        own: Whether the process is the command's own, and ends with it.
        stop: Called where work can be saved; raises `Interrupted` if it should stop there.

    Returns:
        The exit status.
    """
    if own:
        native.keep_memory()  # before anything computes
    kinds = {name: kind for name, (kind, _) in COMMANDS.items()}
    try:
        with finishing():
            try:
                command = tyro.extras.subcommand_cli_from_dict(
                    kinds, args=argv, description=hagd_jax.__doc__
                )
            except OSError as error:  # parsing does nothing with files but print the help
                raise lost(error) from error
            act = next(act for kind, act in COMMANDS.values() if type(command) is kind)
            act(command, shlex.join(["hagd", *argv]), stop)
    except HagdError as error:
        complain(f"[bold red]error:[/] {escape(str(error))}")
        return 1 if isinstance(error, NoCircuitError) else 2
    return 0
