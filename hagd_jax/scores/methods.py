"""How nodes are scored by gradients: one computation, of which the methods are settings."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_choice, require_is
from hagd_jax.interventions import chain
from hagd_jax.models import Identity, Intervention, LanguageModel, forward
from hagd_jax.parallel import replicate
from hagd_jax.scores.gradient_config import GradientConfig
from hagd_jax.scores.path import CLEAN, PATH, Metric, metric_sum, path_ends, path_gradient
from hagd_jax.scores.rules import gim_rules, relp_rules
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Dictionary, Nodes


class Method(NamedTuple):
    """A method says along which path gradients are taken, and what they are multiplied by.

    Attributes:
        path: `embeddings`: from the counterfactual's embeddings to the clean ones; `masks`: all
            nodes at once from their counterfactual values to their own, on clean embeddings.
        factor: What the gradient of a node is multiplied by on the path of embeddings: `move`, its
            clean value minus its counterfactual value; `rate`, its derivative along the path.
        rules: Intervention that changes the backward pass and no value; it has no arrays.
        steps: Where on the path gradients are taken by default.
    """

    path: Literal["embeddings", "masks"] = "embeddings"
    factor: Literal["move", "rate"] = "move"
    rules: Intervention = Identity()
    steps: tuple[float, ...] = CLEAN

    __repr__ = one_line


# Midpoints of five equal parts.
_MIDPOINTS = GradientConfig().steps
METHODS: Mapping[str, Method] = MappingProxyType({
    "ig": Method(path="masks", steps=_MIDPOINTS),
    "eap": Method(),
    "eap_ig": Method(steps=PATH),
    "relp": Method(rules=relp_rules()),
    "gim": Method(rules=gim_rules()),
    "conductance": Method(factor="rate", steps=_MIDPOINTS),
})  # fmt: skip


def read_method(method: str | Method) -> Method:
    """Read a method or its name.

    Args:
        method: A name of `METHODS`, or a method of one's own.

    Returns:
        The method.

    Raises:
        ConfigError: If there is no method of that name, or no such path or factor.
        InputError: If it is something else, or its rules hold arrays.

    Example:
        >>> read_method("conductance").factor
        'rate'
    """
    if not isinstance(method, str):
        require_is("method", method, Method)
        require_is("rules of the method", method.rules, Intervention)
        require_choice("path of the method", method.path, ("embeddings", "masks"))
        require_choice("factor of the method", method.factor, ("move", "rate"))
        if jax.tree.leaves(method.rules):
            raise InputError("rules of the method", got="an intervention with arrays",
                             expected="one that only changes gradients")  # fmt: skip
        return method
    require_choice("method", method, tuple(METHODS))
    return METHODS[method]


class How(NamedTuple):
    """The static choices of `mask_gradients`.

    Attributes:
        method: The method.
        metric: (logits (B, T, V), prompts) → (B,).
        remat: Whether blocks are recomputed in the backward pass.
        each: Whether every row has scores of its own, or all rows have their weighted sum.
    """

    method: Method
    metric: Metric
    remat: bool = False
    each: bool = False

    __repr__ = one_line


@functools.partial(jax.jit, static_argnames="how")
def mask_gradients(
    model: LanguageModel,
    dictionary: Dictionary,
    batch: Prompts,
    weight: jax.Array,
    steps: jax.Array,
    how: How,
) -> Nodes:
    """Compute the scores of every node on a batch.

    A node's score is Σ over positions of factor · ∂m/∂(its value), averaged over the steps. It is
    computed as the gradient of the node's mask μ at μ = 1, where the node's value v is replaced by
    μ · v + (1 − μ) · (v − factor). On the path of masks the value is
    μ · v + (1 − μ) · counterfactual, and the gradient is taken at μ = α.

    Args:
        model: The model, without name and tokenizer.
        dictionary: Its nodes, without a name.
        batch: B prompts with their counterfactuals, in R rows.
        weight: (B,) what each weighs.
        steps: (S,) where on the path gradients are taken.
        how: The method, and whether rows are kept apart.

    Returns:
        `Nodes` of float32: (L, H) and (L, F), or (L, R, H) and (L, R, F).
    """
    method, tokens, dictionary = how.method, batch.inputs(), dictionary.at(batch)

    def masks(at: jax.Array | float) -> Nodes:
        full = jax.tree.map(lambda x: x * at, Nodes.full(dictionary.space, 1.0))
        return jax.tree.map(lambda x: _per_row(x, len(tokens)), full) if how.each else full

    def gradient_at(at: jax.Array | float, start: Intervention, other: dict) -> Nodes:
        def value(mask: Nodes) -> jax.Array:
            both = chain(start, method.rules, dictionary.mask(mask, other))
            logits = forward(model, tokens, both, remat=how.remat).logits
            return metric_sum(how.metric, logits, batch, weight)

        return jax.grad(value)(masks(at))

    if method.path == "masks":
        trace = forward(model, batch.inputs("corrupted"), capture=dictionary.capture).trace
        other = dictionary.values(trace)
        found = path_gradient(lambda step: gradient_at(step, Identity(), other), steps)
        return _whole(found, model, how)
    ends = path_ends(model, batch, dictionary.capture)
    moved = jax.tree.map(jnp.subtract, *map(dictionary.values, ends))

    def values(step: jax.Array) -> dict[str, jax.Array]:
        trace = forward(model, tokens, ends.at(step), capture=dictionary.capture).trace
        return dictionary.values(trace)

    def gradient(step: jax.Array) -> Nodes:
        if method.factor == "rate":
            own, factor = jax.jvp(values, (step,), (jnp.ones_like(step),))
        else:
            own, factor = values(step), moved
        return gradient_at(1.0, ends.at(step), jax.tree.map(jnp.subtract, own, factor))

    return _whole(path_gradient(gradient, steps), model, how)


def _per_row(x: jax.Array, rows: int) -> jax.Array:
    """(L, N) → (L, R, N)."""
    return jnp.broadcast_to(x[:, None], (x.shape[0], rows, x.shape[1]))


def _whole(found: Nodes, model: LanguageModel, how: How) -> Nodes:
    """Sums on every device; rows stay where they are."""
    return found if how.each else replicate(found, model.mesh)
