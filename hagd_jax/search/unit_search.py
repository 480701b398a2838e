"""The search over heads and supernodes: circuits of so many units that hold so many leaves.

Masks (`unit_gates`) are trained at two expected sizes that fall to each requested pair and
stay there for a while. What they keep of an MLP is one supernode: a reader takes it in as a whole,
and opens it if need be.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import require_is
from hagd_jax.models import LanguageModel
from hagd_jax.search.checks import require_run
from hagd_jax.search.objective import target_of
from hagd_jax.search.outcome import is_found
from hagd_jax.search.parts import Given, looked, read
from hagd_jax.search.several import partners_of
from hagd_jax.search.unit_circuit import UnitCircuit, unit_losses
from hagd_jax.search.unit_config import UnitMaskConfig
from hagd_jax.search.unit_gates import UnitGates
from hagd_jax.search.unit_plan import Plan, plan_of, sizes_of_pairs
from hagd_jax.search.unit_read import Read, read_units
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
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Dictionary, Source, UnitTree, as_dictionary

# Prompts that circuits are measured on after the search: enough to tell whether it found anything.
MEASURED = 256


class SearchedUnits(NamedTuple):
    """The result of a search over heads and supernodes.

    Attributes:
        tree: The tree that the units of all circuits are of.
        circuits: One for each size, in the order of the sizes.
        empty: Ablation → loss of the empty circuit, on the first 256 prompts at most, as of all
            circuits.
        found: For each circuit, whether it takes away 5% or more of the empty circuit's loss under
            every ablation; if not, it should not be used.
        state: The last state.
    """

    tree: UnitTree
    circuits: tuple[UnitCircuit, ...]
    empty: dict[str, float]
    found: tuple[bool, ...]
    state: UnitState

    __repr__ = one_line


def search_units(
    model: LanguageModel,
    prompts: Prompts,
    scores: Given,
    sizes: Sequence[tuple[int, int]],
    config: UnitMaskConfig = UnitMaskConfig(),
    *,
    dictionary: Source | None = None,
    seed: int = 0,
) -> SearchedUnits:
    """Train masks over heads, MLPs and the leaves inside MLPs, and read a circuit of each size.

    Args:
        model: The model.
        prompts: Prompts to discover on.
        scores: Scores of the leaves, where the search begins, see `UnitMaskConfig.signed`.
        sizes: Pairs (units, leaves), both upper limits, largest first.
        config: How masks are trained.
        dictionary: What the leaves inside MLPs are: a transcoder, or neurons by default.
        seed: Seed of batches and noise: the same seed gives the same circuits.

    Returns:
        A circuit for each size, with their tree, and whether anything was found.

    Raises:
        InputError: If no circuit has one of the sizes, or scores, dictionary or prompts do not fit
            together.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> scores = hagd.baselines.random_scores(hagd.units.neurons(case.model).space)
        >>> config = hagd.search.UnitMaskConfig(steps=20, ablations=("mean",))
        >>> made = search_units(case.model, case.prompts, scores, [(4, 8), (2, 4)], config)
        >>> [len(found.units) <= 4 and found.leaves <= 8 for found in made.circuits]
        [True, True]
    """
    nodes = as_dictionary(model, dictionary)
    require_run(model, prompts, config, UnitMaskConfig, seed=seed)
    pairs = sizes_of_pairs(sizes, nodes.space.nodes)
    row, _ = read(nodes.bare(), scores)
    state = init_units(jax.random.key(seed), row, nodes.space, config, sizes=len(pairs))
    scans = train_units(model, prompts, state, pairs, config, dictionary=nodes)
    state, _ = collections.deque(scans, maxlen=1)[0]
    seen = seen_by_units(model, prompts, scores, config, dictionary=nodes)
    tree, chains = read_state(nodes, state, pairs, seen, heads_each=config.heads_each)
    chosen = [each.units for each in chains]
    some = prompts[:MEASURED]
    losses = unit_losses(model, some, tree, [(), *chosen], config, dictionary=nodes)
    empty, *found = ({name: float(rows[i]) for name, rows in losses.items()}
                     for i in range(1 + len(chosen)))  # fmt: skip
    circuits = tuple(
        UnitCircuit(each.units, each.ranks, size, own, seen)
        for each, size, own in zip(chains, pairs, found, strict=True)
    )
    good = tuple(all(is_found(own[name], empty[name]) for name in empty) for own in found)
    return SearchedUnits(tree, circuits, empty, good, state)


def train_units(
    model: LanguageModel,
    prompts: Prompts,
    state: UnitState,
    sizes: Sequence[tuple[int, int]],
    config: UnitMaskConfig = UnitMaskConfig(),
    *,
    dictionary: Source | None = None,
) -> Iterator[tuple[UnitState, dict[str, float]]]:
    """Take all remaining steps, several at a time.

    Args:
        model: The model.
        prompts: Prompts to discover on.
        state: From `init_units`, or one that was yielded before, with the same sizes.
        sizes: As in `search_units`.
        config: How masks are trained.
        dictionary: As in `search_units`.

    Returns:
        An iterator over (state, metrics of its last step), one each `config.check_every` steps:
        the loss, expected units and leaves, and each ablation's loss and weight. The caller owns
        the states.

    Raises:
        InputError: As in `search_units`; or if the state is one of another search.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> space, config = hagd.units.neurons(case.model).space, UnitMaskConfig(steps=20)
        >>> state = init_units(jax.random.key(0), np.arange(10), space, config)
        >>> steps = train_units(case.model, case.prompts, state, [(2, 4)], config)
        >>> [round(metrics["leaves"], 2) for _, metrics in steps][-1]
        4.0
    """
    nodes = as_dictionary(model, dictionary)
    require_run(model, prompts, config, UnitMaskConfig)
    require_is("state", state, UnitState, mend="Make one with init_units.")
    pairs = sizes_of_pairs(sizes, nodes.space.nodes)
    require_fit(state, nodes.space, len(pairs), config)
    plan = plan_of(pairs, nodes.space, config)
    return _scans(model, prompts, state, plan, config, nodes.bare())


def _scans(
    model: LanguageModel,
    prompts: Prompts,
    state: UnitState,
    plan: Plan,
    config: UnitMaskConfig,
    nodes: Dictionary,
) -> Iterator[tuple[UnitState, dict[str, float]]]:
    target = target_of(
        model, prompts, config.batch_size, means=nodes if "mean" in config.ablations else None
    )
    partners = None
    if "resample" in config.ablations:
        partners = partners_of(model, prompts, config.draws)
    # Prompts are drawn with replacement, so that every ablation has some in each step.
    rows = batch_rows(config.batch_size, config.batch_size, model.mesh)
    search = UnitSearch(nodes, partners)
    bare, inside, done = model.bare(), traced(config), int(state.step)
    while done < config.steps:
        some = slice(done, min(done + config.check_every, config.steps))
        # The scan takes the memory of the state that it is given.
        state, metrics = scan_units(
            bare, search, target, jax.tree.map(jnp.copy, state), tuple(row[some] for row in plan),
            inside, rows,
        )  # fmt: skip
        done = some.stop
        yield state, {name: float(values[-1]) for name, values in metrics.items()}


def read_state(
    nodes: Dictionary,
    state: UnitState,
    sizes: Sequence[tuple[int, int]],
    seen: Seen,
    clusters: Sequence[np.ndarray] = (),
    *,
    heads_each: float = 1.0,
) -> tuple[UnitTree, list[Read]]:
    """Read the circuit of each size from the logits that were kept for it, and their tree.

    Args:
        nodes: The dictionary.
        state: After its last step.
        sizes: As in `search_units`.
        seen: The data that decided state and clusters.
        clusters: See `unit_read.read_units`.
        heads_each: As in the configuration of the search.

    Returns:
        The tree, and the circuits in the order of the sizes.
    """
    kept = jax.tree.map(np.asarray, state.kept)
    gates = [UnitGates(*(row[k] for row in kept)) for k in range(len(sizes))]
    return read_units(nodes.space, nodes.label, gates, sizes, seen, clusters, heads_each)


def seen_by_units(
    model: LanguageModel,
    prompts: Prompts,
    scores: Given,
    config: UnitMaskConfig = UnitMaskConfig(),
    *,
    dictionary: Source | None = None,
) -> Seen:
    """Record the data that decide circuits of a search over heads and supernodes.

    Args:
        model: The model.
        prompts: Prompts that masks were trained on.
        scores: Where they began; scores without a history have an unknown one.
        config: How they were trained, which decides under which ablations.
        dictionary: As in `search_units`.

    Returns:
        What was seen.
    """
    nodes = as_dictionary(model, dictionary)
    require_is("config", config, UnitMaskConfig)
    _, before = read(nodes.bare(), scores)
    return before | looked(model, prompts, nodes, config.ablations)
