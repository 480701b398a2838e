"""The staged executor: one stage after the other, each resumable at any moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hagd_jax.pipeline.context import Context, Left, Stage
from hagd_jax.pipeline.seen_files import remember
from hagd_jax.pipeline.stages import LAST, STAGES, files_from

Make = Callable[[Stage, Context, Left], Any]


def run_staged(context: Context, until: str = LAST) -> Left:
    """Run the stages in order, each as a program of its own.

    Args:
        context: The inputs.
        until: The last stage to run.

    Returns:
        The results of all stages that ran.
    """
    return run_stages(context, until, lambda stage, context, left: stage.make(context, left))


def run_stages(context: Context, until: str, make: Make) -> Left:
    """Run the stages in order; results that the run's folder holds are read back.

    The data that a stage looks at are recorded before it looks, so that a run that is killed in
    between and goes on has them in its record.

    Args:
        context: The inputs.
        until: The last stage to run.
        make: (stage, context, results of earlier stages) → the stage's result.

    Returns:
        The results of all stages that ran.
    """
    left, run = Left(), context.run
    for stage in STAGES[: [stage.name for stage in STAGES].index(until) + 1]:
        left = left.seeing(remember(run, stage, stage.looks(context, left), files_from(stage.name)))
        value = stage.kept(context, left)
        if value is None:
            value = make(stage, context, left)
            found = getattr(value, "seen", None)
            if found is not None:
                remember(run, stage, found)
            if run is not None:
                stage.keep(run, value)
        left = left.after(stage.name, value)
    return left
