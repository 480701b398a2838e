"""How masks are trained: how large they may be at each step, and what decides by then."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """How masks are trained.

    Attributes:
        steps: Of Adam.
        learning_rate: Of Adam, on logits.
        batch_size: Prompts a step, each with masks of its own.
        start: Share of all nodes that are open at first.
        shrinking: Share of the steps in which the size falls, geometrically, to the least one
            asked for.
        opening: Share of the steps until the last level of a tree has joined.
        mean: Share of the prompts of a step whose closed nodes are set to the mean of their group
            instead of the counterfactual, so that circuits do not hang on one ablation.
        metric: Weight of the squared error of the metric, beside KL.
        check_every: Steps that run as one compiled scan.
    """

    steps: int = 140
    learning_rate: float = 0.2
    batch_size: int = 8
    start: float = 0.8
    shrinking: float = 0.9
    opening: float = 0.1
    mean: float = 0.0
    metric: float = 1.0
    check_every: int = 10

    def __post_init__(self):
        for field in ("steps", "batch_size", "check_every", "learning_rate"):
            if not getattr(self, field) > 0:
                raise ConfigError(field, got=getattr(self, field), expected="more than 0")
        for field in ("start", "shrinking", "opening"):
            if not 0 < getattr(self, field) <= 1:
                raise ConfigError(field, got=getattr(self, field), expected="above 0, at most 1")
        if not 0 <= self.mean <= 1:
            raise ConfigError("mean", got=self.mean, expected="a share, 0 to 1")
        if self.metric < 0:
            raise ConfigError("metric", got=self.metric, expected="0 or more")


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
    joins = np.linspace(0, config.opening * config.steps, levels + 1)
    return Schedule(size.astype(np.float32), steps[:, None] >= joins.astype(int))
