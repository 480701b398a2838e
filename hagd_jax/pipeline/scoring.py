"""Stage 2: the score of every node, by integrated gradients on the discover split."""

from __future__ import annotations

import functools
import time

import jax
import numpy as np

from hagd_jax.parallel import Pace
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.scores import node_scores
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes, Scores

FILE = "scores.npz"


def looks(context: Context, left: Left) -> Seen:
    """Record the discover split and what its gradients begin at."""
    return context.task.look("discover", ablation=context.baseline)


def score(context: Context, left: Left) -> Scores:
    """Score every node by its mean integrated gradient over prompts of the discover split.

    Returns:
        `Scores` of float32 on the host, see `scores.node_scores`.
    """
    prompts, run, nodes = context.scored, context.run, left["features"].nodes
    nothing = Nodes.full(nodes.space, 0.0)
    start = run.checkpoints.latest(nothing) if run else None
    reached = start[0] if start else 0
    if run is not None and reached < len(prompts):
        run.rewind("score", reached)
    began, pace = time.monotonic(), Pace(context.save_every)
    done, total = start or (0, nothing)
    found = node_scores(
        context.model, prompts, context.config.gradient, dictionary=nodes, start=start
    )
    if reached < len(prompts):
        context.progress("score", reached, len(prompts))
    for done, total in found:
        jax.block_until_ready(total)
        seconds = round(time.monotonic() - began, 3)
        context.log("score", step=done, of=len(prompts), seconds=seconds)
        pace(
            functools.partial(context.progress, "score", done, len(prompts)),
            None if run is None else functools.partial(run.checkpoints.save, done, total),
            last=done == len(prompts),
        )
    return Scores(jax.tree.map(lambda x: np.asarray(x) / len(prompts), total), left.seen)


def keep(run: RunFolder, scores: Scores) -> None:
    """Write the scores, in the order of `Nodes.flat`."""
    run.keep(FILE, scores=scores.flat())


def kept(context: Context, left: Left) -> Scores | None:
    """Read the scores that the run's folder holds."""
    space = left["features"].nodes.space
    found = context.run.kept(FILE, scores=(space.nodes,)) if context.run else None
    if found is None:
        return None
    return Scores(Nodes.from_flat(space, found["scores"]), left.seen)
