"""When a long loop saves its state."""

from __future__ import annotations

import time
from collections.abc import Callable

from hagd_jax.errors import Interrupted
from hagd_jax.parallel.distributed import agree


class Pace:
    """A loop that reports each step, and saves now and then, at its end and when it is stopped.

    All processes of a run save together, so the first one's clock decides, and so does its being
    stopped.

    Args:
        every: Seconds between two saves.

    Example:
        >>> saved, pace = [], Pace(every=60)
        >>> for step in (1, 2, 3):
        ...     pace(None, lambda: saved.append(step), last=step == 3)
        >>> saved
        [3]
    """

    def __init__(self, every: float):
        self.every, self.saved = every, time.monotonic()

    def __call__(
        self,
        report: Callable[[], None] | None,
        save: Callable[[], None] | None,
        *,
        last: bool = False,
    ) -> None:
        """Report a step and save its state if it is time to.

        Args:
            report: Tells of the step; may raise `Interrupted`. None if nobody listens.
            save: Saves the state; None where there is no place to.
            last: Whether the loop ends here.

        Raises:
            Interrupted: If `report` did; the state is saved then.
        """
        stopped = None
        try:
            if report is not None:
                report()
        except Interrupted as asked:
            stopped = asked
        late = time.monotonic() - self.saved >= self.every
        if save is not None and agree(last or late or stopped is not None):
            save()
            self.saved = time.monotonic()
        if stopped is not None:
            raise stopped
