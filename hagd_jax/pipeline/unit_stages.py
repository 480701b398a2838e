"""Stages 4 to 6 of a search over units: circuits of a few sizes, their repair, and the choice."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from hagd_jax.causal import Circuit
from hagd_jax.errors import DamagedError
from hagd_jax.parallel import Pace
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.describing import describe, kept_note
from hagd_jax.pipeline.selecting import Selected, read_circuit
from hagd_jax.pipeline.trees import FILE as TREE_FILE
from hagd_jax.pipeline.trees import kept_tree
from hagd_jax.pipeline.unit_choice import as_circuit, choice_looks, gates_of_sizes
from hagd_jax.pipeline.unit_found import (
    REPAIR_FILE,
    SEARCH_FILE,
    FoundUnits,
    MendedUnits,
    chain_of,
    found_units,
)
from hagd_jax.search import (
    UnitCircuit,
    init_units,
    prune_units,
    repair_units,
    require_found,
    split_spans,
    train_units,
    unit_losses,
)
from hagd_jax.search.unit_circuit import mask_row
from hagd_jax.search.unit_search import read_state
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes
from hagd_jax.units.tree import BANDWIDTH, tree_of


def whole(context: Context, left: Left) -> bool:
    """Tell whether all nodes are wanted, so that there is nothing to search for."""
    total = left["features"].nodes.space.nodes
    return context.config.size(total) == total


def search_looks(context: Context, left: Left) -> Seen:
    """Record the discover split under the ablations of the search."""
    if whole(context, left):
        return Seen.nothing()
    looked = context.task.look("discover", ablation=context.config.unit_masks.ablations)
    return looked | choice_looks(context)


def sizes_of(context: Context, left: Left) -> tuple[tuple[int, int], ...]:
    """Return the sizes (units, nodes) that are searched for, largest first."""
    sizes = context.config.unit_sizes(left["features"].nodes.space.nodes)
    return sizes[-1:] if whole(context, left) else sizes


def search(context: Context, left: Left) -> FoundUnits:
    """Train masks over heads and supernodes, resuming at the last checkpoint."""
    config, run, nodes = context.config, context.run, left["features"].nodes
    own, sizes = config.unit_masks, sizes_of(context, left)
    if whole(context, left):
        tree = tree_of(nodes.space, nodes.label, (), BANDWIDTH, left.seen)
        return found_units(left, sizes, tree, [(tree.roots, (0.0,) * len(tree.roots))])
    prior = left["hierarchy"].prior
    # Logits of membership are signed by their meaning.
    start = dataclasses.replace(own, signed=own.signed or config.prior == "learner")
    state = init_units(
        jax.random.key(config.seed), prior, nodes.space, start, sizes=len(sizes)
    )  # fmt: skip
    resumed = run.masks.latest(state) if run else None
    if run is not None:
        run.rewind("masks", resumed[0] if resumed else 0)
    state, pace = resumed[1] if resumed else state, Pace(context.save_every)
    scans = train_units(context.model, context.discover, state, sizes, own, dictionary=nodes)
    if int(state.step) < own.steps:
        context.progress("masks", int(state.step), own.steps)
    for state, metrics in scans:
        step = int(state.step)
        context.log("masks", step=step, **metrics)
        pace(
            functools.partial(context.progress, "masks", step, own.steps),
            None if run is None else functools.partial(run.masks.save, step, state),
            last=step == own.steps,
        )
    clusters = left["hierarchy"].tree.clusters
    tree, chains = read_state(nodes, state, sizes, left.seen, clusters, heads_each=own.heads_each)
    found = found_units(left, sizes, tree, [(each.units, each.ranks) for each in chains])
    if not config.chooses_size:
        return found
    return found._replace(gates=gates_of_sizes(context, left, tree, found.circuits))


def search_kept(context: Context, left: Left) -> FoundUnits | None:
    """Read the circuits that the run's folder holds, and their tree."""
    if context.run is None:
        return None
    sizes, tree = sizes_of(context, left), kept_tree(context.run)
    more = {"gates": (len(sizes),)} if context.config.chooses_size else {}
    found = context.run.kept(SEARCH_FILE, counts=(len(sizes),), units=None, ranks=None, **more)
    if found is None or tree is None:
        return None
    nodes = left["features"].nodes
    path = context.run.path / SEARCH_FILE
    if (tree.space, tree.seen) != (nodes.space, left.seen):
        raise DamagedError(str(context.run.path / TREE_FILE), got="another run's tree",
                           expected="this run's")  # fmt: skip
    ends = np.cumsum(found["counts"])[:-1]
    parts = zip(np.split(found["units"], ends), np.split(found["ranks"], ends), strict=True)
    made = found_units(left, sizes, tree, [chain_of(tree, *part, path) for part in parts])
    return made._replace(gates=tuple(found["gates"].tolist())) if more else made


def repair_looks(context: Context, left: Left) -> Seen:
    """Record the discover split under the ablations of repair and pruning, if there are any."""
    if not mends(context, left):
        return Seen.nothing()
    return context.task.look("discover", ablation=context.config.mending)


def mends(context: Context, left: Left) -> bool:
    """Tell whether any change is to be tried."""
    return bool(context.config.mending) and not whole(context, left)


