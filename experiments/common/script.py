"""How a script of `experiments/` is run: a frozen configuration is its command line."""

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
    """Folders that a script writes to; every script's configuration begins with them.

    Attributes:
        results: Folder of the records, which the README's tables are made from.
        runs: Folder of unfinished work.
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
        main: What the script does with its configuration.
        config: Class of the configuration.
        description: The script's docstring, whose first line the help begins with.
        keep_memory: Tell the C library to keep the memory that is freed, as `hagd` does.

    Raises:
        SystemExit: With a line on standard error if the script raises a typed error.
    """
    if keep_memory:
        native.keep_memory()  # before anything touches a device
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
    """The configuration that arguments stand for.

    Example:
        >>> parse(Places, ["--runs", "elsewhere"]).runs
        PosixPath('elsewhere')
    """
    return tyro.cli(config, args=list(argv), description=(description or "").split("\n")[0])


def need(*packages: str, install: str) -> None:
    """Refuse to begin where a package is not installed.

    Args:
        packages: Modules that will be imported.
        install: Command that installs them.

    Raises:
        MissingDependencyError: If one of them cannot be found.

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
