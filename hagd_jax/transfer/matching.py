"""Matching of two portraits: which unit of the one does what which unit of the other does."""

from __future__ import annotations

import dataclasses

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_config, require_is
from hagd_jax.transfer.config import MatchConfig
from hagd_jax.transfer.portrait import Portrait
from hagd_jax.transfer.transport import Problem, transport

# Each of the two nodes that every circuit has, the embedding and the logits, weighs as much as all
# units do together divided by this, on both sides: they are matched with each other.
_ANCHOR = 10.0
# Matching takes the cube of this many units, and memory the square.
_MOST = 2048
# More than any pair costs, and gains.
_NEVER = 100.0


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """A match says which units of two circuits correspond, and how similar they are.

    Attributes:
        first: Portrait of n units.
        second: Portrait of m units.
        plan: (n, m) how much of the units is matched with each other: the rows of an n-unit circuit
            sum to at most 1/n, its columns to at most 1/m.
        roles: (n, m) similarity of roles, from 0 to 1, see `role_similarity`.
        structures: (n, m) similarity of structures of the pairs in the plan, see
            `structure_similarity`; None if the portraits have no structure.
        weight: Of the structure, from `MatchConfig.structure`; 0 if there is none.
    """

    first: Portrait
    second: Portrait
    plan: np.ndarray
    roles: np.ndarray
    structures: np.ndarray | None
    weight: float

    __repr__ = one_line

    @property
    def pairs(self) -> np.ndarray:
        """Return the (n, m) similarity of each pair: role^(1 − w) · structure^w."""
        if self.structures is None:
            return self.roles
        return self.roles ** (1 - self.weight) * self.structures**self.weight

    @property
    def similarity(self) -> float:
        """Return Σ plan · pairs, from 0 to 1: what is unmatched counts 0."""
        return min(float((self.plan * self.pairs).sum()), 1.0)

    @property
    def role_similarity(self) -> float:
        """Return Σ plan · roles."""
        return float((self.plan * self.roles).sum())

    @property
    def structure_similarity(self) -> float | None:
        """Return Σ plan · structures; None without structure."""
        return None if self.structures is None else float((self.plan * self.structures).sum())

    @property
    def matched(self) -> float:
        """Return the share of the units that is matched."""
        return min(float(self.plan.sum()), 1.0)

    def left_over(self) -> tuple[str, ...]:
        """Name the units of the second circuit that are unmatched."""
        taken = self.plan.max(0) > 1e-9
        return tuple(name for name, own in zip(self.second.names, taken, strict=True) if not own)

    def partners(self) -> tuple[tuple[str, str, float], ...]:
        """List for each unit of the first circuit the one it is matched with most.

        Returns:
            Names of both, and the similarity of the pair; the second is empty, and the similarity
            0, where the unit is unmatched.
        """
        found = []
        for i, name in enumerate(self.first.names):
            j = int(self.plan[i].argmax())
            if self.plan[i, j] > 1e-9:
                found.append((name, self.second.names[j], float(self.pairs[i, j])))
            else:
                found.append((name, "", 0.0))
        return tuple(found)

    def __str__(self) -> str:
        """Return a table: a line for each unit of the first circuit."""
        rows = self.partners()
        wide = [max(map(len, names)) for names in ([one for one, *_ in rows],
                                                   [other for _, other, _ in rows])]  # fmt: skip
        lines = [
            f"similarity {self.similarity:.2f}, {self.matched:.0%} of the units matched",
            *map(_words, (self.first, self.second)),
        ]
        for own, other, value in rows:
            told = f"{other:{wide[1]}}  {value:.2f}" if other else "unmatched"
            lines.append(f"{own:{wide[0]}}  {told}")
        if self.left_over():
            lines.append(f"unmatched in the second: {', '.join(self.left_over())}")
        return "\n".join(lines)


