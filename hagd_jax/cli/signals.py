"""Ctrl-C and SIGTERM: what was reached is saved, a sentence is said, and the process ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from hagd_jax.errors import Interrupted

# Seconds that a stage has to come to a place where it saves, and those in which Python has to end.
GRACE, LAST = 5.0, 15.0
_STOPPING = "stopping as soon as the work so far is saved; once more to stop at once\n"
_STOPPED = "interrupted; the same command continues where it stopped\n"


class Signals:
    """What happens when the process is asked to end.

    Python runs its handlers in the main thread, which may be compiling for a minute, so a thread
    listens instead. While modules are imported the process ends at once. Later a stage is asked to
    stop where it can save its state (`check`). If it does not get there in time, `Interrupted` is
    raised wherever it is, and if that does not end it either, or at a second signal, the process
    ends without it. It always ends without tearing Python down, since threads may still compute.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._can_save = threading.Event()

    def install(self) -> None:
        """Take over SIGINT and SIGTERM for the rest of the process."""
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _left_to_the_thread)
        signal.signal(signal.SIGALRM, _raise)
        threading.Thread(target=self._listen, args=(reads,), name="signals", daemon=True).start()

    def check(self) -> None:
        """Raise if the process was asked to end; called where the work so far can be saved.

        Raises:
            Interrupted: If it was.
        """
        if self._asked is not None:
            raise Interrupted

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Let the block end by itself when a signal comes, if it does so in time."""
        self._can_save.set()
        try:
            yield
        except KeyboardInterrupt:
            if self._asked is None:  # Raised by somebody else, or nothing was installed.
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
    """End the process as a signal asks: one sentence, and its exit status.

    Args:
        number: Of the signal.
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


def _left_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Do nothing: the byte in the pipe has told the thread."""


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interrupted
