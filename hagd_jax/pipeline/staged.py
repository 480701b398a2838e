"""The staged executor: one stage after the other, each resumable at any moment."""

from __future__ import annotations

from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.seen_files import remember
from hagd_jax.pipeline.stages import LAST, STAGES
from hagd_jax.tasks import Seen


def run_staged(context: Context, until: str = LAST) -> Left:
    """Run the stages in order; what the run's folder holds already is read back.

    The data that a stage looks at are recorded before it looks, so that a run that is killed in
    between and goes on has them in its record.

    Args:
        context: The inputs.
        until: The last stage to run.

    Returns:
        The results of all stages that ran.
    """
    left = Left()
    for stage in STAGES:
        seen = remember(context.run, stage, stage.looks(context, left))
        left = left.seeing(seen)
        value = stage.run(context, left)
        found = getattr(value, "seen", Seen.nothing())
        if found != Seen.nothing():
            seen = remember(context.run, stage, found)
        left = left.after(stage.name, value, seen)
        if stage.name == until:
            break
    return left