def match(first: Portrait, second: Portrait, config: MatchConfig = MatchConfig()) -> Match:
    """Match the units of two circuits by partial fused Gromov-Wasserstein transport.

    The plan minimises (1 − w) · Σ_ij (1 − role_ij) T_ij + w · Σ_ijkl (c_ik − c'_jl)² T_ij T_kl, c
    being shares of edges, over plans that match a given share of the units (Chapel et al., 2020,
    arXiv:2002.08276; Vayer et al., 2019, arXiv:1811.02834). Several shares are tried, each
    plan loses its pairs that are less similar than `least`, and that with the largest
    Σ T · (similarity − `least`) is taken: a unit that no other one resembles in role and structure
    stays unmatched, as does one whose like is taken. Embedding and logits are matched with each
    other.

    Args:
        first: Portrait of n units.
        second: Portrait of m units.
        config: Weights.

    Returns:
        The match.

    Raises:
        InputError: If one portrait has structure, the other has none, and it has a weight.
        MissingDependencyError: If POT is not installed.

    Example:
        >>> made = []
        >>> for style in ("plain", "gpt2"):
        ...     case = hagd.testbeds.role_case("induction", style, 0)
        ...     own = [name for name, role in case.roles.items()
        ...            if role in ("induction", "previous token")]
        ...     made.append(hagd.transfer.portrait(case.model, case.prompts, own))
        >>> [pair[:2] for pair in match(*made).partners()]
        [('head 0.3', 'head 0.2'), ('head 1.2', 'head 2.2')]
    """
    require_is("first", first, Portrait)
    require_is("second", second, Portrait)
    require_config("config", config, MatchConfig)
    for own in (first, second):
        if len(own) > _MOST:
            raise InputError(
                "circuit to match", got=f"{len(own):,} units", expected=f"at most {_MOST:,}",
                mend="Find circuits of units, such as those of `hagd extract --units 32`.",
            )  # fmt: skip
    roles = role_similarity(first, second)
    both = [own.shares is not None for own in (first, second)]
    if config.structure and both[0] != both[1]:
        raise InputError("portraits", got="structure in one of two", expected="in both or neither",
                         mend="Measure both in one way, or compare roles alone "
                         "(MatchConfig(structure=0)).")  # fmt: skip
    weight = config.structure if all(both) else 0.0
    nothing = np.zeros((len(first), len(second)))
    best, gain = _matched(first, second, nothing, roles, weight), 0.0
    for plan in _plans(first, second, roles, weight, config.steps):
        found = _matched(first, second, plan, roles, weight)
        while (poor := (found.plan > 0) & (found.pairs < config.least)).any():
            # What a pair brings to the structure of others goes with it.
            found = _matched(first, second, np.where(poor, 0, found.plan), roles, weight)
        own = float((found.plan * (found.pairs - config.least)).sum())
        if own > gain + 1e-12:
            best, gain = found, own
    return best


def role_similarity(first: Portrait, second: Portrait) -> np.ndarray:
    """Compare what units do: 1 − d²/2, at least 0.

    d² is the mean squared difference of two signatures, in standard deviations, over the columns
    that both units know. It is about 2 for two units drawn at random, and 0 for equal ones. What an
    MLP has no value for, such as attention, does not count where one of two units has no heads;
    units without a column in common are not similar.

    Args:
        first: Portrait of n units.
        second: Portrait of m units.

    Returns:
        (n, m) from 0 to 1.
    """
    both = (first.known[:, None] & second.known[None]).astype(np.float64)
    apart = (first.values[:, None] - second.values[None]) ** 2 * both
    mean = apart.sum(-1) / np.maximum(both.sum(-1), 1)
    return np.where(both.any(-1), np.clip(1 - mean / 2, 0, 1), 0)


