"""Stage 5: swaps of members for other nodes, by what is measured."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.pipeline.config import ExtractConfig
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.search import RepairConfig
from hagd_jax.search import repair as swap
from hagd_jax.search.config import shares
from hagd_jax.tasks import Seen
from hagd_jax.units import Selection, Space

FILE = "repair.npz"


class Repaired(NamedTuple):
    """A repaired circuit comes with the losses on the way.

    Attributes:
        circuit: The circuit.
        losses: Before, and after each round that found a better circuit; none without repair.
    """

    circuit: Selection
    losses: tuple[float, ...] = ()

    @property
    def seen(self) -> Seen:
        """Return the data that decided it."""
        return self.circuit.seen

    __repr__ = one_line


def asked(config: ExtractConfig, space: Space) -> bool:
    """Tell whether any swap is to be tried."""
    return config.repair.rounds > 0 and config.size(space.nodes) < space.nodes


def swaps(config: ExtractConfig) -> RepairConfig:
    """Configure repair; it uses the ablations of the search unless others are given."""
    if config.repair.mean is not None:
        return config.repair
    mean = config.masks.mean if config.search == "masks" else 0.0
    return dataclasses.replace(config.repair, mean=mean)


def looks(context: Context, left: Left) -> Seen:
    """Record the discover split under the ablations of the swaps, if there are any."""
    if not asked(context.config, left["score"].space):
        return Seen.nothing()
    return context.task.look("discover", ablation=shares(swaps(context.config)))


def repair(context: Context, left: Left) -> Repaired:
    """Swap members while that lowers the loss of the search."""
    size = context.config.size(left["score"].space.nodes)
    circuit = Selection(left["search"].circuits()[size], left.seen)
    if not asked(context.config, left["score"].space):
        return Repaired(circuit)
    better = swap(
        context.model, context.discover, circuit, swaps(context.config),
        dictionary=left["features"].nodes,
    )  # fmt: skip
    context.progress("repair", 1, 1)
    context.log_once("repair", losses=better.losses, evaluations=better.evaluations)
    return Repaired(better.mask, better.losses)


def keep(run: RunFolder, repaired: Repaired) -> None:
    """Write the repaired circuit, if there is one."""
    if repaired.losses:
        run.keep(FILE, mask=repaired.circuit.flat(), losses=np.array(repaired.losses))


def kept(context: Context, left: Left) -> Repaired | None:
    """Read the circuit that the run's folder holds."""
    scores = left["score"]
    if context.run is None or not asked(context.config, scores.space):
        return None
    found = context.run.kept(FILE, mask=(scores.space.nodes,), losses=None)
    if found is None:
        return None
    circuit = Selection(scores.values.like(found["mask"]), left.seen)
    return Repaired(circuit, tuple(found["losses"].tolist()))
