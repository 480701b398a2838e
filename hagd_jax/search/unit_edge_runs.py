"""Graphs of units measured: how near each is to its gates, and the gradient of each edge."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import (
    ACCURACY_GATE,
    FAITHFULNESS_GATE,
    KL_GATE,
    Ablation,
    Behaviour,
    behaviour,
)
from hagd_jax.causal.gates import BAND_GATE
from hagd_jax.causal.metrics import BAND
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import replicate
from hagd_jax.search.checks import require_spoken
from hagd_jax.search.objective import Target, target_of
from hagd_jax.search.several import partners_of, replaced
from hagd_jax.search.unit_edge_config import UnitEdgeConfig
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import UnitEdges, Wired

# A metric that ablating everything moves by less than this share of it tells nothing.
_MOVES = 1e-3


class Measures(NamedTuple):
    """What K graphs of units keep; every array is (K,).

    Attributes:
        strain: The furthest that a gate is used up, over gates and ablations: all hold up to 1.
        kl: KL from the model as a share of the empty circuit's, the largest over ablations.
        accuracy: Share of the model's accuracy, the least over ablations.
        faithfulness: Share of the metric, the furthest from 1 over ablations.
    """

    strain: np.ndarray
    kl: np.ndarray
    accuracy: np.ndarray
    faithfulness: np.ndarray

    __repr__ = one_line


class Bench(NamedTuple):
    """A bench measures graphs of units on prompts under several ablations.

    Attributes:
        model: The model.
        prompts: The prompts.
        parts: The units with their edges.
        config: How edges are pruned.
        candidates: Tokens among which the answer must win.
    """

    model: LanguageModel
    prompts: Prompts
    parts: Wired
    config: UnitEdgeConfig
    candidates: tuple[int, ...] | None

    __repr__ = one_line

    def measures(self, rows: Sequence[np.ndarray]) -> Measures:
        """Measure (E,) bool masks, each under every ablation."""
        empty = np.zeros(self.parts.count, bool)
        empty[self.parts.direct] = True
        masks = [UnitEdges(np.asarray(row, bool)) for row in (empty, *rows)]
        several = []
        for name in self.config.ablations:
            found = behaviour(
                self.model, self.prompts, masks,
                ablation=Ablation(name, self.prompts, self.config.seed), dictionary=self.parts,
                candidates=self.candidates, batch_size=self.config.batch_size, with_model=True,
            )  # fmt: skip
            require_spoken(~np.isfinite(np.asarray(found.metric[0])))
            several.append(_measures(found))
        strain, kl, accuracy, faithful = (np.stack(x) for x in zip(*several, strict=True))
        furthest = np.abs(faithful - 1).argmax(0)
        return Measures(strain.max(0), kl.max(0), accuracy.min(0),
                        np.take_along_axis(faithful, furthest[None], 0)[0])  # fmt: skip

    def gradients(self) -> np.ndarray:
        """Compute (E,) −∂loss/∂mask, the mean over points of the path and over ablations.

        score_e = −mean_α ∂L/∂m_e at m = α · 1, where L is KL(model ‖ graph) as a share of what it
        is at the start of the path, on average over prompts; positive edges bring the graph nearer
        to the model.
        """
        names, size = self.config.ablations, min(self.config.batch_size, len(self.prompts))
        target = target_of(
            self.model, self.prompts, size, means=self.parts if "mean" in names else None
        )
        pairs = partners_of(self.model, self.prompts, 1) if "resample" in names else None
        steps = jnp.asarray(self.config.steps, jnp.float32)
        total = np.zeros(self.parts.count)
        for name in names:
            slope, scale = np.zeros(self.parts.count), 0.0
            for start in range(0, len(self.prompts), size):
                # Rows that fill up the last batch weigh nothing.
                own = np.arange(start, start + size)
                rows = jnp.asarray(np.minimum(own, len(self.prompts) - 1))
                weight = jnp.asarray(own < len(self.prompts), jnp.float32)
                drawn = None
                if name == "resample" and pairs is not None:
                    drawn = pairs.take(jnp.int32(0), rows, self.model.mesh)
                part = target.take(rows, self.model.mesh)
                found = _slope(self.model.bare(), self.parts, part, drawn, weight, steps, name)
                slope += np.asarray(found[0], np.float64)
                scale += float(found[1])
            total -= slope / max(scale, 1e-9)
        return total / len(names)


def _measures(found: Behaviour) -> tuple[np.ndarray, ...]:
    """Strain and measures of rows 2 and on, of which row 0 is the model and row 1 empty."""
    metric, right, kl = (np.asarray(x, np.float64) for x in found[:3])
    span = metric[0] - metric[1]
    share = kl[2:].mean(1) / max(kl[1].mean(), 1e-9)
    kept = right[2:].mean(1) / max(right[0].mean(), 1e-9)
    told = abs(span.mean()) > _MOVES * max(np.abs(metric[:2]).max(), 1e-9)
    gained = metric[2:] - metric[1]
    faithful = gained.mean(1) / span.mean() if told else np.ones(len(gained))
    clear = np.abs(span) > _MOVES * np.abs(metric[:2]).max()
    each = gained[:, clear] / span[clear]
    inside = ((each >= BAND[0]) & (each <= BAND[1])).mean(1) if clear.any() else np.ones(len(each))
    strain = np.max([share / KL_GATE, (1 - kept) / (1 - ACCURACY_GATE),
                     np.abs(faithful - 1) / FAITHFULNESS_GATE, (1 - inside) / (1 - BAND_GATE)],
                    axis=0)  # fmt: skip
    return strain, share, kept, faithful


@functools.partial(jax.jit, static_argnames="ablation")
def _slope(
    model: LanguageModel,
    parts: Wired,
    target: Target,
    drawn: Any,
    weight: jax.Array,
    steps: jax.Array,
    ablation: str,
) -> tuple[jax.Array, jax.Array]:
    """(E,) mean gradient of the summed KL along the path, and that KL where all masks are 0."""
    batch, count = target.prompts, len(weight)
    which = jnp.zeros(count, jnp.int32)
    other = replaced(model, parts, target, drawn, which, (ablation,))
    clean = target.at.reshape(-1, *target.at.shape[2:])

    def loss(row: jax.Array) -> jax.Array:
        masked = parts.mask(UnitEdges(row), other)
        found = forward(model, batch.inputs(), masked, read=batch.reads, remat=True).logits
        return (batch.kl(clean, found) * weight).sum()

    every = jnp.ones(parts.count)
    slopes = jax.lax.map(lambda step: jax.grad(loss)(step * every), steps)
    return replicate((slopes.mean(0), loss(0 * every)), model.mesh)