def structure_similarity(first: Portrait, second: Portrait, plan: np.ndarray) -> np.ndarray:
    """Compare who reads whom: how much of what two units read and are read by corresponds.

    The shares of what unit i reads are carried over by the plan: each source gives its share to the
    units that it is matched with, and what is unmatched is lost. With c̃_i the carried shares, the
    similarity of what i and j read is Σ_l min(c̃_il, c'_jl), as it is for what reads them (shares
    divided by their sum over readers). Both ways, and both directions of the plan, are averaged.

    Args:
        first: Portrait of n units with structure.
        second: Portrait of m units with structure.
        plan: (n, m) of their match.

    Returns:
        (n, m) from 0 to 1; 0 for pairs that are not in the plan.
    """
    there = _carried(first, second, plan)
    back = _carried(second, first, plan.T)
    return (there + back.T) / 2


def _carried(first: Portrait, second: Portrait, plan: np.ndarray) -> np.ndarray:
    """(n, m) overlap of edges when those of the first circuit are carried to the second."""
    assert first.shares is not None
    assert second.shares is not None
    n, m = plan.shape
    step = np.zeros((n + 2, m + 2))
    step[0, 0] = step[-1, -1] = 1
    step[1:-1, 1:-1] = plan * n
    parts = []
    for own, other in ((first.shares, second.shares),
                       (_by_source(first.shares).T, _by_source(second.shares).T)):  # fmt: skip
        # Column i of `own` says what share of unit i's edges each other one has.
        carried, theirs = step.T @ own[:, 1:-1], other[:, 1:-1]
        rows, columns = np.nonzero(plan)
        overlap = np.zeros((n, m))
        overlap[rows, columns] = np.minimum(carried[:, rows], theirs[:, columns]).sum(0)
        # Two units without an edge of this kind agree.
        empty = (own[:, 1:-1].sum(0) == 0)[:, None] & (theirs.sum(0) == 0)
        parts.append(np.where(empty & (plan > 0), 1.0, overlap))
    return (parts[0] + parts[1]) / 2


def _by_source(shares: np.ndarray) -> np.ndarray:
    """Rows divided by their sums: whom a unit is read by."""
    total = shares.sum(1, keepdims=True)
    return shares / np.where(total > 0, total, np.inf)


def _matched(
    first: Portrait, second: Portrait, plan: np.ndarray, roles: np.ndarray, weight: float
) -> Match:
    structures = None
    if first.shares is not None and second.shares is not None:
        structures = structure_similarity(first, second, plan)
    return Match(first, second, plan, roles, structures, weight)


def _plans(
    first: Portrait, second: Portrait, roles: np.ndarray, weight: float, steps: int
) -> list[np.ndarray]:
    """Plans that match all units, and shares of them in equal steps down."""
    n, m = roles.shape
    units = 1 - 2 / (_ANCHOR + 2)
    anchor = (1 - units) / 2
    p, q = (np.concatenate([[anchor], np.full(k, units / k), [anchor]]) for k in (n, m))
    cost = np.full((n + 2, m + 2), _NEVER / (1 - weight))
    cost[0, 0] = cost[-1, -1] = -_NEVER / (1 - weight)
    cost[1:-1, 1:-1] = 1 - roles
    # Edges are few among all pairs: as many times as there are units, they count as roles do.
    scale = float(np.sqrt(np.sqrt((n + 2) * (m + 2))))
    first_edges, second_edges = (
        x * scale if weight and x is not None else np.zeros((k + 2,) * 2)
        for x, k in ((first.shares, n), (second.shares, m))
    )
    problem = Problem(cost, first_edges, second_edges, weight, p, q)
    found = []
    for step in range(steps, 0, -1):
        plan = transport(problem, min(2 * anchor + units * step / steps, p.sum(), q.sum()))
        own = np.clip(plan[1:-1, 1:-1], 0, None) / units
        found.append(np.where(own > 1e-9, own, 0.0))
    return found


def _words(own: Portrait) -> str:
    units = "unit" if len(own) == 1 else "units"
    return f"{len(own)} {units} of {own.task or 'a task'} in {own.model}"
