"""Handle Ctrl-C and SIGTERM: save the work so far, print one sentence, and end the process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# Seconds until a stage must have reached a save point, and seconds until Python must have ended.
GRACE, LAST = 5.0, 15.0
_STOPPING = "stopping once the work so far is saved; a second signal (Ctrl-C) stops at once\n"
_STOPPED = "interrupted; the same command continues where it stopped\n"


class Signals:
    """Signals handles SIGINT and SIGTERM, so that work is saved before the process ends.

    Python runs signal handlers in the main thread, which may compile for a minute, so a separate
    thread listens for signals. During the imports, a signal ends the process at once. Later, the
    current stage is asked to stop at its next save point (`check`). If it does not get there within
    5 s, `Interrupted` is raised wherever it is. After 15 s, or at a second signal, the process ends
    anyway. It ends without Python's shutdown, since threads may still compute.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._can_save = threading.Event()

    def install(self) -> None:
        """Handle SIGINT and SIGTERM from now on, for the rest of the process."""
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _ignore)
        signal.signal(signal.SIGALRM, _raise)
        threading.Thread(target=self._listen, args=(reads,), name="signals", daemon=True).start()

    def check(self) -> None:
        """Raise `Interrupted` if a signal came; called at points where work can be saved.

        Raises:
            Interrupted: If a signal came.
        """
        if self._asked is not None:
            raise _interrupted()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Give the block time to save its work if a signal comes, then end the process."""
        self._can_save.set()
        try:
            yield
        except KeyboardInterrupt:
            if self._asked is None:  # Raised by other code, or without installed handlers.
                _say(_STOPPED)
                sys.exit(128 + signal.SIGINT)
        if self._asked is not None:
            leave(self._asked)

    def _listen(self, reads: int) -> None:
        while number := os.read(reads, 1)[0]:
            if number not in (signal.SIGINT, signal.SIGTERM):
                continue
            if self._asked is not None or not self._can_save.is_set():
                leave(number)
            self._asked = number
            _say(_STOPPING)
            _later(GRACE, signal.raise_signal, signal.SIGALRM)
            _later(LAST, leave, number)


def leave(number: int) -> None:
    """Print one sentence, and end the process with the exit status of a signal.

    Args:
        number: Number of the signal.
    """
    _say(_STOPPED)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(128 + number)


def _later(seconds: float, act: Callable[[int], Any], number: int) -> None:
    timer = threading.Timer(seconds, act, (number,))
    timer.daemon = True
    timer.start()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the listening thread gets the signal from the pipe."""


def _raise(number: int, frame: FrameType | None) -> None:
    raise _interrupted()


def _interrupted() -> KeyboardInterrupt:
    # Errors import NumPy, which takes longer than all that comes before the handlers.
    from hagd_jax.errors import Interrupted

    return Interrupted()
