"""Print a command's output completely, or raise a typed error; never show a traceback."""

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
    """_Text is a text buffer with the encoding of standard output, to which its text goes later."""

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(sys.stdout, "encoding", None) or "utf-8"


def show(*parts: Any) -> None:
    """Print to standard output, in `rich`'s markup.

    Args:
        *parts: Texts and tables; each starts on a new line.

    Raises:
        OutputError: If standard output is closed or full.
    """
    # Rich ends the process if a pipe is closed, so it only renders into a buffer here.
    made = _Text()
    with _writing():
        console = Console(file=made, force_terminal=sys.stdout.isatty() or None)
        for part in parts:
            console.print(part)
        code = made.encoding
        sys.stdout.write(made.getvalue().encode(code, "replace").decode(code))
        sys.stdout.flush()


def complain(text: str) -> None:
    """Print a line to standard error, in `rich`'s markup; do nothing if it is closed."""
    Console(file=forgiving(sys.stderr)).print(text, highlight=False)


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Flush standard output when the block ends, and turn failures into a typed error.

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
    """Turn errors of writing to standard output into an `OutputError`."""
    try:
        yield
    # A closed stream raises ValueError; a process without standard output has None.
    except (OSError, ValueError, AttributeError) as error:
        raise lost(error) from error


def lost(error: Exception) -> OutputError:
    """Return the error of a lost standard output, and redirect further output to nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return OutputError(
        "standard output", got=getattr(error, "strerror", None) or str(error),
        expected="an output that can be written",
        mend="Redirect the output elsewhere; files that the command wrote are complete.",
    )  # fmt: skip
