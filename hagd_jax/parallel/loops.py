"""Event loops that end what they have begun.

Orbax runs each of its reads and writes in an event loop of its own, and closes it when one of them
fails. The others go on in TensorStore's threads, find the loop closed, and each of them prints a
traceback, although the failure was raised and told.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator


class _Patient(asyncio.SelectorEventLoop):
    """A loop that waits for its tasks before it closes, whatever they end with."""

    def close(self) -> None:
        """Wait, and close."""
        if not (self.is_closed() or self.is_running()):
            self.set_exception_handler(lambda loop, context: None)  # the first one was raised
            while tasks := asyncio.all_tasks(self):  # some begin others
                self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


@contextlib.contextmanager
def patient_loops() -> Iterator[None]:
    """Let new event loops wait for their tasks before they close, while the block runs.

    Python from 3.14 on has no way to say so that is not deprecated: there nothing is changed.

    Example:
        >>> with patient_loops():
        ...     loop = asyncio.new_event_loop()
        >>> done = []
        >>> async def later():
        ...     await asyncio.sleep(0.01)
        ...     done.append(True)
        >>> task = loop.create_task(later())
        >>> loop.close()
        >>> done
        [True]
    """
    if sys.version_info >= (3, 14) or sys.platform == "win32":
        yield
        return

    class Policy(asyncio.DefaultEventLoopPolicy):
        _loop_factory = _Patient

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(Policy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)
