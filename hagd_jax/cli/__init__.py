"""Run the `hagd` command."""

from __future__ import annotations

import sys

from hagd_jax.cli.signals import Signals


def main(argv: list[str] | None = None) -> None:
    """Run the `hagd` command.

    Signal handlers are installed before the heavy imports, so that Ctrl-C works from the start.

    Args:
        argv: Command-line arguments. If None, those of this process are used, and the process ends
            with the command.

    Raises:
        SystemExit: With the exit status, if the command fails.
    """
    signals = Signals()
    if argv is None:
        signals.install()
    from hagd_jax.cli.commands import run

    with signals.working():
        code = run(sys.argv[1:] if argv is None else argv, own=argv is None, stop=signals.check)
    if code:
        sys.exit(code)
