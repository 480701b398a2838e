"""Circuits carried into another model: which of its units do what those of a circuit do."""

from __future__ import annotations

from typing import Any

import numpy as np

from hagd_jax.causal import Circuit
from hagd_jax.errors import InputError, require_index, require_is
from hagd_jax.transfer.matching import role_similarity
from hagd_jax.transfer.portrait import Portrait
from hagd_jax.transfer.transport import Problem, transport
from hagd_jax.units import UnitTree


def carried_scores(circuit: Portrait, among: Portrait, count: int) -> np.ndarray:
    """Score the units of a model by how well they stand in for those of another's circuit.

    The plan is the cheapest by roles that fills `count` units: each unit of the circuit gives 1/n,
    and each of the model's takes at most 1/count. A unit's score is what it takes, weighed by the
    similarity of roles, times count.

    Args:
        circuit: Portrait of n units of the one model.
        among: Portrait of N units of the other that may stand in, such as its heads and MLPs;
            measured on the same task.
        count: How many of them are wanted.

    Returns:
        (N,) from 0 to 1.

    Raises:
        InputError: If there are not as many units, or they were measured on another task.
        MissingDependencyError: If POT is not installed.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> every = hagd.transfer.portrait(case.model, case.prompts)
        >>> config = hagd.transfer.PortraitConfig(edges=0)
        >>> own = hagd.transfer.portrait(case.model, case.prompts, ["head 0.3", "head 1.2"], config)
        >>> scores = carried_scores(own, every, 2)
        >>> sorted(every.units[i].name for i in np.argsort(-scores)[:2])
        ['head 0.3', 'head 1.2']
    """
    require_is("circuit", circuit, Portrait)
    require_is("among", among, Portrait)
    if circuit.task != among.task:
        raise InputError("portraits", got=f"of {circuit.task!r} and of {among.task!r}",
                         expected="of one task")  # fmt: skip
    n, total = len(circuit), len(among)
    if not 0 < require_index("count", count) <= total:
        raise InputError("count", got=count, expected=f"1 to {total} units")
    roles = role_similarity(circuit, among)
    nothing = np.zeros((n, n)), np.zeros((total, total))
    problem = Problem(1 - roles, *nothing, 0.0, np.full(n, 1 / n), np.full(total, 1 / count))
    return (transport(problem, 1.0) * roles).sum(0) * count


def carry(
    circuit: Portrait,
    among: Portrait,
    tree: UnitTree,
    count: int,
    **provenance: Any,
) -> Circuit:
    """Carry a circuit into another model.

    Args:
        circuit: Portrait of the circuit.
        among: Portrait of the other model's units that may stand in.
        tree: Of the other model; they are units of it.
        count: How many of them the circuit has.
        **provenance: Fields of the circuit, such as `seed`.

    Returns:
        A circuit of the other model, which has seen what both portraits have.

    Raises:
        InputError: If there are not as many units that resemble one of the circuit's, or they are
            none of the tree.
        MissingDependencyError: If POT is not installed.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> config = hagd.transfer.PortraitConfig(edges=0)
        >>> own = hagd.transfer.portrait(case.model, case.prompts, ["head 0.3", "head 1.2"], config)
        >>> other = hagd.testbeds.role_case("induction", "gpt2", 0)
        >>> every = hagd.transfer.portrait(other.model, other.prompts)
        >>> [unit.name for unit in carry(own, every, hagd.units.tree(other.model), 2).units]
        ['head 0.2', 'head 2.2']
    """
    require_is("tree", tree, UnitTree)
    scores = carried_scores(circuit, among, count)
    able = int((scores > 0).sum())
    if able < count:
        raise InputError("count", got=count, expected=f"at most {able} units, which is how many "
                         "resemble one of the circuit's")  # fmt: skip
    best = np.sort(np.argsort(-scores, kind="stable")[:count])
    return Circuit.of_units(
        tree, [among.units[i] for i in best], scores[best].tolist(),
        **{"model": among.model, "task": among.task, "seen": circuit.seen | among.seen}
        | provenance,
    )  # fmt: skip
