"""Gradients along the path from the counterfactual prompts to the clean ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_callable
from hagd_jax.interventions import Edit, replace
from hagd_jax.models import LanguageModel, forward
from hagd_jax.tasks.prompts import Prompts

Metric = Callable[[jax.Array, Prompts], jax.Array]
# Places on the path: those of edge attribution patching, without and with integrated gradients.
CLEAN = (1.0,)
PATH = (0.2, 0.4, 0.6, 0.8, 1.0)


def metric_sum(metric: Metric, logits: jax.Array, batch: Prompts, weight: jax.Array) -> jax.Array:
    """Add up a metric over prompts.

    Args:
        metric: (logits (B, T, V), prompts) → (B,).
        logits: (B, T, V).
        batch: B prompts.
        weight: (B,) what each weighs.

    Returns:
        The weighted sum, a scalar.

    Raises:
        InputError: If the metric is no function, or returns anything but a number for each prompt:
            a sum or mean over prompts would mix them with each other and with padding.
    """
    require_callable("metric", metric, "(logits, prompts)")
    found = metric(logits, batch)
    if jnp.shape(found) != weight.shape:
        raise InputError("result of the metric", got=f"shape {jnp.shape(found)}",
                         expected=f"{weight.shape}, a number for each prompt")  # fmt: skip
    return jnp.sum(found * weight)


def path_gradient(gradient: Callable[[jax.Array], Any], steps: jax.Array) -> Any:
    """Average the gradient along a path: (1/S) Σ_s ∂m(x(α_s)) approximates ∫₀¹ ∂m(x(α)) dα.

    Args:
        gradient: α → a pytree of gradients where the path is at α: 0 is the counterfactual, 1 the
            clean prompt.
        steps: (S,) float32 places on the path. They are taken one after the other, so memory is
            that of one gradient.

    Returns:
        The pytree, averaged over steps.

    Example:
        >>> import jax
        >>> square = lambda at: jax.grad(lambda x: x**2)(at)
        >>> float(path_gradient(square, jnp.array([0.25, 0.75])))
        1.0
    """
    return jax.tree.map(lambda x: x.mean(0), jax.lax.map(gradient, steps))


class Ends(NamedTuple):
    """Ends are the activations of a model at both ends of the path of embeddings.

    Attributes:
        clean: Site → values on the clean prompts.
        other: Site → values on the counterfactual prompts.
    """

    clean: dict[str, jax.Array]
    other: dict[str, jax.Array]

    __repr__ = one_line

    def at(self, step: jax.Array) -> Edit:
        """Make the intervention that starts the model at a point on the path of embeddings."""
        clean, other = self.clean["embed"], self.other["embed"]
        return replace("embed", other + step * (clean - other))


def path_ends(model: LanguageModel, batch: Prompts, sites: tuple[str, ...]) -> Ends:
    """Run the model at both ends of the path of embeddings.

    Args:
        model: The model.
        batch: B prompts with their counterfactuals.
        sites: What to capture, beside the embeddings.

    Returns:
        The values at both ends.
    """
    capture = ("embed", *(site for site in sites if site != "embed"))
    clean, other = (
        forward(model, batch.inputs(side), capture=capture).trace for side in ("clean", "corrupted")
    )
    return Ends(clean, other)
