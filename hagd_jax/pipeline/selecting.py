"""Stage 6: trained masks or the highest scores, whichever is closer to the model."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import Circuit, size_curve
from hagd_jax.errors import CheckpointError, DamagedError
from hagd_jax.pipeline.config import ExtractConfig
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.describing import describe, kept_note
from hagd_jax.pipeline.masks import Ranked, odds, top_of
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.search import MaskConfig, measured_losses, require_found
from hagd_jax.search.config import shares
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes, UnitTree

FILE = "circuit.json"
# What a circuit's configuration says of how it was found, beside the settings.
_TOLD = ("found_by", "spans")


class Selected(NamedTuple):
    """The selected circuit comes with circuits of other sizes found in the same way.

    Attributes:
        circuit: The circuit, with its provenance.
        circuits: Nodes → circuit, for the size asked for and those of the curve.
        units: Nodes → units of that circuit, for circuits of units.
        note: Why the circuit's units are not described, for the user; or empty.
    """

    circuit: Circuit
    circuits: Mapping[int, Nodes]
    units: Mapping[int, int] = {}
    note: str = ""

    __repr__ = one_line


def loss_of(config: ExtractConfig) -> MaskConfig:
    """Return the loss of the search: its ablations and the weight of the metric."""
    share = config.masks.mean if config.search == "masks" else 0.0
    return MaskConfig(mean=share, metric=config.masks.metric, batch_size=config.gradient.batch_size)


def compares(context: Context, left: Left) -> bool:
    """Tell whether the select split chooses between masks and the highest scores."""
    return "select" in context.task.splits and left["search"].by == "masks"


def looks(context: Context, left: Left) -> Seen:
    """Record the splits that the choice reads, under the search's ablations."""
    under = shares(loss_of(context.config))
    seen = context.task.look("discover", ablation=under)
    if compares(context, left):
        seen |= context.task.look("select", ablation=under)
    return seen


def select(context: Context, left: Left) -> Selected:
    """Choose the circuit under the ablations of the search, never under the judge's.

    Masks are kept if they are as close to the model as the highest scores on the select split,
    which neither has seen. As close is close enough: rounding must not decide.

    Raises:
        NoCircuitError: If the chosen circuit takes away hardly any of the empty circuit's loss.
    """
    size = context.config.size(left["score"].space.nodes)
    masks, top = left["repair"].circuit.mask, top_of(context, left["score"])
    keeps = True
    context.progress("select", 0, 1)
    if compares(context, left):
        ours, theirs = kl_of(context, left, [masks, top.circuits()[size]])
        keeps = as_close(ours, theirs)
        context.log_once("select", masks_kl=ours, top_kl=theirs)
    chosen = masks if keeps else top.circuits()[size]
    losses = measured_losses(
        context.model, context.discover, [chosen, Nodes.full(chosen.space, False)],
        loss_of(context.config), dictionary=left["features"].nodes,
    )  # fmt: skip
    context.progress("select", 1, 1)
    return selected(context, left, keeps, losses)


def as_close(ours: float, theirs: float) -> bool:
    """Tell whether masks of one KL from the model are preferred to scores of another."""
    return ours <= 1.01 * theirs + 1e-3


def kl_of(context: Context, left: Left, circuits: list[Nodes]) -> list[float]:
    """Measure the KL from the model on the select split, under the ablations of the search."""
    total = np.zeros(len(circuits))
    for ablation, share in shares(loss_of(context.config)).items():
        points = size_curve(
            context.model, context.task, circuits, dictionary=left["features"].nodes,
            split="select", ablation=ablation, batch_size=context.config.gradient.batch_size,
            seed=context.config.seed,
        )  # fmt: skip
        total += share * np.array([point.kl for point in points])
    return total.tolist()


def selected(context: Context, left: Left, keeps: bool, losses: np.ndarray) -> Selected:
    """Make the chosen circuit with its provenance.

    Args:
        context: The inputs.
        left: The results of earlier stages.
        keeps: Whether masks were chosen and not the highest scores.
        losses: (2,) of the chosen circuit and of the empty one, on the discover split.

    Returns:
        The circuit.

    Raises:
        NoCircuitError: If the circuit takes away hardly any of the empty circuit's loss.
    """
    size = context.config.size(left["score"].space.nodes)
    ours, empty = (float(loss) for loss in losses)
    context.log_once("found", loss=ours, empty_loss=empty)
    require_found(
        ours, empty, f"circuit of {size} nodes for {context.task.name}",
        mend="The search found nothing. Ask for more --nodes, for more --masks.steps, or add "
        "--repair.rounds.",
    )  # fmt: skip
    found = left["search"] if keeps else top_of(context, left["score"])
    masks = left["repair"].circuit.mask if keeps else found.circuits()[size]
    ranks = found.ranks[size]
    circuit = Circuit.from_mask(
        masks,
        odds(ranks) if found.by == "masks" else ranks.values,
        model=context.model.name,
        task=context.task.name,
        dictionary=left["features"].nodes.label,
        per_expert=left["features"].nodes.per_expert,
        seen=left.seen,
        seed=context.config.seed,
        config={**context.finding, "found_by": found.by},
    )
    circuit, note = describe(context, circuit, left["features"].nodes)
    return Selected(circuit, {**found.circuits(), size: masks}, note=note)


def keep(run: RunFolder, chosen: Selected) -> None:
    """Write the circuit."""
    run.write(FILE, chosen.circuit.to_json())


def kept(context: Context, left: Left) -> Selected | None:
    """Read the circuit that the run's folder holds."""
    circuit = read_circuit(context, left)
    if circuit is None:
        return None
    by_masks = circuit.config.get("found_by") == "masks"
    found: Ranked = left["search"] if by_masks else top_of(context, left["score"])
    circuits = {**found.circuits(), circuit.leaves: circuit.mask()}
    return Selected(circuit, circuits, note=kept_note(context, circuit))


def read_circuit(context: Context, left: Left, tree: UnitTree | None = None) -> Circuit | None:
    """Read the circuit of the run, unless there is none or it is damaged.

    Args:
        context: The inputs.
        left: The results of earlier stages.
        tree: The tree that its units are of, if it has some.
    """
    if context.run is None or not context.run.has(FILE):
        return None
    return context.run.whole(FILE, functools.partial(_read, context, left, tree))


def _read(context: Context, left: Left, tree: UnitTree | None) -> Circuit:
    """The circuit of the run, whose file nobody but the run should write."""
    assert context.run is not None
    path = context.run.path / FILE
    try:
        found = Circuit.load(path, tree)
    except DamagedError:
        raise
    except CheckpointError as error:
        raise DamagedError(str(error)) from error
    # Through JSON, so that tuples compare equal to what was written.
    config = json.loads(json.dumps(dict(context.finding)))
    own = {name: value for name, value in found.config.items() if name not in _TOLD}
    same = found.task == context.task.name and found.seed == context.config.seed and own == config
    if not same or not set(found.seen.models) <= set(left.seen.models):
        raise DamagedError(str(path), got="another run's circuit", expected="this run's")
    return found
