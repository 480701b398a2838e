"""Several ablations in one step: each prompt's closed leaves are set to the values of one of them.

The loss of each ablation is weighted by its own running loss, so that the ablation under which the
masked model is farthest from the model sets most of the gradient.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.ablation import resampled
from hagd_jax.causal.partners import at_last
from hagd_jax.interventions import zero_alternative
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import constrain
from hagd_jax.search.objective import Target, chosen, counterfactual, means_of
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import AnyParts


class Partners(NamedTuple):
    """Partners hold several draws of the prompts that each prompt is resampled from.

    Attributes:
        tokens: (K, N, ..., T) int32 tokens of the partners, as the prompts' counterfactuals.
        length: (K, N, ...) int32 tokens of each partner's rows; None if none is shorter than its
            prompt.
    """

    tokens: Any
    length: Any = None

    __repr__ = one_line

    def take(
        self, one: jax.Array, rows: jax.Array, mesh: jax.sharding.Mesh | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Select one draw of some prompts, spread over the devices that share a batch."""

        def part(x: jax.Array) -> jax.Array:
            own = x[one, rows]
            return constrain(own, ("batch",) + (None,) * (own.ndim - 1), mesh)

        return part(self.tokens), None if self.length is None else part(self.length)


def partners_of(model: LanguageModel, prompts: Prompts, draws: int) -> Partners:
    """Draw partners as the judge pairs prompts, once for each of the first seeds.

    Args:
        model: The model that will read them.
        prompts: N prompts.
        draws: K, number of seeds.

    Returns:
        The partners.

    Raises:
        InputError: If a prompt has no partner, see `causal.ablation.resampled`.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> partners_of(case.model, case.prompts, 3).tokens.shape[:2]
        (3, 81)
    """
    made = [resampled(model, prompts, None, seed) for seed in range(draws)]
    tokens = jnp.asarray(np.stack([each.corrupted for each, _ in made]), jnp.int32)
    if not any(beside for _, beside in made):
        return Partners(tokens)
    own = np.asarray(prompts.length, np.int32)
    rows = [beside.get("length", own) for _, beside in made]
    return Partners(tokens, jnp.asarray(np.stack(rows), jnp.int32))


def replaced(
    model: LanguageModel,
    parts: AnyParts,
    batch: Target,
    drawn: tuple[jax.Array, jax.Array | None] | None,
    which: jax.Array,
    ablations: tuple[str, ...],
) -> dict[str, jax.Array]:
    """Compute what closed leaves are set to on each prompt, under its own ablation.

    One forward pass reads for each prompt what its ablation needs: the counterfactual, a partner,
    or the prompt itself, which is left out of its mean.

    Args:
        model: The model.
        parts: Its nodes.
        batch: B prompts; with means if `mean` is among the ablations.
        drawn: Tokens and lengths of their partners, from `Partners.take`, for `resample`.
        which: (B,) number of each prompt's ablation.
        ablations: Their names.

    Returns:
        Name → (L, R, T, ...) values.
    """
    prompts, length = batch.prompts, None
    at = {name: which == i for i, name in enumerate(ablations)}
    tokens = prompts.clean
    if "counterfactual" in at:
        tokens = _where(at["counterfactual"], prompts.corrupted, tokens)
    if drawn is not None:
        partners, length = drawn
        tokens = _where(at["resample"], partners, tokens)
    found = counterfactual(model, parts, dataclasses.replace(prompts, corrupted=tokens))
    if length is not None:
        whole = jnp.full_like(length, tokens.shape[-1])
        found = at_last(found, _where(at["resample"], length, whole).reshape(-1))
    if "mean" in at:
        found = chosen(prompts, at["mean"], means_of(batch, found), found)
    if "zero" in at:
        found = chosen(prompts, at["zero"], zero_alternative(found), found)
    return found


def _where(rows: jax.Array, some: jax.Array, others: jax.Array) -> jax.Array:
    """Rows of one array where that is true, and of another elsewhere."""
    return jnp.where(rows.reshape(-1, *[1] * (some.ndim - 1)), some, others)


def loss_weights(running: jax.Array, temperature: float) -> jax.Array:
    """Compute the weight of each ablation: softmax(r / (temperature · mean r)).

    Args:
        running: (A,) running losses; 0 before the first step.
        temperature: Near 0 the largest alone counts.

    Returns:
        (A,) weights that sum to 1.

    Example:
        >>> loss_weights(jnp.array([1.0, 1.0, 4.0]), 1e-3).tolist()
        [0.0, 0.0, 1.0]
    """
    scale = temperature * jnp.maximum(running.mean(), 1e-9)
    return jax.nn.softmax(running / scale)
