"""Stage 2: the score of every node on the discover split, the best of those asked for."""

from __future__ import annotations

import dataclasses
import functools
import time

import jax
import numpy as np

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.parallel import Pace
from hagd_jax.pipeline import starts
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.scores import node_scores
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes, Scores

FILE = "scores.npz"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Scored(Scores):
    """The scores at which masks begin come with the choice among several, if there was one.

    Attributes:
        choice: What was chosen among, and why; None if one kind of scores was asked for.
    """

    choice: starts.Choice | None = None


def discovering(context: Context, left: Left) -> Seen:
    """Record the discover split and what its gradients begin at."""
    return context.task.look("discover", ablation=context.baseline)


def looks(context: Context, left: Left) -> Seen:
    """Record the discover split; and the select split, if it chooses among several scores."""
    seen = discovering(context, left)
    return seen | starts.looks(context) if starts.chooses(context.config) else seen


def score(context: Context, left: Left) -> Scored:
    """Score every node by its mean score over prompts of the discover split.

    Of several kinds of scores, those that the model or the dictionary does not support are left
    out, and the select split chooses among the others, see `starts.choose`.

    Returns:
        Scores of float32 on the host, see `scores.node_scores`.

    Raises:
        ConfigError: If none of the scores is supported.
        InputError: As ConfigError; or if scores cannot be compared.
    """
    names, nodes = context.config.starts, left["features"].nodes
    if not starts.chooses(context.config):
        return Scored(_mean(context, left, *names), left.seen)
    found: dict[str, Nodes] = {}
    errors: dict[str, ConfigError | InputError] = {}
    for name in names:
        try:
            found[name] = _finite(name, _mean(context, left, name))
        except (ConfigError, InputError) as error:
            errors[name] = error
    if not found:
        raise errors[names[0]]
    choice = starts.choose(context, nodes, found, {n: str(why) for n, why in errors.items()})
    said = dataclasses.asdict(choice)
    context.log_once("start", chosen=said.pop("name"), **said)
    return Scored(found[choice.name], left.seen, choice)


def _mean(context: Context, left: Left, name: str) -> Nodes:
    """The mean of one kind of scores over prompts, resuming at its last checkpoint."""
    config, prompts, run = context.config, context.scored, context.run
    nodes, several = left["features"].nodes, starts.chooses(config)
    nothing = Nodes.full(nodes.space, 0.0)
    saved = run and (run.sums(name) if several else run.checkpoints)
    start = saved.latest(nothing) if saved else None
    done, total = start or (0, nothing)
    # Steps of the log and of progress count through all kinds of scores.
    before, of = config.starts.index(name) * len(prompts), len(config.starts) * len(prompts)
    if done < len(prompts):
        if run is not None:
            run.rewind("score", before + done)
        context.progress("score", before + done, of)
    began, pace = time.monotonic(), Pace(context.save_every)
    said = {"start": name} if several else {}
    found = node_scores(
        context.model, prompts, config.gradient_of(name), method=name, dictionary=nodes, start=start
    )
    for done, total in found:
        jax.block_until_ready(total)
        seconds = round(time.monotonic() - began, 3)
        context.log("score", step=before + done, of=of, seconds=seconds, **said)
        pace(
            functools.partial(context.progress, "score", before + done, of),
            functools.partial(saved.save, done, total) if saved else None,
            last=done == len(prompts),
        )
    return jax.tree.map(lambda x: np.asarray(x) / len(prompts), total)


def _finite(name: str, scores: Nodes) -> Nodes:
    """Refuse scores that are no numbers."""
    if not np.isfinite(scores.flat()).all():
        raise InputError(f"scores {name}", got="some that are not finite", expected="numbers")
    return scores


def keep(run: RunFolder, scores: Scored) -> None:
    """Write the scores, in the order of `Nodes.flat`, and the choice among several."""
    if scores.choice is not None:
        starts.keep(run, scores.choice)
    run.keep(FILE, scores=scores.flat())


def kept(context: Context, left: Left) -> Scored | None:
    """Read the scores that the run's folder holds."""
    nodes = left["features"].nodes
    found = context.run.kept(FILE, scores=(nodes.space.nodes,)) if context.run else None
    choice = starts.kept(context, nodes) if found and starts.chooses(context.config) else None
    if found is None or (starts.chooses(context.config) and choice is None):
        return None
    return Scored(Nodes.from_flat(nodes.space, found["scores"]), left.seen, choice)
