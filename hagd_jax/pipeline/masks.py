"""Stage 4: circuits of all sizes, from trained masks or from the highest scores."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import sizes_of
from hagd_jax.parallel import Pace
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.search import init_masks, mask_ranks, top_nodes, train_masks
from hagd_jax.search.config import shares
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes, Scores, Space

FILE = "search.npz"


class Ranked(NamedTuple):
    """The result of a search ranks the nodes at each size.

    Attributes:
        ranks: Size → scores of all nodes, of which a circuit of that size has the highest: their
            log-probabilities of being open in a mask, or their scores.
        by: `masks` or `top`.
    """

    ranks: Mapping[int, Scores]
    by: str

    def circuits(self) -> dict[int, Nodes]:
        """Map each size to the nodes with the highest ranks."""
        return {size: top_nodes(row, size).mask for size, row in self.ranks.items()}

    __repr__ = one_line


def looks(context: Context, left: Left) -> Seen:
    """Record the discover split under the ablations of the search."""
    if keeps_top(context, left["score"].space):
        return Seen.nothing()
    return context.task.look("discover", ablation=shares(context.config.masks))


def keeps_top(context: Context, space: Space) -> bool:
    """Tell whether the nodes with the highest scores are the circuit, without a search."""
    return context.config.search == "top" or context.config.size(space.nodes) == space.nodes


def circuit_sizes(context: Context, space: Space) -> list[int]:
    """List the requested size and those of the curve, ascending."""
    return sorted({*sizes_of(space.nodes), context.config.size(space.nodes)})


def top_of(context: Context, scores: Scores) -> Ranked:
    """Rank the nodes by their scores at all sizes."""
    return Ranked(dict.fromkeys(circuit_sizes(context, scores.values.space), scores), "top")


def search(context: Context, left: Left) -> Ranked:
    """Train masks from the prior down to the requested size, resuming at the last checkpoint."""
    scores, config, run = left["score"], context.config, context.run
    if keeps_top(context, scores.space):
        return top_of(context, scores)
    sizes, size = circuit_sizes(context, scores.space), config.size(scores.space.nodes)
    tree, prior = left["hierarchy"]
    key = jax.random.key(config.seed)
    state = init_masks(key, prior, config.masks, tree=tree, sizes=len(sizes))
    resumed = run.masks.latest(state) if run else None
    if run is not None:
        run.rewind("masks", resumed[0] if resumed else 0)
    state, pace = resumed[1] if resumed else state, Pace(context.save_every)
    scans = train_masks(
        context.model, context.discover, state, sizes, config.masks, least=size, tree=tree,
        dictionary=left["features"].nodes,
    )  # fmt: skip
    if int(state.step) < config.masks.steps:
        context.progress("masks", int(state.step), config.masks.steps)
    for state, metrics in scans:
        step, steps = int(state.step), config.masks.steps
        context.log("masks", step=step, **metrics)
        pace(
            functools.partial(context.progress, "masks", step, steps),
            None if run is None else functools.partial(run.masks.save, step, state),
            last=step == steps,
        )
    return ranked(left, sizes, mask_ranks(state, sizes, tree))


def ranked(left: Left, sizes: list[int], rows: np.ndarray) -> Ranked:
    """Make the ranks from (sizes, N) log-probabilities of being open."""
    scores = left["score"].after(left.seen)
    pairs = zip(sizes, rows, strict=True)
    return Ranked({size: scores.like(np.asarray(row)) for size, row in pairs}, "masks")


def odds(ranks: Scores) -> Nodes:
    """Convert log-probabilities to logits, which are easier to read near 1."""
    chance = np.minimum(ranks.flat(), -1e-7)
    return ranks.like(chance - np.log(-np.expm1(chance))).values


def keep(run: RunFolder, found: Ranked) -> None:
    """Write the ranks of masks."""
    if found.by == "masks":
        rows = np.stack([row.flat() for row in found.ranks.values()])
        run.keep(FILE, sizes=np.array(list(found.ranks)), ranks=rows)


def kept(context: Context, left: Left) -> Ranked | None:
    """Read the ranks that the run's folder holds."""
    space = left["score"].space
    if context.run is None or keeps_top(context, space):
        return None
    sizes = circuit_sizes(context, space)
    shape = len(sizes), space.nodes
    found = context.run.kept(FILE, sizes=shape[:1], ranks=shape)
    return None if found is None else ranked(left, sizes, found["ranks"])
