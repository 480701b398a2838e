"""Repair: swap members of a circuit for others as long as that measurably brings it nearer."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import behaviour
from hagd_jax.errors import ConfigError
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import replicate
from hagd_jax.search.objective import Target, counterfactual, loss, target_of
from hagd_jax.search.parts import Parts, flat, unflat
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Edges, Nodes, parts_of

# A backward pass costs as much as two forward passes.
GRADIENT = 3


@dataclasses.dataclass(frozen=True)
class RepairConfig:
    """How a circuit is repaired.

    Attributes:
        rounds: At most; each takes the best of the swaps that it measured.
        pairs: Members that may leave and parts that may enter, each with each: pairs² circuits
            are measured a round. 0 measures swaps of many at once alone.
        batch_size: Prompts in one call.
        metric: Weight of the squared error of the metric, beside KL.
        least: A swap must lower the loss by this share of it.
    """

    rounds: int = 0
    pairs: int = 4
    batch_size: int = 32
    metric: float = 1.0
    least: float = 1e-4

    def __post_init__(self):
        for field in ("rounds", "pairs", "metric", "least"):
            if getattr(self, field) < 0:
                raise ConfigError(field, got=getattr(self, field), expected="0 or more")
        if self.batch_size < 1:
            raise ConfigError("batch_size", got=self.batch_size, expected="1 or more")


class Repaired(NamedTuple):
    """What repair came to.

    Attributes:
        mask: The circuit.
        losses: Before, and after each round that found a better one.
        evaluations: Circuits measured, a gradient counted as three.
    """

    mask: Any
    losses: tuple[float, ...]
    evaluations: int

    __repr__ = one_line


def repair(
    model: LanguageModel,
    prompts: Prompts,
    mask: Nodes | Edges,
    config: RepairConfig = RepairConfig(),
    *,
    dictionary: Parts | Transcoder | None = None,
) -> Repaired:
    """Swap members for others of the same number, by what is measured.

    The gradient of the loss at the circuit itself proposes who leaves and who enters; first-order
    effects mislead, so every proposal is measured and the best is taken, until none helps, nor two
    of the best together.

    Args:
        model: The model.
        prompts: To measure on: those that the search saw, not those that test it.
        mask: The circuit.
        config: How.
        dictionary: As in `search_masks`.

    Returns:
        A circuit of the same size whose loss is no higher.

    Raises:
        InputError: If the circuit or the prompts do not fit.

    Example:
        >>> repair(model, prompts, circuits[32], RepairConfig(rounds=5)).losses
        (0.412, 0.377, 0.371)
    """
    nodes = parts_of(model, dictionary)
    now = flat(nodes, mask).astype(bool)
    target = target_of(model, prompts, config.batch_size)
    (start,) = measured_losses(model, prompts, [mask], config, dictionary=nodes)
    losses, spent = [float(start)], 1

    def measured(rows: np.ndarray) -> np.ndarray:
        circuits = [unflat(nodes, row) for row in rows]
        return measured_losses(model, prompts, circuits, config, dictionary=nodes)

    for _ in range(config.rounds):
        slope = np.asarray(_slope(model.bare(), nodes, target, jnp.asarray(now), config.metric))
        rows = _proposals(now, slope, config.pairs)
        spent += GRADIENT + len(rows)
        found = measured(rows) if len(rows) else np.array([np.inf])
        enough = losses[-1] * (1 - config.least)
        if not found.min() < enough:
            # No swap helps alone: two at once, of those that cost least.
            rows = _doubled(now, rows[np.argsort(found, kind="stable")[: 2 * config.pairs]])
            spent += len(rows)
            found = measured(rows) if len(rows) else np.array([np.inf])
            if not found.min() < enough:
                break
        now = rows[found.argmin()]
        losses.append(float(found.min()))
    return Repaired(unflat(nodes, now), tuple(losses), spent)


def measured_losses(
    model: LanguageModel,
    prompts: Prompts,
    masks: Sequence[Nodes | Edges],
    config: RepairConfig = RepairConfig(),
    *,
    dictionary: Parts | Transcoder | None = None,
    ablation: str = "counterfactual",
) -> np.ndarray:
    """(K,) the loss that a search makes small, of circuits, over all prompts.

    Args:
        model: The model.
        prompts: Where to measure.
        masks: K circuits.
        config: Batches and the weight of the metric.
        dictionary: As in `search_masks`.
        ablation: What closed parts are set to.

    Returns:
        (K,) float64.
    """
    found = behaviour(
        model, prompts, list(masks), ablation=ablation, dictionary=dictionary, reference=prompts,
        batch_size=config.batch_size, with_model=True,
    )  # fmt: skip
    whole = np.asarray(found.metric[0], np.float64)
    scale = whole.mean() if abs(whole.mean()) > 1e-3 else 1.0
    off = (((found.metric[1:] - whole) / scale) ** 2).mean(1)
    return np.asarray(found.kl[1:], np.float64).mean(1) + config.metric * off


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


@functools.partial(jax.jit, static_argnames="weight")
def _slope(
    model: LanguageModel, nodes: Parts, target: Target, now: jax.Array, weight: float
) -> jax.Array:
    """(N,) gradient of the loss with respect to the mask, where it is 0 or 1."""
    other = counterfactual(model, nodes, target.prompts)
    scale = target.scale()

    def of(row: jax.Array) -> jax.Array:
        rows = jnp.broadcast_to(row, (len(target.metric), len(row)))
        return loss(model, nodes, target, other, rows, weight, scale)[0]

    return replicate(jax.grad(of)(now.astype(jnp.float32)), model.mesh)
