"""Comparison of circuits with what chance, and other tasks, would give."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import permutation_p
from hagd_jax.errors import (
    InputError,
    require_callable,
    require_config,
    require_is,
    require_list,
    shown,
)
from hagd_jax.transfer.config import MatchConfig
from hagd_jax.transfer.matching import Match, match
from hagd_jax.transfer.nulls import reshuffled
from hagd_jax.transfer.portrait import Portrait

# Signatures that change places, see `reshuffled`: it needs nothing but the two portraits.
SHUFFLED = "signatures permuted"
# The nulls that `hagd transfer` measures on request.
OTHERS, RANDOM, PERMUTED = "other tasks", "random circuits", "permuted weights"


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison holds the similarity of two circuits beside that of others.

    Attributes:
        match: Of the two circuits.
        nulls: Name → similarity of the first circuit to each of some that should not resemble it.
        ceiling: Similarity of circuits that should be the same: found twice in one model.
    """

    match: Match
    nulls: Mapping[str, tuple[float, ...]]
    ceiling: tuple[float, ...] = ()

    __repr__ = one_line

    def p_value(self, null: str) -> float:
        """Return the probability that chance gives as much: (1 + k) / (1 + n).

        Args:
            null: Name of one of the nulls.

        Raises:
            InputError: If it was not measured.
        """
        if null not in self.nulls:
            raise InputError("null", got=repr(null)[:80],
                             expected=f"one of {', '.join(self.nulls) or 'none'}")  # fmt: skip
        return permutation_p(self.match.similarity, np.array(self.nulls[null]))

    @property
    def normalised(self) -> float | None:
        """Return (similarity − null) / (ceiling − null), of means; None without both.

        The null is that of other tasks' circuits in the same model, the hardest.
        """
        others = self.nulls.get(OTHERS, ())
        if not others or not self.ceiling:
            return None
        null, top = float(np.mean(others)), float(np.mean(self.ceiling))
        return (self.match.similarity - null) / (top - null) if top > null else None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, for a file."""
        found = self.match
        units = [{"unit": one, "partner": other, "similarity": value}
                 for one, other, value in found.partners()]  # fmt: skip
        return {
            "first": {"model": found.first.model, "task": found.first.task},
            "second": {"model": found.second.model, "task": found.second.task},
            "similarity": found.similarity, "roles": found.role_similarity,
            "structure": found.structure_similarity, "matched": found.matched, "units": units,
            "unmatched": list(found.left_over()),
            "names": [list(found.first.names), list(found.second.names)],
            "plan": found.plan.tolist(), "pairs": found.pairs.tolist(),
            "nulls": {name: list(values) for name, values in self.nulls.items()},
            "p": {name: self.p_value(name) for name, values in self.nulls.items() if values},
            "ceiling": list(self.ceiling), "normalised": self.normalised,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Say in a line each what the similarity is beside others."""
        found = self.match
        parts = [f"roles alone {found.role_similarity:.2f}"]
        if found.structure_similarity is not None:
            parts.append(f"structure alone {found.structure_similarity:.2f}")
        lines = [", ".join(parts)]
        for name, values in self.nulls.items():
            if values:
                lines.append(f"{name}: {np.mean(values):.2f} (most {max(values):.2f}, "
                             f"p = {self.p_value(name):.2g}, {len(values)} of them)")  # fmt: skip
        if self.ceiling:
            lines.append(f"found twice in one model: {np.mean(self.ceiling):.2f}")
        if self.normalised is not None:
            lines.append(f"between other tasks (0) and found twice (1): {self.normalised:.2f}")
        return lines

    def __str__(self) -> str:
        """Return the table of the match, and what it is compared with."""
        return "\n".join([str(self.match), "", *self.lines()])


def compare(
    first: Portrait,
    second: Portrait,
    config: MatchConfig = MatchConfig(),
    *,
    nulls: Mapping[str, Iterable[Portrait]] | None = None,
    twice: Iterable[tuple[Portrait, Portrait]] = (),
    control: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare two circuits of one task, with controls.

    Args:
        first: Portrait of the first circuit.
        second: Portrait of the second, usually of another model.
        config: How they are matched, and how often signatures change places.
        nulls: Name → portraits in the second model that should not resemble the first circuit:
            `other tasks`, random circuits (`lookalikes`), the task in a model of permuted weights.
        twice: Pairs of portraits of circuits that should be the same.
        control: Whether the circuits may be of different tasks.
        progress: Called with the number of matches that are done, and of all.

    Returns:
        The comparison.

    Raises:
        InputError: If the circuits are of different tasks, which is a null, and `control` is off.
        MissingDependencyError: If POT is not installed.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> own = hagd.transfer.portrait(case.model, case.prompts, ["head 0.3", "head 1.2"])
        >>> print(compare(own, own, MatchConfig(shuffles=0)))
        similarity 1.00, 100% of the units matched
        2 units of a task in induction plain small 0
        2 units of a task in induction plain small 0
        head 0.3  head 0.3  1.00
        head 1.2  head 1.2  1.00
        <BLANKLINE>
        roles alone 1.00, structure alone 1.00
    """
    require_is("first", first, Portrait)
    require_is("second", second, Portrait)
    require_config("config", config, MatchConfig)
    tell = progress or (lambda done, total: None)
    require_callable("progress", tell, "(done, total)")
    if first.task != second.task and not control:
        raise InputError("circuits", got=f"of {first.task!r} and of {second.task!r}",
                         expected="of one task",
                         mend="Pass the second among `nulls`, as other tasks, or set "
                         "`control`.")  # fmt: skip
    others, pairs = _portraits(nulls or {}), _pairs(twice)
    if config.shuffles:
        others[SHUFFLED] = list(reshuffled(second, config.shuffles, config.seed))
    total = 1 + sum(map(len, others.values())) + len(pairs)
    count = itertools.count(1)

    def alike(one: Portrait, other: Portrait) -> Match:
        found = match(one, other, config)
        tell(next(count), total)
        return found

    return Comparison(
        alike(first, second),
        {name: tuple(alike(first, other).similarity for other in own)
         for name, own in others.items()},
        tuple(alike(*pair).similarity for pair in pairs),
    )  # fmt: skip


def _pairs(twice: Any) -> list[Any]:
    """Pairs of portraits, checked."""
    pairs = require_list("twice", twice, "pairs of portraits")
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError("twice", got=shown(pair), expected="pairs of portraits")
        for one in pair:
            require_is("twice", one, Portrait)
    return pairs


def _portraits(nulls: Any) -> dict[str, list[Portrait]]:
    """Name → portraits, checked."""
    if not isinstance(nulls, Mapping) or SHUFFLED in nulls:
        raise InputError("nulls", got=shown(nulls), expected="names with portraits; "
                         f"{SHUFFLED!r} is measured by itself")  # fmt: skip
    found = {name: require_list(name, own, "portraits") for name, own in nulls.items()}
    for name, own in found.items():
        for each in own:
            require_is(f"portraits of {name}", each, Portrait)
    return found
