"""The search over a tree of units: circuits are antichains of units at mixed resolution.

Masks over the tree (`unit_levels`) are trained at an expected description cost, units + weight ·
leaves, that falls to each requested one and stays there for a while. A unit that works as a whole
costs a reader less than its parts, so the gradient trades detail against wholeness.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import require_is
from hagd_jax.models import LanguageModel
from hagd_jax.search.checks import require_run
from hagd_jax.search.objective import target_of
from hagd_jax.search.outcome import is_found
from hagd_jax.search.parts import Given, read
from hagd_jax.search.several import partners_of
from hagd_jax.search.unit_circuit import (
    UnitCircuit,
    dictionary_of,
    seen_by_units,
    unit_losses,
)
from hagd_jax.search.unit_config import UnitMaskConfig
from hagd_jax.search.unit_levels import Gates, levels_of
from hagd_jax.search.unit_read import Read, read_units
from hagd_jax.search.unit_sizes import Limit, UnitSize, limits_of, plan_of
from hagd_jax.search.unit_steps import (
    UnitSearch,
    UnitState,
    init_units,
    require_fit,
    scan_units,
    traced,
)
from hagd_jax.tasks.batching import batch_rows
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Dictionary, Source, UnitTree


class SearchedUnits(NamedTuple):
    """The result of a search over units holds a circuit of each size, and the final state.

    Attributes:
        circuits: One for each size, in the order of the sizes.
        empty: Ablation → loss of the empty circuit.
        found: For each circuit, whether it takes away 5% or more of the empty circuit's loss under
            every ablation; if not, it should not be used.
        state: The last state.
    """

    circuits: tuple[UnitCircuit, ...]
    empty: dict[str, float]
    found: tuple[bool, ...]
    state: UnitState

    __repr__ = one_line


def search_units(
    model: LanguageModel,
    prompts: Prompts,
    scores: Given,
    tree: UnitTree,
    sizes: Sequence[UnitSize],
    config: UnitMaskConfig = UnitMaskConfig(),
    *,
    dictionary: Source | None = None,
    seed: int = 0,
) -> SearchedUnits:
    """Train masks over a tree of units, and read a circuit at the end of each size's plateau.

    Args:
        model: The model.
        prompts: Prompts to discover on.
        scores: Membership scores of the leaves, where the search begins.
        tree: The tree of units.
        sizes: Pairs (units, leaves), both upper limits, or costs; largest first.
        config: How masks are trained.
        dictionary: What the leaves inside MLPs are: a transcoder, or neurons by default.
        seed: Seed of batches and noise: the same seed gives the same circuits.

    Returns:
        A circuit for each size, and whether anything was found.

    Raises:
        InputError: If no antichain has one of the sizes, or scores, tree, dictionary or prompts do
            not fit together.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> tree = hagd.units.tree(case.model)
        >>> scores = hagd.baselines.random_scores(tree.space)
        >>> config = hagd.search.UnitMaskConfig(steps=20, ablations=("mean",))
        >>> made = search_units(case.model, case.prompts, scores, tree, [(4, 8), (2, 4)], config)
        >>> [len(found.units) <= 4 and found.leaves <= 8 for found in made.circuits]
        [True, True]
    """
    nodes = dictionary_of(model, tree, dictionary)
    require_run(model, prompts, config, UnitMaskConfig, seed=seed)
    limits = limits_of(sizes, tree.space.nodes, config.leaf_weight)
    row, _ = read(nodes.bare(), scores)
    state = init_units(jax.random.key(seed), row, tree, config, sizes=len(limits))
    scans = train_units(model, prompts, state, tree, sizes, config, dictionary=nodes)
    state, _ = collections.deque(scans, maxlen=1)[0]
    seen = seen_by_units(model, prompts, scores, tree, config, dictionary=nodes)
    read_all = read_states(tree, state, limits)
    chosen = [each.units for each in read_all]
    losses = unit_losses(model, prompts, tree, [(), *chosen], config, dictionary=nodes)
    empty, *found = ({name: float(rows[i]) for name, rows in losses.items()}
                     for i in range(1 + len(chosen)))  # fmt: skip
    circuits = tuple(
        UnitCircuit(each.units, each.ranks, size, own, seen)
        for each, size, own in zip(read_all, sizes, found, strict=True)
    )
    good = tuple(all(is_found(own[name], empty[name]) for name in empty) for own in found)
    return SearchedUnits(circuits, empty, good, state)


def train_units(
    model: LanguageModel,
    prompts: Prompts,
    state: UnitState,
    tree: UnitTree,
    sizes: Sequence[UnitSize],
    config: UnitMaskConfig = UnitMaskConfig(),
    *,
    dictionary: Source | None = None,
) -> Iterator[tuple[UnitState, dict[str, float]]]:
    """Take all remaining steps, several at a time.

    Args:
        model: The model.
        prompts: Prompts to discover on.
        state: From `init_units`, or one that was yielded before, with the same sizes.
        tree: The tree of units.
        sizes: As in `search_units`.
        config: How masks are trained.
        dictionary: As in `search_units`.

    Returns:
        An iterator over (state, metrics of its last step), one each `config.check_every` steps:
        the loss, expected cost, units and leaves, and each ablation's loss and weight. The caller
        owns the states.

    Raises:
        InputError: As in `search_units`; or if the state is one of another search.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> tree, config = hagd.units.tree(case.model), UnitMaskConfig(steps=20)
        >>> state = init_units(jax.random.key(0), np.arange(10), tree, config)
        >>> steps = train_units(case.model, case.prompts, state, tree, [(2, 4)], config)
        >>> [round(metrics["cost"], 3) for _, metrics in steps][-1]
        4.0
    """
    nodes = dictionary_of(model, tree, dictionary)
    require_run(model, prompts, config, UnitMaskConfig)
    require_is("state", state, UnitState, mend="Make one with init_units.")
    limits = limits_of(sizes, tree.space.nodes, config.leaf_weight)
    levels = levels_of(tree)
    require_fit(state, levels, len(limits), config)
    plan_of(limits, config, _top(state))
    return _scans(model, prompts, state, limits, config, nodes.bare(), levels)


def _scans(
    model: LanguageModel,
    prompts: Prompts,
    state: UnitState,
    limits: Sequence[Limit],
    config: UnitMaskConfig,
    nodes: Dictionary,
    levels: Any,
) -> Iterator[tuple[UnitState, dict[str, float]]]:
    plan = plan_of(limits, config, _top(state))
    target = target_of(
        model, prompts, config.batch_size, means=nodes if "mean" in config.ablations else None
    )
    partners = None
    if "resample" in config.ablations:
        partners = partners_of(model, prompts, config.draws)
    # Prompts are drawn with replacement, so that every ablation has some in each step.
    rows = batch_rows(config.batch_size, config.batch_size, model.mesh)
    search = UnitSearch(nodes, jax.tree.map(jnp.asarray, levels), partners)
    bare, inside, done = model.bare(), traced(config), int(state.step)
    while done < config.steps:
        some = slice(done, min(done + config.check_every, config.steps))
        # The scan takes the memory of the state that it is given.
        state, metrics = scan_units(
            bare, search, target, jax.tree.map(jnp.copy, state),
            (plan.cost[some], plan.weight[some], plan.reading[some]), inside, rows,
        )  # fmt: skip
        done = some.stop
        yield state, {name: float(values[-1]) for name, values in metrics.items()}


def read_states(tree: UnitTree, state: UnitState, limits: Sequence[Limit]) -> list[Read]:
    """Read the circuit of each size from the logits that were kept for it, see `read_units`."""
    levels, kept = levels_of(tree), jax.tree.map(np.asarray, state.kept)
    return [read_units(tree, levels, Gates(*(row[k] for row in kept)), limit)
            for k, limit in enumerate(limits)]  # fmt: skip


def _top(state: UnitState) -> tuple[float, float]:
    units, leaves = np.asarray(state.top).tolist()
    return units, leaves
