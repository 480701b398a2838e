"""Chance: scores that know nothing."""

from __future__ import annotations

import numpy as np

from hagd_jax.errors import require_index, require_is
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Nodes, Scores, Space


def random_scores(space: Space, seed: int = 0) -> Scores:
    """Draw uniform scores of all nodes; their best are random circuits.

    Args:
        space: Numbers of layers, heads and features.
        seed: Seed of the draw.

    Returns:
        `Scores` of float32 from 0 to 1, which have seen nothing.

    Raises:
        InputError: If the seed is no whole number, or negative.

    Example:
        >>> from hagd_jax.baselines import random_scores
        >>> from hagd_jax.units import Space
        >>> random_scores(Space(2, 1, 3))
        Scores(8 values, Seen(nothing))
    """
    require_is("space", space, Space)
    seed = require_index("seed", seed)
    row = np.random.default_rng(seed).random(space.nodes, np.float32)
    return Scores(Nodes.from_flat(space, row), Seen.nothing())
