"""Stage 5: swaps of members for other nodes, by what is measured."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hagd_jax.errors import CheckpointError
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.search import repair as swap
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes

_FILE = "repair.npz"


class Repaired(NamedTuple):
    """The circuit after repair.

    Attributes:
        mask: `Nodes` of bool.
        losses: Before, and after each round that found a better circuit; none without repair.
    """

    mask: Nodes
    losses: tuple[float, ...] = ()


def asked(context: Context, left: Left) -> bool:
    """Whether there is something to swap."""
    space = left["score"].space
    return context.config.repair.rounds > 0 and context.config.size(space.nodes) < space.nodes


def looks(context: Context, left: Left) -> Seen:
    """The discover split under the ablations of the search, if there are swaps."""
    if not asked(context, left):
        return Seen.nothing()
    return context.task.look("discover", ablation=context.config.ablations)


def repair(context: Context, left: Left) -> Repaired:
    """Swap members as long as that lowers the loss of the search."""
    scores, run = left["score"], context.run
    size = context.config.size(scores.space.nodes)
    mask = left["search"].circuits[size]
    if not asked(context, left):
        return Repaired(mask)
    found = run.kept(_FILE) if run else None
    if found is None:
        better = swap(
            context.model, context.discover, mask, context.config.repair,
            dictionary=left["features"].nodes,
        )  # fmt: skip
        if run is not None:
            run.rewind("repair", -1)
        context.log("repair", losses=better.losses, evaluations=better.evaluations)
        found = {"mask": np.asarray(better.mask.flat(), bool), "losses": np.array(better.losses)}
        if run is not None:
            run.keep(_FILE, **found)
    members = found.get("mask", np.zeros(0, bool))
    if np.shape(members) != (scores.space.nodes,) or int(np.sum(members)) != size:
        raise CheckpointError(
            str(run.path / _FILE if run else _FILE), got="a circuit of another size or model",
            expected=f"{size} of {scores.space.nodes} nodes",
            mend="Do the repair again: --from repair.",
        )  # fmt: skip
    return Repaired(scores.like(members), tuple(np.ravel(found.get("losses", ())).tolist()))
