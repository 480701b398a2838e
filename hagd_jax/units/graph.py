"""What every graph of units needs."""

from __future__ import annotations

import numpy as np


def strongest_into(receivers: np.ndarray, size: np.ndarray, most: int | None) -> np.ndarray:
    """The strongest edges into each node.

    Args:
        receivers: (E,) where each edge ends.
        size: (E,) how strong it is.
        most: How many to keep of a node's; None keeps all.

    Returns:
        Their numbers, by receiver, the strongest first.

    Example:
        >>> strongest_into(np.array([1, 0, 1, 1]), np.array([3.0, 1.0, 5.0, 4.0]), 2).tolist()
        [1, 2, 3]
    """
    order = np.lexsort((-size, receivers))
    if most is None or not len(order):
        return order
    starts = np.flatnonzero(np.r_[True, np.diff(receivers[order]) != 0])
    before = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return order[before < most]
