"""The plainest search: keep the nodes with the highest signed scores."""

from __future__ import annotations

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.units import Nodes


def top_nodes(scores: Nodes, size: int) -> Nodes:
    """The `size` nodes whose scores are highest, sign included.

    A node with a negative score works against the behaviour; keeping it costs faithfulness, so
    the sign decides and not the magnitude. Ties go to the earlier node.

    Args:
        scores: `Nodes` of float, (L, H) and (L, F).
        size: How many to keep.

    Returns:
        `Nodes` of bool, True for the kept ones.

    Raises:
        InputError: If the size is not between 0 and the number of nodes, or a score is not finite.

    Example:
        >>> scores = Nodes(np.array([[3.0, -5.0]]), np.array([[1.0, 0.0, 2.0]]))
        >>> top_nodes(scores, 2).flat().tolist()
        [True, False, False, False, True]
    """
    total = scores.space.nodes
    if not 0 <= size <= total:
        raise InputError("number of nodes", got=size, expected=f"0 to {total}")
    flat = scores.flat()
    if not np.isfinite(flat).all():
        raise InputError(
            "scores", got=f"{np.sum(~np.isfinite(flat))} that are not finite", expected="numbers"
        )
    return scores.like(highest(flat, size))


def highest(scores: np.ndarray, size: int) -> np.ndarray:
    """(N,) True for the `size` highest of (N,) scores; ties go to the earlier one."""
    kept = np.zeros(len(scores), bool)
    kept[np.argsort(-scores, kind="stable")[:size]] = True
    return kept
