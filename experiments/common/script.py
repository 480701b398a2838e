"""Run a script of `experiments/`, whose command line is a frozen configuration."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro
from rich.console import Console
from rich.markup import escape

from hagd_jax.cli.output import finishing, lost
from hagd_jax.errors import HagdError, MissingDependencyError
from hagd_jax.transcoders.kernels import native

ROOT = Path(__file__).parents[2]
C = TypeVar("C")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Places holds the folders that a script writes to; every script's configuration extends it.

    Attributes:
        results: Folder of the records; the README's tables are made from them.
        runs: Folder of unfinished work, from which a stopped script continues.
    """

    results: Path = ROOT / "experiments" / "results"
    runs: Path = Path("runs") / "experiments"


def run(
    main: Callable[[C], object],
    config: type[C],
    description: str | None,
    *,
    keep_memory: bool = False,
) -> None:
    """Parse the command line and run a script.

    Args:
        main: Function that runs the script with its configuration.
        config: Class of the configuration.
        description: The script's docstring; its first line begins the help.
        keep_memory: Tell the C library to keep freed memory, as `hagd` does.

    Raises:
        SystemExit: If the script raises a typed error, which is printed to standard error.
    """
    if keep_memory:
        native.keep_memory()  # must run before anything touches a device
    try:
        with finishing():
            try:
                given = parse(config, sys.argv[1:], description)
            except OSError as error:  # parsing does nothing with files but print the help
                raise lost(error) from error
            main(given)
    except HagdError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            sys.exit(0)  # whoever read the output has enough, e.g. `head`
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(2)


def parse(config: type[C], argv: Sequence[str], description: str | None = None) -> C:
    """Parse arguments into a configuration.

    Example:
        >>> parse(Places, ["--runs", "elsewhere"]).runs
        PosixPath('elsewhere')
    """
    return tyro.cli(config, args=list(argv), description=(description or "").split("\n")[0])


def need(*packages: str, install: str) -> None:
    """Raise an error if a package that the script needs is not installed.

    Args:
        packages: Names of the modules to import.
        install: Command that installs them.

    Raises:
        MissingDependencyError: If a module cannot be found.

    Example:
        >>> need("numpy", install="pip install numpy")
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"this experiment needs {', '.join(packages)}",
            got=f"no {', '.join(missing)}",
            expected="all of them installed",
            mend=f"Install with: {install}",
        )
