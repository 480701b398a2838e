"""Restarts: masks from several scores, each repaired, and the best by what is measured."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_is, require_list
from hagd_jax.models import LanguageModel
from hagd_jax.search.checks import require_run, require_sizes
from hagd_jax.search.config import MaskConfig, RepairConfig, shares
from hagd_jax.search.mask_search import trained_circuits
from hagd_jax.search.mask_steps import mask_ranks
from hagd_jax.search.outcome import is_found, measured_losses
from hagd_jax.search.parts import Given, best, looked, read
from hagd_jax.search.repair import Repaired, repair
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Parts, Selection, Source, parts_of
from hagd_jax.units.rows import count

# A circuit does all that the model does if its loss is below this share of the empty circuit's.
ENOUGH = 1e-3


class Best(NamedTuple):
    """The result of restarts holds the best circuit and the losses of all of them.

    Attributes:
        mask: The circuit of the least loss, as a `Selection`.
        ranks: (N,) log-probabilities of all nodes in the search that led to it, or the scores if
            their own highest nodes did.
        losses: Of every start that was tried, after repair.
        empty: Loss of the empty circuit.
        found: Whether the best circuit takes away 5% of the empty circuit's loss or more; if not,
            every restart found nothing, and the circuit should not be used.
    """

    mask: Selection
    ranks: np.ndarray
    losses: tuple[float, ...]
    empty: float
    found: bool

    __repr__ = one_line


def search_restarts(
    model: LanguageModel,
    prompts: Prompts,
    starts: Sequence[Given],
    size: int,
    config: MaskConfig = MaskConfig(),
    swaps: RepairConfig = RepairConfig(rounds=20),
    *,
    dictionary: Parts | Source | None = None,
    seed: int = 0,
) -> Best:
    """Train masks from each of several scores, repair what they find, and keep the best.

    One search may end where no swap leads out, such as in half of a circuit of exclusive-or. The
    loss over the discovery prompts decides, and of equal ones the first. The highest parts of the
    scores themselves are measured too: where their loss is no higher than that of the trained
    masks, they are repaired instead. A start whose highest parts have less than 0.1% of the empty
    circuit's loss is not trained, and once a circuit is as good as that, no other start is tried.

    Args:
        model: The model.
        prompts: Prompts to discover on.
        starts: Membership scores, one a restart, cheapest or likeliest first; equal ones still
            differ in batches and noise.
        size: Circuit size, in nodes.
        config: How masks are trained.
        swaps: How circuits are repaired; under the same ablations, if `swaps.mean` is None.
        dictionary: As in `search_masks`.
        seed: Seed of the first restart; the next ones count up.

    Returns:
        The best circuit, which has seen what all starts have seen; check `found` before using it.

    Raises:
        InputError: If there is no start, or it or the size does not fit.

    Example:
        >>> from hagd_jax.baselines import random_scores
        >>> from hagd_jax.search import MaskConfig, search_restarts
        >>> from hagd_jax.testbeds import hand_built
        >>> from hagd_jax.units import neurons
        >>> case, config = hand_built()[0], MaskConfig(steps=20)
        >>> starts = [random_scores(neurons(case.model).space, seed) for seed in (0, 1)]
        >>> best = search_restarts(case.model, case.prompts, starts, 3, config)
        >>> len(best.losses), best.found
        (2, True)
    """
    require_run(model, prompts, config, MaskConfig, seed=seed)
    require_is("swaps", swaps, RepairConfig)
    starts = require_list("starts", starts, "one or more scores")
    if not starts:
        raise InputError("starts", got="none", expected="one or more scores")
    parts = parts_of(model, dictionary)
    (size,) = require_sizes([size], count(parts))
    seen = functools.reduce(operator.or_, (read(parts, scores)[1] for scores in starts))
    if swaps.mean is None:
        swaps = dataclasses.replace(swaps, mean=config.mean)
    seen |= looked(model, prompts, dictionary, tuple(shares(swaps)))
    run = _Run(model, prompts, dictionary, parts, size, config, swaps, seen)
    results: list[tuple[Repaired, np.ndarray]] = []
    for number, scores in enumerate(starts):
        results.append(run.attempt(scores, seed + number))
        better, _ = results[-1]
        if better.found and better.losses[-1] <= ENOUGH * better.empty:
            break
    losses = tuple(better.losses[-1] for better, _ in results)
    better, ranks = results[losses.index(min(losses))]
    return Best(better.mask.after(seen), ranks, losses, better.empty, better.found)


class _Run(NamedTuple):
    """A run holds what all starts have in common."""

    model: LanguageModel
    prompts: Prompts
    dictionary: Parts | Source | None
    parts: Parts
    size: int
    config: MaskConfig
    swaps: RepairConfig
    seen: Seen

    __repr__ = one_line

    def attempt(self, scores: Given, seed: int) -> tuple[Repaired, np.ndarray]:
        """The circuit that a start leads to, and how all parts were ranked."""
        row, _ = read(self.parts, scores)
        # The highest of equal scores are only the first parts.
        own, before = None, np.inf
        if np.ptp(row):
            own = Selection(best(self.parts, row, self.size), self.seen)
            before, empty = self.measured(own, own.like(np.zeros_like(own.flat())))
            if before <= ENOUGH * empty and is_found(before, empty):
                return Repaired(own, (float(before),), 2, float(empty), True), row
        circuits, state = trained_circuits(
            self.model, self.prompts, scores, [self.size], self.config,
            dictionary=self.dictionary, seed=seed,
        )  # fmt: skip
        circuit, ranks = circuits[self.size], mask_ranks(state, [self.size])[0]
        if own is not None and before <= self.measured(circuit)[0]:
            circuit, ranks = own, row
        better = repair(self.model, self.prompts, circuit, self.swaps, dictionary=self.dictionary)
        return better, ranks

    def measured(self, *masks: Given) -> np.ndarray:
        """Losses of circuits under the ablations of the search."""
        return measured_losses(
            self.model, self.prompts, masks, self.swaps, dictionary=self.dictionary
        )