def repair(context: Context, left: Left) -> MendedUnits:
    """Change units of the requested circuit while that helps, and leave out those that add little.

    Changes lower its worst loss; what is left out raises its mean loss by little.
    """
    circuit, tree = left["search"].circuit._replace(seen=left.seen), left["search"].tree
    config, nodes, worst = context.config, left["features"].nodes, ()
    if not mends(context, left):
        return MendedUnits(circuit, (), (), tree)
    if config.unit_repair.rounds:
        context.progress("repair", 0, 1)
        better = repair_units(
            context.model, context.discover, tree, circuit, config.unit_repair, dictionary=nodes
        )
        context.progress("repair", 1, 1)
        context.log_once("repair", worst=better.worst, evaluations=better.evaluations)
        circuit, worst = better.circuit, better.worst
    if not config.unit_prune.least:
        return MendedUnits(circuit, worst, (), tree)
    less = prune_units(
        context.model, context.discover, tree, circuit, config.pruning, dictionary=nodes,
        progress=functools.partial(context.progress, "prune"),
    )  # fmt: skip
    sizes = [len(circuit.units), len(less.circuit.units)]
    context.log_once("prune", units=sizes, loss=less.loss, evaluations=less.evaluations)
    return MendedUnits(less.circuit, worst, less.loss, tree)


def repair_kept(context: Context, left: Left) -> MendedUnits | None:
    """Read the repaired circuit that the run's folder holds."""
    if context.run is None or not mends(context, left):
        return None
    found = context.run.kept(REPAIR_FILE, units=None, ranks=None, worst=None, pruned=None)
    if found is None:
        return None
    tree, size = left["search"].tree, left["search"].circuit.size
    units, ranks = chain_of(tree, found["units"], found["ranks"], context.run.path / REPAIR_FILE)
    circuit = UnitCircuit(units, ranks, size, {}, left.seen)
    worst, pruned = (tuple(found[name].tolist()) for name in ("worst", "pruned"))
    return MendedUnits(circuit, worst, pruned, tree)


def select_looks(context: Context, left: Left) -> Seen:
    """Record the discover split, on which the circuit's losses and its spans are measured."""
    return context.task.look("discover", ablation=context.config.select_ablations)


def select(context: Context, left: Left) -> Selected:
    """Measure the circuit under each ablation of the search, and make it one with provenance.

    Raises:
        NoCircuitError: If it takes away hardly any of the empty circuit's loss, over all of them.
    """
    found, tree, config = left["repair"].circuit, left["search"].tree, context.config
    own = dataclasses.replace(
        config.unit_masks,
        batch_size=max(config.gradient.batch_size, len(config.unit_masks.ablations)),
    )
    # A few prompts tell whether anything was found; but partners may be among any of them.
    some = context.discover if "resample" in own.ablations else context.scored
    context.progress("select", 0, 1)
    losses = unit_losses(
        context.model, some, tree, [found.units, ()], own,
        dictionary=left["features"].nodes,
    )  # fmt: skip
    context.progress("select", 1, 1)
    return selected(context, left, {name: row.tolist() for name, row in losses.items()})


def selected(context: Context, left: Left, losses: dict[str, list[float]]) -> Selected:
    """Make the circuit with its provenance.

    Args:
        context: The inputs.
        left: The results of earlier stages.
        losses: Ablation → loss of the circuit and of the empty one, on discover prompts.

    Returns:
        The circuit, and those of other sizes.

    Raises:
        NoCircuitError: If it takes away hardly any of the empty circuit's mean loss.
    """
    found, tree, nodes = left["repair"].circuit, left["search"].tree, left["features"].nodes
    config = context.config
    # Each ablation counts alike: one that changes nothing, as the mean where all prompts have one
    # answer, tells nothing.
    ours, empty = np.mean([losses[name] for name in losses], axis=0).tolist()
    context.log_once("found", loss=ours, empty_loss=empty, losses=losses)
    require_found(
        ours, empty, f"circuit of {len(found.units)} units for {context.task.name}",
        mend="The search found nothing. Ask for more --units and --nodes, for more "
        "--unit-masks.steps, or add --unit-repair.rounds.",
    )  # fmt: skip
    circuit = as_circuit(context, left, tree, found)
    if config.by_span:
        circuit = split_spans(
            context.model, context.discover, circuit, config.unit_spans, dictionary=nodes,
            progress=functools.partial(context.progress, "spans"),
        )  # fmt: skip
    circuit, note = describe(context, circuit, nodes)
    return _with_sizes(left, circuit)._replace(note=note)


def select_kept(context: Context, left: Left) -> Selected | None:
    """Read the circuit that the run's folder holds, with its tree at hand."""
    circuit = read_circuit(context, left, left["search"].tree)
    if circuit is None:
        return None
    return _with_sizes(left, circuit)._replace(note=kept_note(context, circuit))


def _with_sizes(left: Left, circuit: Circuit) -> Selected:
    """The circuit with those of other sizes, each by its number of nodes.

    Beside a circuit that is split by span each node counts once for each span.
    """
    tree, spans = left["search"].tree, max(len(circuit.spans), 1)
    masks, counts = dict[int, Nodes](), dict[int, int]()
    for each in (*left["search"].others, left["repair"].circuit):
        whole = Nodes.from_flat(tree.space, mask_row(tree, each.units))
        masks[spans * each.leaves] = jax.tree.map(lambda x: np.tile(x, spans), whole)
        counts[spans * each.leaves] = len(each.units)
    masks[circuit.leaves], counts[circuit.leaves] = circuit.mask(), len(circuit)
    return Selected(circuit, masks, counts)
