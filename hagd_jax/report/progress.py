"""Progress of the stages of a command, with an estimate of the time that is left.

On a terminal these are bars. Elsewhere (a log file, a batch system) they are lines: one when a
stage begins, one every half minute while it runs, and one when it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

WORDS = {
    "train": "Training the model",
    "sample": "Sampling text",
    "tokenise": "Tokenising text",
    "transcoder": "Training features",
    "evaluate": "Measuring features",
    "contexts": "Reading contexts",
    "score": "Scoring nodes",
    "start": "Choosing where masks begin",
    "judge": "Testing the circuit",
    "features": "Tracing features",
    "graph": "Drawing the graph",
    "coarsen": "Coarsening the graph",
    "compile": "Compiling the step (this takes a minute or more)",
    "masks": "Training masks",
    "repair": "Repairing the circuit",
    "select": "Choosing the circuit",
    "describe": "Describing units",
    "portrait": "Measuring circuits",
    "match": "Matching circuits",
    "curve": "Sweeping sizes",
}
# Stages whose steps differ too much for the first ones to say how long the others take: a judge
# measures all ablations before the first is done, and ends early where one decides.
UNEVEN = frozenset({"describe", "judge", "portrait"})
# Seconds between two lines about the same stage.
EVERY = 30.0
Stop = Callable[[], None]


def never() -> None:
    """Let the work go on."""


class Bars:
    """Bars show one progress bar for each stage, made when the stage first reports.

    Args:
        progress: The live display they appear in.
        stop: Called after each step; raises `Interrupted` if the work should stop there.
    """

    def __init__(self, progress: Progress, stop: Stop = never):
        self._progress, self._stop = progress, stop
        self._ids: dict[str, TaskID] = {}

    def update(self, stage: str, done: int, total: int) -> None:
        """Move a stage's bar.

        Args:
            stage: Which stage.
            done: Steps done.
            total: Steps in all.
        """
        if stage not in self._ids:
            self._ids[stage] = self._progress.add_task(
                WORDS.get(stage, stage), total=total, uneven=stage in UNEVEN
            )
        self._progress.update(self._ids[stage], completed=done, total=total)
        self._stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, style="yellow", markup=False)

    def finish(self, stage: str) -> None:
        """Fill the bar of a stage that ended."""
        if stage in self._ids:
            task = self._progress.tasks[self._progress.task_ids.index(self._ids[stage])]
            self._progress.update(task.id, total=task.completed or 1, completed=task.completed or 1)


class _Left(TimeRemainingColumn):
    """The time that is left, for stages whose steps are alike."""

    def render(self, task: Task) -> Text:
        """Return the estimate, or nothing."""
        if task.fields.get("uneven"):
            return Text("")
        return Text.assemble("left ", super().render(task))


@dataclasses.dataclass
class _Stage:
    """A stage that is running: where and when it began, and where it is."""

    first: int
    began: float
    done: int
    total: int


class Lines(Bars):
    """Lines show progress as text, where no bar can move.

    Args:
        console: Where to print.
        clock: Seconds, as `time.monotonic` counts them.
        stop: As of `Bars`.
    """

    def __init__(
        self, console: Console, clock: Callable[[], float] = time.monotonic, stop: Stop = never
    ):
        self._console, self._clock, self._stop = console, clock, stop
        self._running: dict[str, _Stage] = {}
        self._ended: set[str] = set()
        self._lock = threading.RLock()

    def update(self, stage: str, done: int, total: int) -> None:
        """Record a stage's progress; print a line if it begins or ends here."""
        self._note(stage, done, total)
        self._stop()

    def _note(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            now = self._clock()
            if stage in self._ended and done >= total:
                return
            if stage not in self._running:
                self._ended.discard(stage)
                self._running[stage] = _Stage(done, now, done, total)
                begun = f", {done:,} of {total:,} are done" if done and done < total else ""
                self._print(stage, f"begins{begun}")
            here = self._running[stage]
            here.done, here.total = done, total
            if done >= total:
                self.finish(stage)

    def say(self, text: str) -> None:
        """Print a line."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(self, stage: str) -> None:
        """Print how long a stage took that ended."""
        with self._lock:
            here = self._running.pop(stage, None)
            if here is not None:
                self._ended.add(stage)
                self._print(stage, f"done in {_time(self._clock() - here.began)}")

    def report(self) -> None:
        """Print a line about every stage that is running."""
        with self._lock:
            for stage, here in self._running.items():
                took, steps = self._clock() - here.began, here.done - here.first
                text = f"{here.done:,} of {here.total:,} after {_time(took)}"
                if steps > 0 and stage not in UNEVEN:
                    text += f", about {_time(took / steps * (here.total - here.done))} left"
                self._print(stage, text)

    def _print(self, stage: str, text: str) -> None:
        self.say(f"{WORDS.get(stage, stage)}: {text}")


def _time(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> _time(3725.4)
        '1:02:05'
    """
    # Never negative, whatever a clock and a total that has shrunk say.
    return str(datetime.timedelta(seconds=max(round(seconds), 0)))


class _Forgiving:
    """A stream that loses what it cannot write: progress must not end a run.

    Args:
        stream: The stream; None where Python has none.
    """

    def __init__(self, stream: IO[str] | None):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)  # type: ignore[union-attr]
        return len(text)

    def flush(self) -> None:
        """Write out what is held back, or lose it."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()  # type: ignore[union-attr]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def forgiving(stream: IO[str] | None) -> IO[str]:
    """A stream that loses what it cannot write, where the other end is closed or the disk full."""
    return cast("IO[str]", _Forgiving(stream))


@contextlib.contextmanager
def bars(
    console: Console | None = None, *, every: float = EVERY, stop: Stop = never
) -> Iterator[Bars]:
    """Show progress until the context ends.

    Args:
        console: Where; standard error if None.
        every: Seconds between lines about a stage, where there is no terminal.
        stop: Called after each step; raises `Interrupted` if the work should stop there.

    Yields:
        The bars, or lines where the console is no terminal.
    """
    console = Console(file=forgiving(sys.stderr)) if console is None else console
    if not (console.is_terminal or console.is_jupyter):
        with _reporting(Lines(console, stop=stop), every) as lines:
            yield lines
        return
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _Left(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress, stop)


@contextlib.contextmanager
def _reporting(lines: Lines, every: float) -> Iterator[Lines]:
    """Let a thread report now and then, also while a step takes long."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every):
            lines.report()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        ended.set()
        thread.join()
