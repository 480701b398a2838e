"""Discover again and again, each time from few prompts, and count how often each unit is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hagd_jax.errors import (
    InputError,
    require_choice,
    require_index,
    require_is,
    require_list,
    require_number,
    shown,
)
from hagd_jax.search.certificate import require_kept
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Nodes, Selection

RULES = ("mean", "magnitude")
# The drawn numbers of more subsets fill a machine's memory, and bounds are tight long before.
MOST_SUBSETS = 100_000
# A rule finds units from prompts: ((k,) indices of prompts, seed) → (N,) bool.
Rule = Callable[[np.ndarray, int], Any]


@dataclasses.dataclass(frozen=True)
class CoreConfig:
    """Configure how often, from what and with what certainty a core is discovered.

    Attributes:
        kept: k, prompts in each subset. Fewer give larger radii, since a change of one prompt
            reaches fewer subsets, and noisier discoveries; a radius of r needs k < 0.69 P / r.
        subsets: R, random subsets, at most 100,000. Of 46,350 units, one that is found in all of
            1,000 has a lower bound of 0.986.
        by: `mean` finds the units of the highest mean scores, `magnitude` those whose means are
            furthest from zero.
        threshold: τ, the share of discoveries that members of the core must exceed.
        alpha: α; all bounds hold at once with confidence 1 − α.
        block_bytes: Memory for the means of a block of subsets, in bytes.
    """

    kept: int = 8
    subsets: int = 1000
    by: str = "mean"
    threshold: float = 0.5
    alpha: float = 0.05
    block_bytes: int = 1 << 26

    def __post_init__(self):
        for field in ("kept", "subsets", "block_bytes"):
            require_number(field, getattr(self, field), least=1, whole=True)
        require_number("subsets", self.subsets, most=MOST_SUBSETS)
        require_choice("by", self.by, RULES)
        require_number("threshold", self.threshold, least=0, below=1)
        require_number("alpha", self.alpha, above=0, below=1)


def random_subsets(prompts: int, kept: int, subsets: int, seed: int = 0) -> np.ndarray:
    """Draw independent uniform subsets of prompts.

    Args:
        prompts: P.
        kept: k, prompts in a subset, without replacement.
        subsets: R, drawn independently, so that one may be drawn twice.
        seed: Seed of the draw; it must not depend on the scores.

    Returns:
        (R, k) int64, each row ascending.

    Raises:
        InputError: If k is not from 1 to P.

    Example:
        >>> random_subsets(6, 2, 1000).shape
        (1000, 2)
    """
    prompts, kept = require_kept(prompts, kept)
    subsets, seed = require_index("subsets", subsets), require_index("seed", seed)
    # The places of the k least of P uniform numbers are a uniform subset.
    drawn = np.random.default_rng(seed).random((subsets, prompts))
    return np.sort(np.argpartition(drawn, kept - 1, axis=1)[:, :kept], axis=1)


def found_in(
    scores: np.ndarray, rows: np.ndarray, size: int, *, by: str = "mean", block_bytes: int = 1 << 26
) -> Iterator[np.ndarray]:
    """Discover units from the mean scores of subsets of prompts, block by block.

    Units with equal means are taken from the left. A subset's discovery depends on the scores of
    its own prompts alone, to the last bit.

    Args:
        scores: (P, N) finite floats.
        rows: (R, k) indices of the prompts in each subset.
        size: Units that each discovery finds.
        by: `mean` or `magnitude`.
        block_bytes: Memory for the means of a block.

    Yields:
        (B, N) bool, which units each of the next B subsets finds.

    Example:
        >>> scores = np.array([[3.0, 0, 1], [0, 2, 1]])
        >>> [block.tolist() for block in found_in(scores, np.array([[0], [1]]), 1)]
        [[[True, False, False], [False, True, False]]]
    """
    most = max(1, block_bytes // (scores.dtype.itemsize * scores.shape[1]))
    for start in range(0, len(rows), most):
        # Added subset by subset: a matrix product rounds equal columns and rows differently.
        sums = np.stack([scores[row].sum(0) for row in rows[start : start + most]])
        yield highest_rows(np.abs(sums) if by == "magnitude" else sums, size)


def highest_rows(values: np.ndarray, size: int) -> np.ndarray:
    """Mark the highest values of each row; ties go to the earlier one.

    Args:
        values: (B, N) floats.
        size: How many of each row, from 1 to N.

    Returns:
        (B, N) bool.

    Example:
        >>> highest_rows(np.array([[1.0, 2, 2, 2]]), 2).tolist()
        [[False, True, True, False]]
    """
    place = values.shape[1] - size
    least = np.partition(values, place, axis=1)[:, place, None]
    kept = values >= least
    for row in np.flatnonzero(kept.sum(1) > size):
        ties = np.flatnonzero(values[row] == least[row])
        kept[row, ties[size - int((values[row] > least[row]).sum()) :]] = False
    return kept


def count_found(scores: np.ndarray, size: int, config: CoreConfig, seed: int) -> np.ndarray:
    """Count in how many discoveries from random subsets each unit is.

    Args:
        scores: (P, N) finite floats.
        size: Units that each discovery finds.
        config: Subsets and rule.
        seed: Seed of the subsets.

    Returns:
        (N,) int64.
    """
    rows = random_subsets(len(scores), config.kept, config.subsets, seed)
    counts = np.zeros(scores.shape[1], np.int64)
    blocks = found_in(scores, rows, size, by=config.by, block_bytes=config.block_bytes)
    for found in blocks:
        counts += found.sum(0)
    return counts


def count_runs(
    rule: Rule, prompts: int, units: int, config: CoreConfig, seed: int
) -> tuple[np.ndarray, Seen]:
    """Count in how many runs of any rule each unit is found.

    Args:
        rule: ((k,) indices of prompts, seed) → (N,) bool, `Nodes` of bool or a `Selection`.
        prompts: P.
        units: N.
        config: Subsets.
        seed: Seed of the subsets, and of the seeds that the rule is given.

    Returns:
        (N,) int64, and what the selections have seen; unknown if one of them is a plain mask.

    Raises:
        InputError: If the rule returns something else.
    """
    rows = random_subsets(prompts, config.kept, config.subsets, seed)
    seeds = np.random.default_rng([seed, 1]).integers(1 << 31, size=len(rows))
    counts, seen = np.zeros(units, np.int64), Seen.nothing()
    for row, own in zip(rows, seeds.tolist(), strict=True):
        found = rule(row, own)
        seen |= found.seen if isinstance(found, Selection) else Seen.unknown()
        mask = np.asarray(found.flat() if isinstance(found, Selection | Nodes) else found)
        if mask.dtype != bool or mask.shape != (units,):
            raise InputError("result of the rule", got=shown(found), expected=f"({units},) bool")
        counts += mask
    return counts, seen


def prompt_rows(scores: Any, seen: Seen | None = None) -> tuple[np.ndarray, Seen]:
    """Read per-prompt scores and what they have seen.

    Args:
        scores: (P, N) numbers, or anything with such `values` and a `Seen` as `seen`.
        seen: What plain numbers have seen; unknown if None.

    Returns:
        (P, N) float32 or float64 on the host, and what they have seen.

    Raises:
        InputError: If a score is not finite, the shape is another, the record contradicts that of
            the scores, or it names fewer prompts than there are rows.
    """
    values, own = getattr(scores, "values", scores), getattr(scores, "seen", None)
    try:
        values = np.asarray(values.flat() if isinstance(values, Nodes) else values)
    except ValueError:  # rows of different lengths
        values = np.empty(0, object)
    number = values.dtype.kind in "iuf" or values.dtype.name == "bfloat16"
    if values.ndim != 2 or not values.size or not number:
        raise InputError("scores", got=shown(scores), expected="(P, N) numbers, a row a prompt",
                         mend="Score each prompt by itself, not their mean.")  # fmt: skip
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        raise InputError("scores", got=f"{len(bad)} prompts with scores that are not finite, the "
                         f"first {bad[0]}", expected="finite scores of every prompt")  # fmt: skip
    for each in (own, seen):
        if each is not None:
            require_is("seen", each, Seen)
    if own is not None and seen is not None and own != seen:
        raise InputError("seen", got=seen, expected=f"that of the scores, {own}, or none")
    record = own or seen or Seen.unknown()
    if record.known and 0 < len(record.prompts) < len(values):
        raise InputError(
            "seen", got=f"{len(record.prompts)} distinct prompts",
            expected=f"{len(values)} or more, as there are rows of scores",
            mend="Score each prompt once: a prompt in two rows would change both of them.",
        )  # fmt: skip
    return values, record


def grouped(scores: np.ndarray, groups: Sequence[Any]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Sum scores over the leaves of units of any resolution.

    Args:
        scores: (P, N) floats.
        groups: G arrays of indices of leaves, an antichain: no leaf is in two of them. Leaves may
            be in none.

    Returns:
        (P, G) sums in float64, and the G arrays.

    Raises:
        InputError: If a unit is empty, an index is out of range, or a leaf is in two units.

    Example:
        >>> grouped(np.array([[1.0, 2, 4]]), [[0, 2], [1]])[0].tolist()
        [[5.0, 2.0]]
    """
    units = read_groups(groups, scores.shape[1])
    leaves = np.concatenate(units)
    starts = np.cumsum([0, *map(len, units[:-1])])
    return np.add.reduceat(scores[:, leaves].astype(np.float64), starts, axis=1), units


def read_groups(groups: Any, leaves: int) -> tuple[np.ndarray, ...]:
    """Read units given by the indices of their leaves.

    Args:
        groups: As in `grouped`.
        leaves: N.

    Returns:
        int64 arrays.

    Raises:
        InputError: As in `grouped`.
    """
    expected = f"lists of leaves from 0 to {leaves - 1}, one or more in each unit, none in two"
    try:
        found = [np.asarray(group) for group in require_list("groups", groups, expected)]
    except ValueError:  # lists of different depths
        found = []
    good = all(unit.dtype.kind in "iu" and unit.ndim == 1 and unit.size for unit in found)
    if not found or not good:
        raise InputError("groups", got=shown(groups), expected=expected)
    every = np.concatenate(found)
    if every.min() < 0 or every.max() >= leaves or len(np.unique(every)) < len(every):
        raise InputError("groups", got=f"{len(every)} leaves from {every.min()} to {every.max()}",
                         expected=expected)  # fmt: skip
    return tuple(unit.astype(np.int64) for unit in found)
