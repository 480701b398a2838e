"""The smallest size at which a circuit of units passes the judge's gates, on the select split."""

from __future__ import annotations

import dataclasses

from hagd_jax.causal import Circuit, keeps
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.search import UnitCircuit
from hagd_jax.tasks import Seen
from hagd_jax.units import UnitTree

# What is known of a circuit's gates: all are passed, with their intervals; none is missed; one is.
HOLDS, OPEN, FAILS, UNKNOWN = 2, 1, 0, -1


def choice_looks(context: Context) -> Seen:
    """Record the select split under the ablations of the search, if it chooses the size."""
    if not context.config.chooses_size:
        return Seen.nothing()
    return context.task.look("select", ablation=context.config.unit_masks.ablations)


def gates_of_sizes(
    context: Context, left: Left, tree: UnitTree, circuits: tuple[UnitCircuit, ...]
) -> tuple[int, ...]:
    """Measure circuits from the smallest on, until one passes all gates with their intervals.

    Gates are those of the judge, on the select split and under the ablations of the search, so that
    one is left which neither has seen.

    Args:
        context: The inputs.
        left: The results of earlier stages.
        tree: The tree of units.
        circuits: Largest first.

    Returns:
        For each `HOLDS`, `OPEN` or `FAILS`; `UNKNOWN` if a smaller one passed.
    """
    config = context.config
    how = dataclasses.replace(
        config.judge, split="select", ablations=config.unit_masks.ablations,
        seed=config.judge.seed + config.seed,
    )  # fmt: skip
    known, told = [UNKNOWN] * len(circuits), []
    for done, place in enumerate(reversed(range(len(circuits)))):
        context.progress("sizes", done, len(circuits))
        found = keeps(
            context.model, as_circuit(context, left, tree, circuits[place]), context.task, how,
            dictionary=left["features"].nodes,
        )  # fmt: skip
        passed = [each.good for each in found.values()] or [None]
        known[place] = FAILS if False in passed else OPEN if None in passed else HOLDS
        told.append({
            "nodes": circuits[place].leaves, "units": len(circuits[place].units),
            "gates": {name: each.passed for name, each in found.items()},
        })  # fmt: skip
        if known[place] == HOLDS:
            break
    context.progress("sizes", len(circuits), len(circuits))
    context.log_once("sizes", circuits=told)
    return tuple(known)


def chosen_of(gates: tuple[int, ...]) -> int:
    """Return the place of the smallest circuit that passes all gates, as far as is known.

    Args:
        gates: Of each size, largest first; none if no size was chosen.

    Returns:
        That of the smallest one which passes them with their intervals; if there is none, of the
        smallest that misses none; if there is none, of the largest. The last if nothing is known.

    Example:
        >>> chosen_of((OPEN, HOLDS, FAILS)), chosen_of((OPEN, OPEN, FAILS)), chosen_of(())
        (1, 1, -1)
    """
    for wanted in (HOLDS, OPEN):
        if wanted in gates:
            return len(gates) - 1 - gates[::-1].index(wanted)
    return 0 if gates else -1


def choice_words(found: tuple[UnitCircuit, ...], gates: tuple[int, ...]) -> str:
    """Say for the user which size was chosen, and why.

    Args:
        found: The circuits, largest first.
        gates: Of each.
    """
    place = chosen_of(gates)
    why = {
        HOLDS: "the smallest that passes the judge's gates",
        OPEN: "the smallest that fails none of the judge's gates, of which some are undecided,",
    }.get(gates[place], "the largest, since all fail the judge's gates")
    sizes = ", ".join(f"{each.leaves:,}" for each in found)
    return f"nodes: {found[place].leaves:,} of {sizes}: {why} on the select split"


def as_circuit(context: Context, left: Left, tree: UnitTree, found: UnitCircuit) -> Circuit:
    """Make a circuit of the run's model and task, which has seen what earlier stages have."""
    return Circuit.of_units(
        tree, found.units, found.ranks, model=context.model.name, task=context.task.name,
        per_expert=left["features"].nodes.per_expert, seen=left.seen, seed=context.config.seed,
        config={**context.finding, "found_by": "units"},
    )  # fmt: skip
