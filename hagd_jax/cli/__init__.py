"""The `hagd` command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape

from hagd_jax.cli.attribute import Attribute, run_attribute
from hagd_jax.cli.extract import Extract, run_extract
from hagd_jax.cli.plan import PlanMemory, run_plan
from hagd_jax.cli.train_transcoder import TrainTranscoder, run_train_transcoder
from hagd_jax.cli.validate import Validate, run_validate
from hagd_jax.errors import HagdError, NoCircuitError
from hagd_jax.transcoders.kernels import native

# Name → its arguments, and what runs them: (arguments, what the user typed) → anything.
COMMANDS: dict[str, tuple[type, Callable[[Any, str], Any]]] = {
    "attribute": (Attribute, run_attribute),
    "extract": (Extract, run_extract),
    "plan": (PlanMemory, run_plan),
    "train-transcoder": (TrainTranscoder, run_train_transcoder),
    "validate": (Validate, run_validate),
}

__all__ = [
    "COMMANDS",
    "Attribute",
    "Extract",
    "PlanMemory",
    "TrainTranscoder",
    "Validate",
    "main",
    "run_attribute",
    "run_extract",
    "run_plan",
    "run_train_transcoder",
    "run_validate",
]


def main(argv: list[str] | None = None) -> None:
    """Run the `hagd` command.

    Args:
        argv: Arguments; those of the process if None, which is then this command's own.
    """
    console = Console(stderr=True)
    if argv is None:
        argv = sys.argv[1:]
        native.keep_memory()  # before anything computes; the process ends with the command
    kinds = {name: kind for name, (kind, _) in COMMANDS.items()}
    try:
        command = tyro.extras.subcommand_cli_from_dict(kinds, args=argv, description=__doc__)
        run = next(run for kind, run in COMMANDS.values() if type(command) is kind)
        run(command, shlex.join(["hagd", *argv]))
    except HagdError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1 if isinstance(error, NoCircuitError) else 2)
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues where it stopped")
        sys.exit(130)
