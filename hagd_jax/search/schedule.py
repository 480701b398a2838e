"""What each step of a mask search is asked for: how large masks are, and which levels decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index, require_is
from hagd_jax.search.config import MaskConfig


class Schedule(NamedTuple):
    """A schedule gives each step its size and levels as data, so one program serves all phases.

    Attributes:
        size: (steps,) float32 expected nodes.
        opened: (steps, levels + 1) whether each level decides yet.
    """

    size: np.ndarray
    opened: np.ndarray

    __repr__ = one_line


def schedule(config: MaskConfig, total: int, least: int, levels: int) -> Schedule:
    """Make a schedule: sizes fall geometrically; levels join one by one, the nodes' own last.

    Args:
        config: How masks are trained.
        total: Nodes of the model.
        least: The size at the end.
        levels: Of clusters, above the nodes.

    Returns:
        What each step is asked for.

    Raises:
        InputError: If the size at the end is not from 1 to all nodes, or a number is too large.

    Example:
        >>> from hagd_jax.search import MaskConfig, schedule
        >>> schedule(MaskConfig(steps=3, shrinking=1.0), 100, 20, 0).size.tolist()
        [80.0, 40.0, 20.0]
    """
    require_is("config", config, MaskConfig)
    # No tree has as many levels as this bound; more would fill the memory.
    total = require_index("total", total, 1 << 53)
    levels = require_index("levels", levels, 1 << 16)
    least = require_index("least", least, total + 1)
    if not least:
        raise InputError("least", got=0, expected=f"1 to {total}")
    steps = np.arange(config.steps)
    falls = max(1, math.ceil(config.shrinking * config.steps) - 1)
    first = max(config.start * total, least)
    size = first * (least / first) ** np.minimum(steps / falls, 1)
    joins = np.linspace(0, min(config.opening * config.steps, config.steps - 1), levels + 1)
    return Schedule(size.astype(np.float32), steps[:, None] >= joins.astype(int))


def trained_at(sizes: Sequence[int], config: MaskConfig, plan: Schedule) -> np.ndarray:
    """List the expected sizes at which circuits of each size are read on the way.

    Masks have hardly been trained while the first levels join. So a size that is passed by then,
    or that is larger than all expected sizes, is read from the last masks instead.

    Args:
        sizes: K circuit sizes.
        config: How masks are trained.
        plan: What each step is asked for.

    Returns:
        (K,) float32: each size itself, or 0 for those that are read from the last masks.
    """
    asked = np.asarray(sizes, np.float32)
    joined = min(int(config.opening * config.steps), config.steps - 1)
    return np.where(asked > plan.size[joined], np.float32(0), asked)
