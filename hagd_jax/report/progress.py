"""Progress bars with an estimate of the time that is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

WORDS = {
    "train": "Training the model",
    "transcoder": "Training features",
    "evaluate": "Measuring features",
    "contexts": "Reading contexts",
    "score": "Scoring nodes",
    "judge": "Testing the circuit",
    "graph": "Drawing the graph",
    "coarsen": "Coarsening it",
    "masks": "Training masks",
    "steps": "Composed steps",
    "curve": "Sweeping sizes",
}


class Bars:
    """One bar for each stage, made when the stage first reports.

    Args:
        progress: The live display they appear in.
    """

    def __init__(self, progress: Progress):
        self._progress = progress
        self._ids: dict[str, TaskID] = {}

    def update(self, stage: str, done: int, total: int) -> None:
        """Move a stage's bar.

        Args:
            stage: Which stage.
            done: Steps done.
            total: Steps in all.
        """
        if stage not in self._ids:
            self._ids[stage] = self._progress.add_task(WORDS.get(stage, stage), total=total)
        self._progress.update(self._ids[stage], completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, style="yellow", markup=False)

    def finish(self, stage: str) -> None:
        """A stage ended before its last step: fill its bar."""
        if stage in self._ids:
            task = self._progress.tasks[self._progress.task_ids.index(self._ids[stage])]
            self._progress.update(task.id, total=task.completed or 1, completed=task.completed or 1)


@contextlib.contextmanager
def bars() -> Iterator[Bars]:
    """Show progress on standard error until the context ends.

    Yields:
        The bars.
    """
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bars(progress)
