"""The certified core: units that most discoveries contain, whichever few prompts change.

Circuits that are equally faithful overlap near chance (arXiv:2605.12671), so that one discovery's
leaves are no property of the model. The core is what discoveries from random parts of the prompts
have in common, and its certificate says how many prompts would have to change to evict a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hagd_jax.errors import InputError, require_callable, require_index, require_is
from hagd_jax.search.certificate import require_radius_one
from hagd_jax.search.certified_core import Core
from hagd_jax.search.discoveries import (
    CoreConfig,
    Rule,
    count_found,
    count_runs,
    grouped,
    prompt_rows,
)
from hagd_jax.tasks.seen import Seen


def core(
    scores: Any,
    size: int,
    config: CoreConfig = CoreConfig(),
    *,
    groups: Sequence[Any] | None = None,
    seen: Seen | None = None,
    seed: int = 0,
) -> Core:
    """Discover the best units from each of many random subsets of prompts, and certify them.

    Args:
        scores: (P, N) finite numbers, the score of each leaf on each prompt by itself; or anything
            with such `values` and with `seen`.
        size: Units that each discovery finds: those with the highest means over its prompts.
        config: How many prompts a discovery reads, how many there are, and the confidence.
        groups: Arrays of indices of leaves if units are groups of them, such as clusters, heads and
            single neurons side by side. A unit's score is the sum of its leaves' scores.
        seen: What plain numbers have seen; unknown if None.
        seed: Seed of the subsets. Choose it before looking at results.

    Returns:
        The core.

    Raises:
        InputError: If scores, groups, size or record do not fit, or the prompts or subsets are too
            few to certify even a unit that is always found; the message says how many are needed.

    Example:
        >>> scores = np.random.default_rng(0).normal(size=(64, 40)) + 5.0 * (np.arange(40) < 4)
        >>> found = core(scores, 6)
        >>> found
        Core(4 of 40 units at radius 1, 4 at 4; 1,000 discoveries from 8 of 64 prompts; ...)
        >>> found.table([0, 39])[0]["share"], np.flatnonzero(found.members(4)).tolist()
        (1.0, [0, 1, 2, 3])
    """
    require_is("config", config, CoreConfig)
    rows, record = prompt_rows(scores, seen)
    leaves, units = rows.shape[1], None
    if groups is not None:
        rows, units = grouped(rows, groups)
    size = require_index("size", size)
    if not 1 <= size <= rows.shape[1]:
        raise InputError("size", got=size, expected=f"1 to {rows.shape[1]}, the number of units")
    _require_enough(config, *rows.shape)
    counts = count_found(rows, size, config, require_index("seed", seed))
    return _made(counts, config, len(rows), size=size, rule=config.by, seed=seed, seen=record,
                 leaves=leaves, groups=units)  # fmt: skip


def core_of_rule(
    rule: Rule, prompts: int, units: int, config: CoreConfig, *, seed: int = 0
) -> Core:
    """Certify what any rule discovers from subsets of prompts, such as a search for masks.

    Args:
        rule: ((k,) ascending indices of prompts, seed) → (N,) bool, `Nodes` of bool or a
            `Selection`. It must read these prompts only; its other choices may depend on the seed.
            With few runs only few units can be certified: about log(2N/α) / log(1/(τ + k/P)) runs
            are needed.
        prompts: P.
        units: N.
        config: Its `by` is not used.
        seed: Seed of the subsets and of the rule's seeds.

    Returns:
        The core. What it has seen is unknown unless every run returns a `Selection`.

    Raises:
        InputError: As in `core`, before the first run; or if the rule returns something else.

    Example:
        >>> everywhere = np.arange(4) < 2
        >>> core_of_rule(lambda rows, seed: everywhere, 64, 4, CoreConfig(subsets=32)).sizes()
        {0: 2, 1: 2, 2: 2, 3: 2}
    """
    require_callable("rule", rule, "(indices of prompts, seed)")
    require_is("config", config, CoreConfig)
    prompts, units = require_index("prompts", prompts), require_index("units", units)
    if not units:
        raise InputError("units", got=0, expected="1 or more")
    _require_enough(config, prompts, units)
    counts, seen = count_runs(rule, prompts, units, config, require_index("seed", seed))
    name = getattr(rule, "__name__", type(rule).__name__)
    return _made(counts, config, prompts, rule=name, seed=seed, seen=seen)


def _require_enough(config: CoreConfig, prompts: int, units: int) -> None:
    require_radius_one(
        prompts, config.kept, subsets=config.subsets, units=units, alpha=config.alpha,
        threshold=config.threshold,
    )  # fmt: skip


def _made(counts: np.ndarray, config: CoreConfig, prompts: int, **fields: Any) -> Core:
    return Core(counts, config.subsets, prompts, config.kept, config.threshold, config.alpha,
                **fields)  # fmt: skip
