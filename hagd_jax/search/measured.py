"""Starts from measured cuts, where they cost less than the search that they begin."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hagd_jax.errors import InputError, require_index, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.scores.cuts import CutConfig, cuts
from hagd_jax.search.checks import require_run
from hagd_jax.search.config import MaskConfig
from hagd_jax.search.outcome import measured_losses
from hagd_jax.search.parts import best, read
from hagd_jax.search.repair import GRADIENT
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Parts, Scores, Selection, Source, parts_of
from hagd_jax.units.rows import count

# Effects measured on fewer prompts say little.
_LEAST_PROMPTS = 16
# Fewer parts have pairs that hardly tell more than their effects alone.
_LEAST_PAIRED = 6


def search_cost(config: MaskConfig) -> int:
    """Count the forward passes of one prompt that a search costs; a gradient counts as three.

    Args:
        config: How masks are trained.

    Returns:
        The number of passes.

    Example:
        >>> search_cost(MaskConfig(steps=100, batch_size=8))
        2400
    """
    require_is("config", config, MaskConfig)
    return GRADIENT * config.steps * config.batch_size


def with_cuts(
    starts: Mapping[str, Scores],
    model: LanguageModel,
    prompts: Prompts,
    config: MaskConfig = MaskConfig(),
    *,
    dictionary: Parts | Source | None = None,
    at_once: int = 16,
    seed: int = 0,
) -> dict[str, Scores]:
    """Add measured cuts to the scores that a search may begin from, if they cost less than it.

    Cutting each of N parts on n prompts costs N · n forward passes. As many prompts are drawn as
    the cost of the search allows; if these are fewer than 16, the starts are returned as they are.
    What is left of the cost is spent on pairs among the parts that the first start scores highest
    in magnitude, or that have the largest effects alone if there is no start.

    Args:
        starts: Name → scores; may be empty.
        model: The model.
        prompts: The discover split.
        config: The search, which decides what it costs.
        dictionary: As in `search_masks`.
        at_once: Masks that run side by side.
        seed: Seed of the choice of prompts.

    Returns:
        The starts, with "cuts" in front where it is affordable, and "paired cuts" after it where
        any pair is.

    Raises:
        InputError: If the prompts, the dictionary or the starts do not fit the model.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> list(with_cuts({}, case.model, case.prompts))
        ['cuts', 'paired cuts']
        >>> list(with_cuts({}, case.model, case.prompts, MaskConfig(steps=1)))
        []
    """
    require_run(model, prompts, config, MaskConfig, seed=require_index("seed", seed))
    require_is("starts", starts, Mapping)
    parts, budget = parts_of(model, dictionary), search_cost(config)
    total = count(parts)
    few = min(len(prompts), budget // total)
    if few < min(_LEAST_PROMPTS, len(prompts)):
        return dict(starts)
    some = np.sort(np.random.default_rng(seed).permutation(len(prompts))[:few])
    # K (K − 1) / 2 pairs for what is left.
    left = 2 * (budget - total * few) // few
    pairs = min(total, int((1 + np.sqrt(1 + 4 * left)) // 2))
    pairs = pairs if pairs >= min(_LEAST_PAIRED, total) else 0
    how = CutConfig(pairs=pairs, batch_size=config.batch_size, at_once=at_once,
                    metric=config.metric)  # fmt: skip
    found = cuts(model, prompts[some], how, dictionary=dictionary,
                 first=next(iter(starts.values()), None))  # fmt: skip
    both = {"paired cuts": found.scores} if len(found.pairs) else {}
    return {"cuts": found.alone} | both | dict(starts)


def smallest_circuit(
    model: LanguageModel,
    prompts: Prompts,
    scores: Scores,
    *,
    most: float = 1e-3,
    config: MaskConfig = MaskConfig(),
    dictionary: Parts | Source | None = None,
) -> Selection:
    """Find the smallest circuit of highest scores whose loss is small, by halving the sizes.

    It is the smallest one if the loss falls as the circuit grows, and costs log₂ N circuits.

    Args:
        model: The model.
        prompts: Prompts to measure on.
        scores: Scores of all parts, such as the effects of cuts.
        most: Largest loss, as a share of the empty circuit's.
        config: Batch size, weight of the metric, and the ablations.
        dictionary: As in `search_masks`.

    Returns:
        The circuit; of all parts, if nothing smaller will do.

    Raises:
        InputError: If the scores or prompts do not fit, or `most` is no share.

    Example:
        >>> from hagd_jax.scores.cuts import cuts
        >>> case = hagd.testbeds.hand_built()[1]
        >>> effects = cuts(case.model, case.prompts).alone
        >>> len(smallest_circuit(case.model, case.prompts, effects))
        3
    """
    require_run(model, prompts, config, MaskConfig)
    if isinstance(most, bool) or not isinstance(most, int | float) or not 0 <= most <= 1:
        raise InputError("most", got=repr(most), expected="a share from 0 to 1")
    parts = parts_of(model, dictionary)
    row, seen = read(parts, scores)

    def losses(*sizes: int) -> np.ndarray:
        circuits = [best(parts, row, size) for size in sizes]
        return measured_losses(model, prompts, circuits, config, dictionary=dictionary)

    enough = most * losses(0)[0]
    low, high = 0, len(row)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if losses(middle)[0] <= enough else (middle, high)
    return Selection(best(parts, row, high), seen)
