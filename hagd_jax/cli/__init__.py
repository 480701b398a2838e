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
    signals, own = Signals(), argv is None
    if own:
        signals.install()
    from hagd_jax.cli.commands import load, run

    argv = sys.argv[1:] if argv is None else argv
    load(argv)  # before there is work to save, so that a signal ends the imports at once
    with signals.working():
        code = run(argv, own=own, stop=signals.check)
    if code:
        sys.exit(code)
