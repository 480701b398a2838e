"""Repair: swap members of a circuit for others as long as that measurably brings it nearer."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import replicate
from hagd_jax.search.checks import require_run
from hagd_jax.search.config import RepairConfig, shares
from hagd_jax.search.objective import Target, counterfactual, loss, mixed, target_of
from hagd_jax.search.outcome import is_found, measured_losses
from hagd_jax.search.parts import Given, looked, read_circuit
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Parts, Selection, Source, parts_of
from hagd_jax.units.rows import unflat

# A backward pass costs as much as two forward passes.
GRADIENT = 3


class Repaired(NamedTuple):
    """The result of a repair holds the circuit and its losses.

    Attributes:
        mask: The circuit, as a `Selection`.
        losses: Before, and after each round that found a better one.
        evaluations: Number of circuits measured, a gradient counted as three; the empty circuit is
            not counted.
        empty: Loss of the empty circuit.
        found: Whether the circuit takes away 5% of the empty circuit's loss or more; if not, it is
            no circuit and should not be used.
    """

    mask: Selection
    losses: tuple[float, ...]
    evaluations: int
    empty: float
    found: bool

    __repr__ = one_line


def repair(
    model: LanguageModel,
    prompts: Prompts,
    mask: Given,
    config: RepairConfig = RepairConfig(),
    *,
    dictionary: Parts | Source | None = None,
) -> Repaired:
    """Swap members of a circuit for other nodes while that lowers the measured loss.

    The gradient of the loss at the circuit itself proposes who leaves and who enters; first-order
    effects mislead, so every proposal is measured and the best is taken, until none helps, nor two
    of the best together. The loss is measured under the ablations that masks are trained under,
    see `RepairConfig.mean`.

    Args:
        model: The model.
        prompts: Prompts to measure on: those that the search saw, not those that test it.
        mask: The circuit.
        config: How it is repaired.
        dictionary: As in `search_masks`.

    Returns:
        A circuit of the same size whose loss is no higher. It has seen these prompts and ablations
        beside what it had seen before.

    Raises:
        InputError: If the circuit is no mask, or it or the prompts do not fit.

    Example:
        >>> from hagd_jax.baselines import random_scores
        >>> from hagd_jax.search import RepairConfig, repair, top_nodes
        >>> from hagd_jax.testbeds import hand_built
        >>> from hagd_jax.units import neurons
        >>> case = hand_built()[0]
        >>> some = top_nodes(random_scores(neurons(case.model).space), 3)
        >>> better = repair(case.model, case.prompts, some, RepairConfig(rounds=2))
        >>> better.losses[-1] <= better.losses[0]
        True
    """
    require_run(model, prompts, config, RepairConfig)
    parts = parts_of(model, dictionary)
    now, before = read_circuit(parts, mask)
    if config.mean is None:
        config = dataclasses.replace(config, mean=0.5 if "mean" in before.ablations else 0.0)
    seen = before | looked(model, prompts, dictionary, tuple(shares(config)))

    def measured(rows: np.ndarray) -> np.ndarray:
        if not len(rows):
            return np.array([np.inf])
        circuits = [unflat(parts, row) for row in rows]
        return measured_losses(model, prompts, circuits, config, dictionary=parts)

    first, empty = measured(np.stack([now, np.zeros_like(now)]))
    losses, spent = [float(first)], 1
    target = target_of(model, prompts, config.batch_size, means=parts if config.mean else None)
    for _ in range(config.rounds):
        slope = _slope_of(model, parts, target, now, config)
        enough = losses[-1] * (1 - config.least)
        rows, found, count = _swapped(now, slope, enough, config.pairs, measured)
        spent += GRADIENT + count
        if not found.min() < enough:
            break
        now = rows[found.argmin()]
        losses.append(float(found.min()))
    return Repaired(
        Selection(unflat(parts, now), seen), tuple(losses), spent, float(empty),
        is_found(losses[-1], empty),
    )  # fmt: skip


def _swapped(
    now: np.ndarray,
    slope: np.ndarray,
    enough: float,
    pairs: int,
    measured: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Circuits (P, N) with other members, their losses (P,), and how many were measured."""
    rows = _proposals(now, slope, pairs)
    found, count = measured(rows), len(rows)
    if not found.min() < enough:
        # No swap helps alone: two at once, of those that cost least.
        likely = np.argsort(found[: len(rows)], kind="stable")[: 2 * pairs]
        rows = _doubled(now, rows[likely])
        found, count = measured(rows), count + len(rows)
    return rows, found, count


def _proposals(now: np.ndarray, slope: np.ndarray, pairs: int) -> np.ndarray:
    """(P, N) circuits of the same size, likelier ones first."""
    inside, outside = np.flatnonzero(now), np.flatnonzero(~now)
    leave = inside[np.argsort(-slope[inside], kind="stable")]
    enter = outside[np.argsort(slope[outside], kind="stable")]
    most = min(len(leave), len(enter))
    swaps = [([out], [into]) for out in leave[:pairs] for into in enter[:pairs]]  # each with each
    many = 2 ** np.arange(0 if not pairs else 1, 20)
    swaps += [(leave[:n], enter[:n]) for n in many[many <= most // 2]]
    rows = np.repeat(now[None], len(swaps), 0)
    for row, (out, into) in zip(rows, swaps, strict=True):
        row[out], row[into] = False, True
    return rows


def _doubled(now: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(P, N) every two of some swaps together, where the size stays what it is."""
    moved = rows ^ now
    both = [a ^ b for a, b in itertools.combinations(moved, 2)]
    found = np.array([now ^ swap for swap in both]).reshape(-1, len(now))
    return found[found.sum(1) == now.sum()]


def _slope_of(
    model: LanguageModel, parts: Parts, target: Target, now: np.ndarray, config: RepairConfig
) -> np.ndarray:
    """(N,) gradient of the measured loss with respect to the mask, each ablation with its share."""
    row, total = jnp.asarray(now, jnp.float32), np.zeros(len(now))
    for name, share in shares(config).items():
        total += share * np.asarray(
            _slope(model.bare(), parts, target, row, config.metric, name == "mean")
        )
    return total


@functools.partial(jax.jit, static_argnames=("weight", "mean"))
def _slope(
    model: LanguageModel, parts: Parts, target: Target, now: jax.Array, weight: float, mean: bool
) -> jax.Array:
    """(N,) gradient of the loss under one ablation, where the mask is 0 or 1."""
    scale = target.scale()
    batch = target.take(jnp.arange(len(target.metric)), model.mesh)
    other = counterfactual(model, parts, batch.prompts)
    other = mixed(model, parts, batch, other, float(mean), jax.random.key(0))

    def of(row: jax.Array) -> jax.Array:
        rows = jnp.broadcast_to(row, (len(batch.metric), len(row)))
        return loss(model, parts, batch, other, rows, weight, scale)[0]

    return replicate(jax.grad(of)(now), model.mesh)
