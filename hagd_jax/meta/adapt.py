"""Adaptation to a new graph: a few nodes are ablated, and the last layer learns from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import behaviour
from hagd_jax.errors import InputError
from hagd_jax.meta.learner import Learner
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.transcoders import Transcoder
from hagd_jax.units import Dictionary, Nodes, as_dictionary

MAGNITUDES = 6


class Measured(NamedTuple):
    """Nodes that were ablated one by one.

    Attributes:
        places: (K,) int32 which.
        effects: (K,) float32 from 0, nothing changed, to 1, as much as without all nodes.
    """

    places: Any
    effects: Any

    __repr__ = one_line


def effects(
    model: LanguageModel,
    prompts: Prompts,
    places: np.ndarray,
    *,
    dictionary: Dictionary | Transcoder | None = None,
    ablation: str = "counterfactual",
    batch_size: int = 32,
) -> Measured:
    """Ablate nodes, each alone, and see how far the model moves.

    e = 1 + log₁₀(d / D) / 6, cut off at 0 and 1: d is KL plus the squared relative error of the
    metric, and D what ablating everything does. On a scale of magnitudes, because members of a
    redundant circuit do a thousandth each of what they do together.

    Args:
        model: The model.
        prompts: Where to measure.
        places: (K,) nodes, in the order of `Nodes.flat`.
        dictionary: Whose nodes.
        ablation: What they are set to.
        batch_size: Prompts in one call.

    Returns:
        What was measured.

    Raises:
        InputError: If there is no such node.
    """
    nodes = as_dictionary(model, dictionary)
    total, places = nodes.space.nodes, np.asarray(places, np.int64)
    if not len(places) or places.min() < 0 or places.max() >= total:
        raise InputError("places", got=places.tolist(), expected=f"one or more, 0 to {total - 1}")
    rows = np.ones((len(places) + 1, total), bool)
    rows[np.arange(len(places)), places] = False
    rows[-1] = False
    found = behaviour(
        model, prompts, [Nodes.from_flat(nodes.space, row) for row in rows], dictionary=nodes,
        ablation=ablation, reference=prompts, batch_size=batch_size, with_model=True,
    )  # fmt: skip
    whole = np.asarray(found.metric[0], np.float64)
    scale = max(abs(whole.mean()), 1e-3)
    off = (((found.metric[1:] - whole) / scale) ** 2).mean(1)
    moved = np.asarray(found.kl[1:], np.float64).mean(1) + off
    share = moved[:-1] / max(moved[-1], 1e-30)
    effect = 1 + np.log10(np.clip(share, 10.0**-MAGNITUDES, 1)) / MAGNITUDES
    return Measured(places.astype(np.int32), effect.astype(np.float32))


def most_telling(logits: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Which nodes to ablate: half those likeliest in the circuit, half at random.

    Args:
        logits: (N,) of a learner that has not adapted.
        count: K.
        seed: Of the random ones.

    Returns:
        (K,) places, N at most.
    """
    order = np.argsort(-np.asarray(logits), kind="stable")
    sure = order[: (count + 1) // 2]
    rest = order[len(sure) :]
    chosen = np.random.default_rng(seed).permutation(rest)[: count - len(sure)]
    return np.sort(np.concatenate([sure, chosen]))


def adapted(learner: Learner, states: jax.Array, measured: Measured) -> jax.Array:
    """Membership logits after an inner loop of gradient descent on the last layer.

    Only the readout moves (Raghu et al., 2020, arXiv:1909.09157); how fast is learnt, with where
    it starts. The loss is of order alone: Σ (eᵢ − eⱼ)₊ log(1 + exp(zⱼ − zᵢ)) / Σ (eᵢ − eⱼ)₊, as
    how large members' effects are differs from graph to graph.

    Args:
        learner: The learner.
        states: (N, width) of the graph's nodes, from `learner.states`.
        measured: Nodes that were ablated.

    Returns:
        (N,) float32.

    Example:
        >>> seen = states(learner, graph)
        >>> adapted(learner, seen, effects(model, prompts, most_telling(prior, 16)))
    """
    p = learner.params
    here, own = states[measured.places], jnp.asarray(measured.effects)
    ahead = jnp.maximum(own[:, None] - own, 0)
    ahead = ahead / jnp.maximum(ahead.sum(), 1e-6)

    def loss(readout: tuple[jax.Array, jax.Array]) -> jax.Array:
        weight, bias = readout
        z = here @ weight + bias
        return jnp.sum(ahead * jax.nn.softplus(z - z[:, None]))

    def descend(readout: Any, _: None) -> tuple[Any, None]:
        slope = jax.grad(loss)(readout)
        rate = jax.nn.softplus(p["rate"])
        return jax.tree.map(lambda x, g: x - rate * g, readout, slope), None

    start = (p["weight"], p["bias"])
    (weight, bias), _ = jax.lax.scan(descend, start, None, learner.config.inner_steps)
    return states @ weight + bias
