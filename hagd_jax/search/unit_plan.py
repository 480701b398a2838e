"""Sizes of circuits of heads and supernodes, and what each step of the search is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import brief, one_line
from hagd_jax.errors import InputError, require_list
from hagd_jax.search.unit_config import UnitMaskConfig
from hagd_jax.search.unit_sizes import limits_of
from hagd_jax.units import Space

# Share of a plateau after which the mean of the logits begins.
_UNSETTLED = 1 / 3
# Adam's learning rate at the end, as a share of what it was.
_LAST_RATE = 0.1


class Plan(NamedTuple):
    """A plan gives each step its sizes as data, so that one program serves all phases.

    Attributes:
        units: (steps,) float32 expected units.
        leaves: (steps,) float32 expected leaves.
        rate: (steps,) float32 share of the learning rate.
        sharp: (steps,) float32 what logits are multiplied by.
        averaged: (steps,) float32 number of steps, this one included, over which the mean of the
            logits is taken; at most 1 where it begins anew.
        reading: (steps, K) whether the plateau of each size has not ended before the step.
    """

    units: np.ndarray
    leaves: np.ndarray
    rate: np.ndarray
    sharp: np.ndarray
    averaged: np.ndarray
    reading: np.ndarray

    __repr__ = one_line


def sizes_of_pairs(sizes: Sequence[tuple[int, int]], total: int) -> list[tuple[int, int]]:
    """Read sizes that are pairs (units, leaves), both upper limits, largest first.

    Args:
        sizes: The pairs.
        total: Number of leaves of the model.

    Returns:
        The pairs.

    Raises:
        InputError: If there is none, or one that no circuit has, or they do not descend.
    """
    expected = f"pairs (units, leaves) with 1 ≤ units ≤ leaves ≤ {total}, largest first"
    listed = require_list("sizes", sizes, expected)
    if not all(isinstance(size, tuple | list) for size in listed):
        raise InputError("sizes", got=brief(listed), expected=expected)
    return [(each.units, each.leaves) for each in limits_of(listed, total, 1.0)]


def least_steps(count: int, plateau: float) -> int:
    """Return the fewest steps with which each plateau has one.

    Args:
        count: Number of sizes.
        plateau: Share of the steps that plateaus have.

    Example:
        >>> least_steps(1, 0.5), least_steps(3, 0.5)
        (2, 8)
    """
    return math.ceil(max(1, 2 * (count - 1)) / plateau)


def plan_of(sizes: Sequence[tuple[int, int]], space: Space, config: UnitMaskConfig) -> Plan:
    """Make a plan: both sizes fall geometrically to each pair, and stay there for a plateau.

    Steps that fall are divided among the pairs by how far each falls, on a logarithmic scale. The
    last pair has half of the other steps, as its plateau, and the others share the rest.

    Args:
        sizes: K pairs, largest first.
        space: Numbers of layers, heads and features.
        config: How masks are trained.

    Returns:
        What each step is asked for.

    Raises:
        InputError: If there are fewer steps than each plateau needs.

    Example:
        >>> plan = plan_of([(2, 4)], Space(2, 2, 8), UnitMaskConfig(steps=4, plateau=0.5, start=1))
        >>> [f"{units:.2f} {leaves:.2f}" for units, leaves in zip(plan.units, plan.leaves)]
        ['4.00 20.00', '2.83 8.94', '2.00 4.00', '2.00 4.00']
    """
    count, still = len(sizes), config.plateau * config.steps
    if config.steps < least_steps(count, config.plateau):
        raise InputError("steps", got=config.steps,
                         expected=f"one or more on each of {count} plateaus",
                         mend="Take more steps, a larger plateau, or fewer sizes.")  # fmt: skip
    layers, heads, _ = space
    first = config.start * np.array([layers * max(heads, 2), space.nodes])
    pairs = np.array(sizes, float)
    ends = np.log(np.concatenate([np.maximum(first, pairs[0])[None], pairs]))
    far = np.abs(np.diff(ends, axis=0)).max(1) + 1e-9
    share = np.array([1.0] * (count - 1) + [max(count - 1, 1)])
    lengths = np.stack([far / far.sum() * (config.steps - still), share / share.sum() * still])
    stops = np.floor(np.cumsum(lengths.T) + 0.5 + 1e-9).astype(int).reshape(count, 2)
    stops[-1, 1] = config.steps
    rows, counts, begin = [], [], 0
    for k, (fallen, stop) in enumerate(stops.tolist()):
        way = np.minimum((np.arange(begin, stop) - begin) / max(fallen - begin, 1), 1)
        way = np.where(np.arange(begin, stop) >= fallen, 1.0, way)[:, None]
        part = np.exp(ends[k] + way * (ends[k + 1] - ends[k]))
        # Rounding of exponentials must not move the sizes that were asked for.
        part[max(fallen - begin, 0) :] = sizes[k]
        rows.append(part)
        settled = fallen + int(_UNSETTLED * (stop - fallen))
        counts.append(np.arange(begin, stop) - settled + 1)
        begin = stop
    both = np.concatenate(rows).astype(np.float32)
    steps = np.arange(config.steps)
    fallen, stop = stops[-1]
    last = np.clip((steps - fallen) / max(stop - fallen, 1), 0, 1)
    rate = 1 - (1 - _LAST_RATE) * last
    sharp = config.sharpness * (config.last_sharpness / config.sharpness) ** last
    return Plan(both[:, 0], both[:, 1], rate.astype(np.float32), sharp.astype(np.float32),
                np.concatenate(counts).clip(0).astype(np.float32),
                steps[:, None] < stops[:, 1])  # fmt: skip
