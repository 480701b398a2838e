"""Differentiable masks: which nodes keep the model's behaviour, found by gradient descent.

Every node has a logit; masks are drawn from it at an expected size that shrinks from most of the
model to the size asked for. The loss is how far the masked model is from the model, in KL of its
next token and in the task's metric. With a tree of clusters a node is open if all clusters above it
are, and levels join one after the other, coarsest first.
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
from hagd_jax.search.checks import require_run, require_sizes, require_tree
from hagd_jax.search.config import MaskConfig, shares
from hagd_jax.search.mask_steps import (
    MaskState,
    Search,
    init_masks,
    mask_ranks,
    require_fit,
    scan_jitted,
    traced,
)
from hagd_jax.search.objective import target_of
from hagd_jax.search.outcome import is_found, measured_losses
from hagd_jax.search.parts import Given, best, looked, read
from hagd_jax.search.schedule import schedule, trained_at
from hagd_jax.search.tree import Tree
from hagd_jax.tasks.batching import batch_rows
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Parts, Selection, Source, parts_of
from hagd_jax.units.rows import count


class Searched(NamedTuple):
    """The result of a mask search holds circuits, their losses and the final state.

    Attributes:
        circuits: Size → `Selection`, with what it has seen.
        state: The last state, from which `mask_ranks` ranks all nodes.
        loss: Measured loss of the circuit that masks were trained down to.
        empty: Measured loss of the empty circuit.
        found: Whether that circuit takes away 5% of the empty circuit's loss or more; if not, the
            search found nothing, and no circuit of this result should be used.
    """

    circuits: dict[int, Selection]
    state: MaskState
    loss: float
    empty: float
    found: bool

    __repr__ = one_line


def search_masks(
    model: LanguageModel,
    prompts: Prompts,
    scores: Given,
    sizes: Sequence[int],
    config: MaskConfig = MaskConfig(),
    *,
    tree: Tree | None = None,
    dictionary: Parts | Source | None = None,
    seed: int = 0,
) -> Searched:
    """Train masks down to the smallest size, and read circuits of all sizes on the way.

    The circuit of each size holds the nodes that are likeliest to be open in a mask of that size,
    see `tree.ranks`. `train_masks` does the same step by step, to save and to go on.

    Args:
        model: The model.
        prompts: Prompts to discover on.
        scores: Membership scores of all nodes, where the search begins.
        sizes: Circuit sizes to return, in nodes.
        config: How masks are trained.
        tree: Clusters of nodes; none if None.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default; or the
            model's `components`, between which edges are searched for.
        seed: Seed of batches and noise: the same seed gives the same circuits.

    Returns:
        Circuits of all sizes, each with as many members, and whether anything was found.

    Raises:
        InputError: If a size is not from 1 to the number of nodes, or prompts, scores or tree do
            not fit.

    Example:
        >>> from hagd_jax.scores import mean_scores
        >>> from hagd_jax.search import MaskConfig, search_masks
        >>> from hagd_jax.testbeds import hand_built
        >>> case = hand_built()[0]
        >>> scores = mean_scores(case.model, case.prompts)
        >>> found = search_masks(case.model, case.prompts, scores, [4, 2], MaskConfig(steps=20))
        >>> int(found.circuits[2].flat().sum())
        2
    """
    circuits, state = trained_circuits(
        model, prompts, scores, sizes, config, tree=tree, dictionary=dictionary, seed=seed
    )
    return searched(model, prompts, circuits, state, config, dictionary)


def searched(
    model: LanguageModel,
    prompts: Prompts,
    circuits: dict[int, Selection],
    state: MaskState,
    config: MaskConfig,
    dictionary: Parts | Source | None,
) -> Searched:
    """Measure the smallest circuit and the empty one, and decide whether anything was found."""
    smallest = circuits[min(circuits)]
    nothing = smallest.like(np.zeros_like(smallest.flat()))
    loss, empty = measured_losses(
        model, prompts, [smallest, nothing], config, dictionary=dictionary
    )
    return Searched(circuits, state, float(loss), float(empty), is_found(loss, empty))


def read_circuits(
    parts: Parts, state: MaskState, sizes: Sequence[int], seen: Seen, tree: Tree | None = None
) -> dict[int, Selection]:
    """Map each size to the nodes that are likeliest to be open in a mask of that size."""
    ranks = zip(sizes, mask_ranks(state, sizes, tree), strict=True)
    return {int(size): Selection(best(parts, row, int(size)), seen) for size, row in ranks}


def trained_circuits(
    model: LanguageModel,
    prompts: Prompts,
    scores: Given,
    sizes: Sequence[int],
    config: MaskConfig,
    *,
    tree: Tree | None = None,
    dictionary: Parts | Source | None = None,
    seed: int = 0,
) -> tuple[dict[int, Selection], MaskState]:
    """Train masks as `search_masks` does, and return the unmeasured circuits and the state."""
    require_run(model, prompts, config, MaskConfig, tree=tree, seed=seed)
    parts = parts_of(model, dictionary)
    sizes = require_sizes(sizes, count(parts))
    row, _ = read(parts, scores)
    begun = init_masks(jax.random.key(seed), row, config, tree=tree, sizes=len(sizes))
    scans = train_masks(model, prompts, begun, sizes, config, tree=tree, dictionary=dictionary)
    (state, _) = collections.deque(scans, maxlen=1)[0]
    seen = seen_by_masks(model, prompts, scores, config, tree=tree, dictionary=dictionary)
    return read_circuits(parts, state, sizes, seen, tree), state


def train_masks(
    model: LanguageModel,
    prompts: Prompts,
    state: MaskState,
    sizes: Sequence[int],
    config: MaskConfig = MaskConfig(),
    *,
    least: int | None = None,
    tree: Tree | None = None,
    dictionary: Parts | Source | None = None,
) -> Iterator[tuple[MaskState, dict[str, float]]]:
    """Take all remaining steps, several at a time.

    Args:
        model: The model.
        prompts: Prompts to discover on.
        state: From `init_masks`, or one that was yielded before, with the same sizes.
        sizes: Circuit sizes to keep, in nodes.
        config: How masks are trained.
        least: Size at the end of the training; the smallest of the sizes if None. Smaller circuits
            are read from the last masks.
        tree: As in `search_masks`.
        dictionary: As in `search_masks`.

    Returns:
        An iterator over (state, metrics of its last step), one each `config.check_every` steps.
        The caller owns the states.

    Raises:
        InputError: As in `search_masks`; or if the state is one of another search.

    Example:
        >>> import jax, numpy as np
        >>> from hagd_jax.search import MaskConfig, init_masks, train_masks
        >>> from hagd_jax.testbeds import hand_built
        >>> case, config = hand_built()[0], MaskConfig(steps=20)
        >>> state = init_masks(jax.random.key(0), np.zeros(10), config)
        >>> [int(now.step) for now, _ in train_masks(case.model, case.prompts, state, [3], config)]
        [10, 20]
    """
    require_run(model, prompts, config, MaskConfig, tree=tree)
    require_is("state", state, MaskState, mend="Make one with init_masks.")
    parts, tree = parts_of(model, dictionary), Tree(()) if tree is None else tree.bare()
    total = count(parts)
    sizes = require_sizes(sizes, total)
    if least is not None:
        (least,) = require_sizes([least], total)
    require_tree(tree, total)
    require_fit(state, len(sizes), tree, total)
    return _scans(
        model, prompts, state, sizes, config, least or min(sizes), Search(parts, tree, ())
    )


def _scans(
    model: LanguageModel,
    prompts: Prompts,
    state: MaskState,
    sizes: Sequence[int],
    config: MaskConfig,
    least: int,
    search: Search,
) -> Iterator[tuple[MaskState, dict[str, float]]]:
    plan = schedule(config, count(search.parts), least, len(search.tree.clusters))
    search = search._replace(sizes=trained_at(sizes, config, plan))
    means = search.parts if config.mean else None
    target = target_of(model, prompts, config.batch_size, means=means)
    rows = batch_rows(len(prompts), config.batch_size, model.mesh)
    bare, inside = model.bare(), traced(config)
    done = int(state.step)
    while done < config.steps:
        some = slice(done, min(done + config.check_every, config.steps))
        # The scan takes the memory of the state that it is given.
        state, metrics = scan_jitted(
            bare, search, target, jax.tree.map(jnp.copy, state),
            (plan.size[some], plan.opened[some]), inside, rows,
        )  # fmt: skip
        done = some.stop
        yield state, {name: float(values[-1]) for name, values in metrics.items()}


def seen_by_masks(
    model: LanguageModel,
    prompts: Prompts,
    scores: Given,
    config: MaskConfig = MaskConfig(),
    *,
    tree: Tree | None = None,
    dictionary: Parts | Source | None = None,
) -> Seen:
    """Record the data that decide circuits of trained masks, as in `search_masks`.

    Args:
        model: The model.
        prompts: Prompts that masks were trained on.
        scores: Where they began; scores without a history have an unknown one.
        config: How they were trained, which decides under which ablations.
        tree: Clusters of nodes.
        dictionary: As in `search_masks`.

    Returns:
        What was seen.

    Example:
        >>> from hagd_jax.baselines import random_scores
        >>> from hagd_jax.search import MaskConfig, seen_by_masks
        >>> from hagd_jax.testbeds import hand_built
        >>> from hagd_jax.units import neurons
        >>> case = hand_built()[0]
        >>> scores = random_scores(neurons(case.model).space)
        >>> seen_by_masks(case.model, case.prompts, scores, MaskConfig(mean=0.5)).ablations
        ('counterfactual', 'mean')
    """
    require_run(model, prompts, config, MaskConfig, tree=tree)
    _, before = read(parts_of(model, dictionary), scores)
    seen = before | looked(model, prompts, dictionary, tuple(shares(config)))
    return seen if tree is None else seen | tree.history()
