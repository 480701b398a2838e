"""Backward elimination: nodes leave a circuit as long as it is too large, the cheapest first.

Masks that are trained by gradients find circuits of many nodes out of very many. Where the circuit
is small and the dictionary has hundreds of nodes, the loss without each member can be measured
instead, under several ablations, which finds better ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.search.checks import require_run, require_sizes
from hagd_jax.search.config import RepairConfig
from hagd_jax.search.eliminate_config import EliminateConfig, elimination_cost
from hagd_jax.search.outcome import is_found, measured_losses
from hagd_jax.search.parts import Given, looked, read_circuit
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Parts, Selection, Source, parts_of
from hagd_jax.units.rows import count, unflat

# Nodes leave together if their loss is below twice the sum of what each costs alone, or within this
# share of the empty circuit's loss: rounding is no interaction.
_TOGETHER, _ROUNDING = 2, 1e-5

# Circuits (K, N) → their losses (A, K), one row for each ablation.
Measure = Callable[[np.ndarray], np.ndarray]


class Leaving(Protocol):
    """Anything that says how many members may leave in a round has this interface."""

    def leaving(self, members: int, size: int) -> int:
        """Return how many of the members may leave in a round on the way to a size."""
        ...


class Step(NamedTuple):
    """A step of an elimination is a circuit on the way.

    Attributes:
        mask: The circuit, as a `Selection`.
        losses: Ablation → its loss, see `measured_losses`.
    """

    mask: Selection
    losses: dict[str, float]

    __repr__ = one_line

    @property
    def worst(self) -> float:
        """Return the largest loss."""
        return max(self.losses.values())


class Eliminated(NamedTuple):
    """The result of an elimination holds the circuit, and all those on the way.

    Attributes:
        mask: The circuit of the size asked for, after swaps, as a `Selection`.
        losses: Ablation → its loss.
        path: The circuits before swaps, from the first to the one of the size asked for; each is a
            part of the one before.
        swapped: Largest loss over the ablations: before swaps, and after each of them.
        evaluations: Number of circuits measured, each under every ablation.
        empty: Ablation → loss of the empty circuit.
        found: Whether the circuit takes away 5% of the empty circuit's loss or more under every
            ablation; if not, it should not be used.
    """

    mask: Selection
    losses: dict[str, float]
    path: tuple[Step, ...]
    swapped: tuple[float, ...]
    evaluations: int
    empty: dict[str, float]
    found: bool

    __repr__ = one_line


def eliminate(
    model: LanguageModel,
    prompts: Prompts,
    mask: Given | None,
    size: int,
    config: EliminateConfig = EliminateConfig(),
    *,
    dictionary: Parts | Source | None = None,
) -> Eliminated:
    """Remove nodes from a circuit until it has a size, the cheapest first, then swap members.

    In each round the circuit without each of its members is measured, and those leave without which
    the largest loss over the ablations is least. At the end a member is swapped for another node as
    long as that lowers this loss. It costs `elimination_cost` circuits.

    Args:
        model: The model.
        prompts: Prompts to measure on: those that the search saw, not those that test it.
        mask: The circuit to begin with; all nodes if None.
        size: Number of nodes to end with.
        config: How nodes are eliminated.
        dictionary: As in `search_masks`.

    Returns:
        The circuit and those on the way. All have seen these prompts and ablations beside what the
        first one had seen.

    Raises:
        InputError: If the circuit is no mask or is empty, the size is not one of its sizes, more
            circuits would be measured than `config.most`, or something does not fit the model.

    Example:
        >>> from hagd_jax.search import eliminate
        >>> from hagd_jax.testbeds import hand_built
        >>> case = hand_built()[0]
        >>> found = eliminate(case.model, case.prompts, None, 4)
        >>> [len(step.mask) for step in found.path], found.found
        ([10, 9, 8, 7, 6, 5, 4], True)
    """
    require_run(model, prompts, config, EliminateConfig)
    parts = parts_of(model, dictionary)
    first, before = _start(parts, mask)
    (size,) = require_sizes([size], int(first.sum()))
    _require_affordable(len(first), int(first.sum()), size, config)
    seen = before | looked(model, prompts, dictionary, config.ablations)
    spent = 0

    def measured(rows: np.ndarray) -> np.ndarray:
        nonlocal spent
        spent += len(rows)
        circuits = [unflat(parts, row) for row in rows]
        how = RepairConfig(batch_size=config.batch_size, metric=config.metric)
        return np.stack([
            measured_losses(model, prompts, circuits, how, dictionary=parts, ablation=name)
            for name in config.ablations
        ])  # fmt: skip

    def step(row: np.ndarray, losses: np.ndarray) -> Step:
        return Step(Selection(unflat(parts, row), seen), _named(config, losses))

    none, whole = measured(np.stack([np.zeros_like(first), first])).T
    path = [(first, whole), *fewer(first, whole, size, config, none.max(), measured)]
    row, losses = path[-1]
    swaps = [(row, losses), *_swapped(row, losses, config, measured)]
    last, empty = step(*swaps[-1]), _named(config, none)
    good = all(is_found(last.losses[name], empty[name]) for name in empty)
    return Eliminated(
        last.mask, last.losses, tuple(step(*each) for each in path),
        tuple(float(losses.max()) for _, losses in swaps), spent, empty, good,
    )  # fmt: skip


def _start(parts: Parts, mask: Given | None) -> tuple[np.ndarray, Seen]:
    """The (N,) circuit to begin with, and what decided it; nothing decides that all are in it."""
    if mask is None:
        return np.ones(count(parts), bool), Seen.nothing()
    row, seen = read_circuit(parts, mask)
    if not row.any():
        raise InputError("mask", got="an empty circuit", expected="at least one node to begin with")
    return row, seen


def _require_affordable(total: int, members: int, size: int, config: EliminateConfig) -> None:
    cost = elimination_cost(total, members, size, config)
    if cost > config.most:
        raise InputError(
            "elimination", got=f"a plan to measure {cost:,} circuits under "
            f"{len(config.ablations)} ablations each",
            expected=f"at most {config.most:,}",
            mend="Begin with a smaller circuit, let more nodes leave in a round (at_once), allow "
            "fewer swaps, or raise most.",
        )  # fmt: skip


def _named(config: EliminateConfig, losses: np.ndarray) -> dict[str, float]:
    return dict(zip(config.ablations, map(float, losses), strict=True))


def fewer(
    now: np.ndarray,
    losses: np.ndarray,
    size: int,
    config: Leaving,
    empty: float,
    measured: Measure,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Remove members from a circuit, the cheapest first.

    Args:
        now: (N,) the circuit.
        losses: (A,) its losses.
        size: Number of members to end with.
        config: How many members may leave in a round.
        empty: The largest loss of the empty circuit.
        measured: (K, N) circuits → their (A, K) losses.

    Yields:
        Ever smaller circuits, and their (A,) losses.
    """
    while now.sum() > size:
        inside = np.flatnonzero(now)
        without = measured(_flipped(now, inside))
        order = np.argsort(without.max(0), kind="stable")
        costs = np.maximum(without.max(0) - losses.max(), 0)[order]
        leaving = config.leaving(len(inside), size)
        while leaving > 1:
            row = now.copy()
            row[inside[order[:leaving]]] = False
            found = measured(row[None])[:, 0]
            enough = _TOGETHER * costs[:leaving].sum() + _ROUNDING * empty
            # Where one of them alone costs infinity, no sum says what they cost together.
            if np.isfinite(enough) and found.max() - losses.max() <= enough:
                break
            leaving //= 2
        else:
            row, found = now.copy(), without[:, order[0]]
            row[inside[order[0]]] = False
        now, losses = row, found
        yield now, losses


def _swapped(
    now: np.ndarray, losses: np.ndarray, config: EliminateConfig, measured: Measure
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ever better circuits of the same size, and their (A,) losses."""
    for _ in range(config.swaps):
        outside = np.flatnonzero(~now)
        if not len(outside):
            return
        inside = np.flatnonzero(now)
        help_most = np.argsort(measured(_flipped(now, outside)).max(0), kind="stable")
        larger = _flipped(now, outside[help_most[: config.entering]])
        rows = np.concatenate([_flipped(row, inside) for row in larger])
        found = measured(rows)
        # Where activations overflow there is no number, which no loss would be less than.
        worst, before = (np.nan_to_num(x.max(0), nan=np.inf) for x in (found, losses))
        best = int(worst.argmin())
        if not worst[best] < before * (1 - config.least):
            return
        now, losses = rows[best], found[:, best]
        yield now, losses


def _flipped(now: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(P, N) the circuit, in each row with one of the places in or out."""
    rows = np.repeat(now[None], len(places), 0)
    rows[np.arange(len(places)), places] ^= True
    return rows
