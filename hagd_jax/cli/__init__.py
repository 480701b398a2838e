"""The `hagd` command."""

from __future__ import annotations

import sys

from hagd_jax.cli.signals import Signals


def main(argv: list[str] | None = None) -> None:
    """Run the `hagd` command.

    Signals are taken care of before anything that is heavy to import.

    Args:
        argv: Arguments; those of the process if None, which is then this command's own.
    """
    signals = Signals()
    if argv is None:
        signals.install()
    from hagd_jax.cli.commands import run

    with signals.working():
        code = run(sys.argv[1:] if argv is None else argv, own=argv is None, stop=signals.check)
    if code:
        sys.exit(code)
