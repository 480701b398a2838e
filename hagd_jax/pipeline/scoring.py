"""Stage 2: the score of every node, by integrated gradients on the discover split."""

from __future__ import annotations

import time

import jax
import numpy as np

from hagd_jax.parallel import agree
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.scores import node_scores
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes


def discovering(context: Context, left: Left) -> Seen:
    """A stage that reads the discover split and its counterfactuals."""
    return context.task.look("discover", ablation="counterfactual")


def score(context: Context, left: Left) -> Nodes:
    """Mean score of every node over the discover split; see `scores.node_scores`.

    Returns:
        `Nodes` of float32 on the host.
    """
    prompts, run, nodes = context.discover, context.run, left["features"].nodes
    nothing = Nodes.full(nodes.space, 0.0)
    start = run.checkpoints.latest(nothing) if run else None
    reached = start[0] if start else 0
    if run is not None and reached < len(prompts):
        run.rewind("score", reached)
    saved = began = time.monotonic()
    done, total = start or (0, nothing)
    found = node_scores(
        context.model, prompts, context.config.gradient, dictionary=nodes, start=start
    )
    for done, total in found:
        jax.block_until_ready(total)
        context.progress("score", done, len(prompts))
        if run is None:
            continue
        now = time.monotonic()
        run.log("score", step=done, of=len(prompts), seconds=round(now - began, 3))
        # All processes save together, so one clock decides.
        if agree(now - saved >= context.save_every or done == len(prompts)):
            run.checkpoints.save(done, total)
            saved = now
    return jax.tree.map(lambda x: np.asarray(x) / len(prompts), total)
