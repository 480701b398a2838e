"""Stage 6: trained masks or the highest scores, whichever is closer to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hagd_jax.causal import Circuit, size_curve
from hagd_jax.errors import NoCircuitError
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.masks import Searched, keeps_top, top_of
from hagd_jax.search import RepairConfig, measured_losses
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes

FILE = "circuit.json"
# The loss of a circuit that found something is below this share of the empty circuit's.
FOUND = 0.99


class Selected(NamedTuple):
    """The circuit, and circuits of other sizes that were found in the same way.

    Attributes:
        circuit: The circuit, with its provenance.
        circuits: Size → circuit, for the size asked for and those of the curve.
    """

    circuit: Circuit
    circuits: Mapping[int, Nodes]


def compares(context: Context, left: Left) -> bool:
    """Whether the select split chooses between masks and the highest scores."""
    return "select" in context.task.splits and not keeps_top(context, left)


def looks(context: Context, left: Left) -> Seen:
    """The discover split, and the select split if it chooses, under the search's ablations."""
    seen = context.task.look("discover", ablation=context.config.ablations)
    if compares(context, left):
        seen |= context.task.look("select", ablation=context.config.ablations)
    return seen


def select(context: Context, left: Left) -> Selected:
    """Choose the circuit, under the ablations of the search and never under the judge's.

    Masks are kept if they are as close to the model as the highest scores on the select split,
    which neither has seen. As close is close enough: rounding must not decide.

    Raises:
        NoCircuitError: If the chosen circuit is no closer to the model than the empty one.
        CheckpointError: If the run's circuit is broken.
    """
    run, searched, top = context.run, left["search"], top_of(context, left["score"])
    size = context.config.size(left["score"].space.nodes)
    mine = {**searched.circuits, size: left["repair"].mask}
    if run is not None and run.has(FILE):
        circuit = Circuit.load(run.path / FILE)
        by_masks = circuit.config.get("found_by") == "masks"
        return Selected(circuit, mine if by_masks or keeps_top(context, left) else top)
    if run is not None:
        run.rewind("select", -1)
    if compares(context, left) and not _as_close(context, left, mine[size], top[size]):
        searched, mine = Searched(top, left["score"], "top"), top
    _require_found(context, left, mine[size])
    circuit = Circuit.from_mask(
        mine[size],
        searched.ranks,
        model=context.model.name,
        task=context.task.name,
        dictionary=left["features"].nodes.label,
        seen=left.seen,
        seed=context.config.seed,
        config={**context.finding, "found_by": searched.by},
    )
    if run is not None:
        run.write(FILE, circuit.to_json())
    return Selected(circuit, mine)


def _as_close(context: Context, left: Left, masks: Nodes, top: Nodes) -> bool:
    """Whether masks are as close to the model as the highest scores, on the select split."""
    config, total = context.config, np.zeros(2)
    for ablation, share in config.ablations.items():
        points = size_curve(
            context.model, context.task, [masks, top], dictionary=left["features"].nodes,
            split="select", ablation=ablation, batch_size=config.gradient.batch_size,
            seed=config.seed,
        )  # fmt: skip
        total += share * np.array([point.kl for point in points])
    ours, theirs = total.tolist()
    context.log("select", masks_kl=ours, top_kl=theirs)
    return ours <= 1.01 * theirs + 1e-3


def _require_found(context: Context, left: Left, mask: Nodes) -> None:
    """Refuse a circuit that is no closer to the model than the empty one."""
    config, total = context.config, np.zeros(2)
    weights = RepairConfig(batch_size=config.gradient.batch_size, metric=config.masks.metric)
    for ablation, share in config.ablations.items():
        total += share * measured_losses(
            context.model, context.discover, [mask, Nodes.full(mask.space, False)], weights,
            dictionary=left["features"].nodes, ablation=ablation,
        )  # fmt: skip
    ours, empty = total.tolist()
    context.log("found", loss=ours, empty_loss=empty)
    if not ours < FOUND * empty:
        size = int(np.sum(mask.flat()))
        raise NoCircuitError(
            f"circuit of {size} nodes for {context.task.name}",
            got=f"a loss of {ours:.4g} on the discover split",
            expected=f"less than the empty circuit's, {empty:.4g}",
            mend="The search found nothing. Ask for more --nodes, for more --masks.steps, or add "
            "--repair.rounds.",
        )  # fmt: skip
