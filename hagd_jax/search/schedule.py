"""What each step of a mask search is asked for: how large masks are, and which levels decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.search.config import MaskConfig


class Schedule(NamedTuple):
    """What each step is asked for: data, so that one program serves all phases.

    Attributes:
        size: (steps,) float32 expected nodes.
        opened: (steps, levels + 1) whether each level decides yet.
    """

    size: np.ndarray
    opened: np.ndarray

    __repr__ = one_line


def schedule(config: MaskConfig, total: int, least: int, levels: int) -> Schedule:
    """Sizes fall geometrically; levels join one after the other, the nodes' own last.

    Args:
        config: How masks are trained.
        total: Nodes of the model.
        least: The size at the end.
        levels: Of clusters, above the nodes.

    Returns:
        What each step is asked for.
    """
    steps = np.arange(config.steps)
    falls = max(1, math.ceil(config.shrinking * config.steps) - 1)
    first = max(config.start * total, least)
    size = first * (least / first) ** np.minimum(steps / falls, 1)
    joins = np.linspace(0, min(config.opening * config.steps, config.steps - 1), levels + 1)
    return Schedule(size.astype(np.float32), steps[:, None] >= joins.astype(int))


def trained_at(sizes: Sequence[int], config: MaskConfig, plan: Schedule) -> np.ndarray:
    """The expected sizes at which circuits of each size are read on the way.

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
