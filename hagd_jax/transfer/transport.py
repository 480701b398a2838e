"""Partial fused Gromov-Wasserstein transport: Frank-Wolfe steps that POT solves exactly."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import MissingDependencyError

# Steps, and the gap (an upper bound of what is left to gain) at which they end.
_STEPS, _GAP = 200, 1e-6
# Pivots of a transport problem: POT's default is for a thousand nodes or fewer.
_PIVOTS = 10**7


class Problem(NamedTuple):
    """A problem asks for a plan T that is cheap: (1 − w) · Σ M T + w · Σ (a_ik − b_jl)² T_ij T_kl.

    Attributes:
        cost: (n, m) M.
        first: (n, n) a.
        second: (m, m) b.
        weight: w.
        p: (n,) the most that each row of T sums to.
        q: (m,) the most that each column sums to.
    """

    cost: np.ndarray
    first: np.ndarray
    second: np.ndarray
    weight: float
    p: np.ndarray
    q: np.ndarray

    __repr__ = one_line

    def objective(self, plan: np.ndarray) -> float:
        """Compute what a plan costs."""
        return float(
            (1 - self.weight) * (self.cost * plan).sum()
            + self.weight * (self._apart(plan) * plan).sum()
        )

    def slope(self, plan: np.ndarray) -> np.ndarray:
        """Compute the (n, m) gradient of the objective."""
        turned = self._replace(first=self.first.T, second=self.second.T)
        both = self._apart(plan) + turned._apart(plan)
        return (1 - self.weight) * self.cost + self.weight * both

    def _apart(self, plan: np.ndarray) -> np.ndarray:
        """(n, m) Σ_kl (a_ik − b_jl)² T_kl."""
        a, b = self.first, self.second
        own, theirs = a**2 @ plan.sum(1), b**2 @ plan.sum(0)
        return own[:, None] + theirs[None] - 2 * a @ plan @ b.T


def transport(problem: Problem, mass: float) -> np.ndarray:
    """Find a plan of a given mass, a local minimum of the objective.

    Every Frank-Wolfe step solves the transport problem of the gradient exactly, with a node on each
    side that takes what is left over (Chapel et al., 2020, arXiv:2002.08276), and goes as far in
    that direction as the objective, a parabola along it, falls.

    Args:
        problem: What is asked.
        mass: Sum of the plan; at most the sums of `p` and of `q`.

    Returns:
        (n, m) the plan.

    Raises:
        MissingDependencyError: If POT is not installed.

    Example:
        >>> near = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> third, half = np.full(3, 1 / 3), np.full(2, 1 / 2)
        >>> own = Problem(near, np.zeros((3, 3)), np.zeros((2, 2)), 0.0, third, half)
        >>> transport(own, 2 / 3).round(2).tolist()
        [[0.33, 0.0], [0.0, 0.33], [0.0, 0.0]]
    """
    solve = solver()
    plan = np.outer(problem.p, problem.q)
    plan *= mass / plan.sum()
    for _ in range(_STEPS):
        slope = problem.slope(plan)
        step = _cheapest(solve, slope, problem, mass) - plan
        gap = -float((slope * step).sum())
        if gap <= _GAP:
            break
        # Along the step the objective is f − gap · t + bend · t².
        bend = problem.objective(step) - (1 - problem.weight) * float((problem.cost * step).sum())
        plan = plan + (1.0 if bend <= gap / 2 else gap / (2 * bend)) * step
    return plan


def _cheapest(solve: Any, cost: np.ndarray, problem: Problem, mass: float) -> np.ndarray:
    """The plan of a mass that is cheapest at given prices."""
    n, m = cost.shape
    p = np.append(problem.p, max(problem.q.sum() - mass, 0))
    q = np.append(problem.q, max(problem.p.sum() - mass, 0))
    low = cost.min()
    wide = np.zeros((n + 1, m + 1))
    wide[:n, :m] = cost - low
    # Nothing goes from what is left over to what is left over.
    wide[n, m] = 1 + 2 * wide.max()
    # Rounding must not make the sides unequal.
    found = solve(p, q * (p.sum() / q.sum()), wide, numItermax=_PIVOTS)
    return np.asarray(found)[:n, :m]


def solver() -> Any:
    """Return POT's solver of transport problems; ask for it before what takes long.

    Raises:
        MissingDependencyError: If POT is not installed.
    """
    try:
        import ot
    except ImportError as error:
        raise MissingDependencyError(
            "matching circuits needs the package POT", mend="pip install 'hagd-jax[transfer]'"
        ) from error
    return ot.emd
