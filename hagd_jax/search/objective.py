"""How far a masked model is from the model: what a search makes small."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.reference import Means, Places, reference_means
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import constrain, replicate
from hagd_jax.search.checks import require_spoken
from hagd_jax.tasks.batching import batch_rows, padded_batches
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import AnyParts, Parts
from hagd_jax.units.rows import masks


class Target(NamedTuple):
    """The target records what the model does on N discovery prompts, on every device.

    Attributes:
        prompts: The prompts.
        at: (N, rows of a prompt, S, V) logits where answers are read.
        metric: (N,) of the model.
        means: Sums over the prompts, for mean ablation (`causal.reference`); or None.
        places: Where each prompt finds its own among those; or None.
    """

    prompts: Prompts
    at: jax.Array
    metric: jax.Array
    means: Means | None = None
    places: Places | None = None

    __repr__ = one_line

    def scale(self) -> jax.Array:
        """Return the mean metric, the unit of its errors."""
        mean = jnp.mean(self.metric)
        return jnp.where(jnp.abs(mean) > 1e-3, mean, 1.0)

    def take(self, rows: jax.Array, mesh: jax.sharding.Mesh | None) -> Target:
        """Select some prompts, spread over the devices that share a batch."""

        def part(x: jax.Array) -> jax.Array:
            return constrain(x[rows], ("batch",) + (None,) * (x.ndim - 1), mesh)

        return jax.tree.map(part, self._replace(means=None))._replace(means=self.means)


def target_of(
    model: LanguageModel, prompts: Prompts, batch_size: int, *, means: AnyParts | None = None
) -> Target:
    """Run the model on all prompts once.

    Args:
        model: The model.
        prompts: The prompts.
        batch_size: Prompts in one call.
        means: Parts whose means over other prompts are wanted, for mean ablation.

    Returns:
        What it does.

    Raises:
        InputError: If it says NaN or infinity on a prompt: no circuit could be near that.
    """
    sums = places = None
    if means is not None:
        sums, found = reference_means(model, means, prompts, batch_size=batch_size)
        places = jax.tree.map(jnp.asarray, found)
    rows = batch_rows(len(prompts), batch_size, model.mesh)
    parts = [_ends(model.bare(), batch) for batch, _ in padded_batches(model, prompts, rows)]
    at, metric = (jnp.concatenate(part)[: len(prompts)] for part in zip(*parts, strict=True))
    require_spoken(np.asarray(jnp.isnan(at).any((1, 2, 3)) | ~jnp.isfinite(metric)))
    return Target(jax.tree.map(jnp.asarray, prompts), at, metric, sums, places)


@jax.jit
def _ends(model: LanguageModel, batch: Prompts) -> tuple[jax.Array, jax.Array]:
    at = forward(model, batch.inputs(), read=batch.reads).logits
    by_prompt = at.reshape(len(batch), -1, *at.shape[1:])
    return replicate((by_prompt, batch.metric(at)), model.mesh)


def counterfactual(model: LanguageModel, parts: AnyParts, batch: Prompts) -> dict[str, jax.Array]:
    """Compute the values of the parts on the corrupted prompts."""
    trace = forward(model, batch.inputs("corrupted"), capture=parts.capture).trace
    return parts.values(trace)


def mixed(
    model: LanguageModel,
    parts: Parts,
    batch: Target,
    other: dict[str, jax.Array],
    share: float,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """Replace the counterfactual by means over other prompts on a random share of the prompts."""
    if batch.means is None or not share:
        return other
    rows = jax.random.bernoulli(key, share, (len(batch.metric),))
    return chosen(batch.prompts, rows, means_of(batch, own_values(model, parts, batch)), other)


def own_values(model: LanguageModel, parts: AnyParts, batch: Target) -> dict[str, jax.Array]:
    """Compute the values of the parts on the prompts themselves."""
    trace = forward(model, batch.prompts.inputs(), capture=parts.capture).trace
    return parts.values(trace)


def means_of(batch: Target, own: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Compute the means over other prompts, from the prompts' own values."""
    assert batch.means is not None
    assert batch.places is not None
    return batch.means.values(own, batch.prompts, *map(jnp.asarray, batch.places))


def chosen(
    prompts: Prompts, where: jax.Array, some: dict[str, jax.Array], others: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Choose `some` values on the prompts (B,) where that is true, and the others elsewhere."""
    rows = prompts.per_row(where)

    def choose(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(rows.reshape(1, -1, *[1] * (other.ndim - 2)), one, other)

    return {name: choose(some[name], value) for name, value in others.items()}


def distances(
    model: LanguageModel,
    parts: Parts,
    target: Target,
    other: dict[str, jax.Array],
    rows: jax.Array,
    scale: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Compute how far the masked model is from the model on each prompt.

    Args:
        model: The model.
        parts: Its nodes or edges.
        target: B prompts and what the model does on them.
        other: What closed parts are set to.
        rows: (B, N) masks.
        scale: What errors of the metric are measured in.

    Returns:
        (B,) KL(model ‖ masked model) of the next token, and (B,) squared relative errors of the
        metric.
    """
    batch = target.prompts
    mask: Any = masks(parts, batch.per_row(rows))
    masked = parts.at(batch).mask(mask, other)
    found = forward(model, batch.inputs(), masked, read=batch.reads).logits
    kl = batch.kl(target.at.reshape(-1, *target.at.shape[2:]), found)
    return kl, ((batch.metric(found) - target.metric) / scale) ** 2


def loss(
    model: LanguageModel,
    parts: Parts,
    target: Target,
    other: dict[str, jax.Array],
    rows: jax.Array,
    weight: float,
    scale: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute KL(model ‖ masked model) of the next token plus the squared error of the metric.

    Args:
        model: The model.
        parts: Its nodes or edges.
        target: B prompts and what the model does on them.
        other: What closed parts are set to.
        rows: (B, N) masks.
        weight: Of the error of the metric.
        scale: What that error is measured in.

    Returns:
        The loss, and its parts.
    """
    kl, off = (x.mean() for x in distances(model, parts, target, other, rows, scale))
    return kl + weight * off, {"kl": kl, "metric_error": off}
