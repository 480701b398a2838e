"""The plainest search: keep the nodes with the highest signed scores."""

from __future__ import annotations

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Nodes, Scores, Selection


def top_nodes(scores: Nodes | Scores, size: int) -> Selection:
    """Keep the `size` nodes with the highest scores, sign included.

    A node with a negative score works against the behaviour, and keeping it costs faithfulness; so
    the sign decides and not the magnitude. Ties go to the earlier node.

    Args:
        scores: `Nodes` of float, (L, H) and (L, F), or `Scores` of them.
        size: Number of nodes to keep, from 0 to all.

    Returns:
        The selection. It has seen what the scores have seen; `Nodes` have an unknown history.

    Raises:
        InputError: If the size is not between 0 and the number of nodes, or a score is not finite,
            or these are not scores of nodes.

    Example:
        >>> import numpy as np
        >>> from hagd_jax.search import top_nodes
        >>> from hagd_jax.units import Nodes
        >>> scores = Nodes(np.array([[3.0, -5.0]]), np.array([[1.0, 0.0, 2.0]]))
        >>> top_nodes(scores, 2).flat().tolist()
        [True, False, False, False, True]
    """
    known = isinstance(scores, Scores)
    values, seen = (scores.values, scores.seen) if known else (scores, Seen.unknown())
    if not isinstance(values, Nodes):
        raise InputError("scores", got=type(values).__name__, expected="`Nodes`, or `Scores`")
    total = values.space.nodes
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 0 <= size <= total:
        raise InputError("number of nodes", got=repr(size), expected=f"0 to {total}")
    flat = values.flat()
    if flat.dtype == bool or np.iscomplexobj(flat):
        raise InputError("scores", got=f"{flat.dtype} values", expected="numbers to rank by")
    flat = flat.astype(np.float64)
    if not np.isfinite(flat).all():
        raise InputError(
            "scores", got=f"{np.sum(~np.isfinite(flat))} that are not finite", expected="numbers"
        )
    return Selection(values.like(highest(flat, int(size))), seen)


def highest(scores: np.ndarray, size: int) -> np.ndarray:
    """Mark the `size` highest of (N,) scores; ties go to the earlier one."""
    kept = np.zeros(len(scores), bool)
    kept[np.argsort(-scores, kind="stable")[:size]] = True
    return kept
