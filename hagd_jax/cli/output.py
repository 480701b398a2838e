"""What commands print: whole, or an error in one sentence; never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from hagd_jax.errors import OutputError
from hagd_jax.report.progress import forgiving


class _Text(io.StringIO):
    """A text that will go to standard output, and that is made in its encoding."""

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(sys.stdout, "encoding", None) or "utf-8"


def show(*parts: Any) -> None:
    """Print to standard output, in `rich`'s markup.

    Args:
        *parts: Texts and tables, each on lines of its own.

    Raises:
        OutputError: If standard output is closed or full.
    """
    # Rich ends the process by itself where a pipe is closed, so it only makes the text.
    made = _Text()
    with _writing():
        console = Console(file=made, force_terminal=sys.stdout.isatty() or None)
        for part in parts:
            console.print(part)
        code = made.encoding
        sys.stdout.write(made.getvalue().encode(code, "replace").decode(code))
        sys.stdout.flush()


def complain(text: str) -> None:
    """Print a line to standard error, in `rich`'s markup; it may be closed as well."""
    Console(file=forgiving(sys.stderr)).print(text, highlight=False)


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Write out what is still held back for standard output when the block ends.

    Raises:
        OutputError: If standard output is closed or full.
    """
    try:
        yield
    except BrokenPipeError as error:
        raise lost(error) from error
    finally:
        with _writing():
            sys.stdout.flush()


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    # A stream that Python has closed is a ValueError, and one that it never had is None.
    except (OSError, ValueError, AttributeError) as error:
        raise lost(error) from error


def lost(error: Exception) -> OutputError:
    """Make the error of a lost standard output, to which nothing more is written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return OutputError(
        "standard output", got=getattr(error, "strerror", None) or str(error),
        expected="a place for what the command prints",
        mend="Files that the command wrote are whole.",
    )  # fmt: skip
