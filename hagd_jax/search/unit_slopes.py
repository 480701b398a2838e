"""Gradients of the loss of a circuit of units: what changes of it may be worth."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.models import LanguageModel
from hagd_jax.parallel import replicate
from hagd_jax.search.objective import Target, loss, target_of
from hagd_jax.search.several import partners_of, replaced
from hagd_jax.search.unit_config import UnitRepairConfig
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Parts


def slopes(
    model: LanguageModel, prompts: Prompts, parts: Parts, config: UnitRepairConfig
) -> Callable[[str, np.ndarray], np.ndarray]:
    """Return a function that differentiates the loss of a circuit with respect to its mask.

    Args:
        model: The model.
        prompts: Prompts that the loss is a mean over, all in one call.
        parts: What the leaves are.
        config: Ablations that the function can be asked for, and weight of the metric.

    Returns:
        (ablation, (N,) bool mask) → (N,) gradient: minus its sum over a unit is a first-order
        estimate of what leaving the unit out adds.
    """
    names = config.ablations
    target = target_of(
        model, prompts, config.batch_size, means=parts if "mean" in names else None
    )  # fmt: skip
    every = jnp.arange(len(prompts))
    drawn = None
    if "resample" in names:
        drawn = partners_of(model, prompts, 1).take(jnp.int32(0), every, model.mesh)

    def slope(name: str, row: np.ndarray) -> np.ndarray:
        pairs = drawn if name == "resample" else None
        own = jnp.asarray(row, jnp.float32)
        return np.asarray(_slope(model.bare(), parts, target, pairs, own, config.metric, name))

    return slope


@functools.partial(jax.jit, static_argnames=("weight", "ablation"))
def _slope(
    model: LanguageModel,
    parts: Parts,
    target: Target,
    drawn: tuple[jax.Array, jax.Array | None] | None,
    now: jax.Array,
    weight: float,
    ablation: str,
) -> jax.Array:
    """(N,) gradient of the loss under one ablation, where the mask is 0 or 1."""
    count = len(target.metric)
    batch = target.take(jnp.arange(count), model.mesh)
    which = jnp.zeros(count, jnp.int32)
    other = replaced(model, parts, batch, drawn, which, (ablation,))

    def of(row: jax.Array) -> jax.Array:
        rows = jnp.broadcast_to(row, (count, len(row)))
        return loss(model, parts, batch, other, rows, weight, target.scale())[0]

    return replicate(jax.grad(of)(now), model.mesh)
