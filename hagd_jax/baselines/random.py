"""Chance: scores that know nothing."""

from __future__ import annotations

import numpy as np

from hagd_jax.units import Nodes, Space


def random_scores(space: Space, seed: int = 0) -> Nodes:
    """Uniform scores of all nodes; their best are random circuits.

    Args:
        space: How many nodes there are.
        seed: Of the numbers.

    Returns:
        `Nodes` of float32 from 0 to 1.

    Example:
        >>> random_scores(Space(2, 1, 3)).flat().shape
        (8,)
    """
    row = np.random.default_rng(seed).random(space.nodes, np.float32)
    return Nodes.from_flat(space, row)
