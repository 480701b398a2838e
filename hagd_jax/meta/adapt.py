"""Adaptation to a new graph: a few nodes are ablated, and the last layer learns from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import ABLATIONS, Ablation, behaviour
from hagd_jax.errors import InputError, require_choice, require_index, require_is, require_number
from hagd_jax.meta.describe import Described
from hagd_jax.meta.learner import Learner, as_scores, padded, states
from hagd_jax.models import LanguageModel
from hagd_jax.models.arrays import read_array, read_indices
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen, look
from hagd_jax.units import Nodes, Scores, Source, as_dictionary

MAGNITUDES = 6


class Measured(NamedTuple):
    """Measurements hold the effects of nodes that were ablated one by one.

    Attributes:
        places: (K,) int32 which.
        effects: (K,) float32 from 0, nothing changed, to 1, as much as without all nodes.
        seen: The prompts and the ablation that they were measured with; None inside a program.
    """

    places: Any
    effects: Any
    seen: Seen | None = None

    __repr__ = one_line


def effects(
    model: LanguageModel,
    prompts: Prompts,
    places: np.ndarray,
    *,
    dictionary: Source | None = None,
    ablation: str = "counterfactual",
    batch_size: int = 32,
) -> Measured:
    """Measure how far the model's output moves when each of some nodes is ablated alone.

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
        What was measured, and on what.

    Raises:
        InputError: If there is no such node.
        ConfigError: If there is no such ablation.

    Example:
        >>> import numpy as np
        >>> from hagd_jax.meta import effects
        >>> from hagd_jax.testbeds import hand_built
        >>> case = hand_built()[0]
        >>> effects(case.model, case.prompts, np.array([3])).effects.shape
        (1,)
    """
    nodes = as_dictionary(model, dictionary)
    total = nodes.space.nodes
    places = np.asarray(read_indices("places", places, total, (None,)))
    require_is("prompts", prompts, Prompts)
    require_number("batch_size", batch_size, least=1, whole=True)
    require_choice("ablation", ablation, ABLATIONS)
    rows = np.ones((len(places) + 1, total), bool)
    rows[np.arange(len(places)), places] = False
    rows[-1] = False
    found = behaviour(
        model, prompts, [Nodes.from_flat(nodes.space, row) for row in rows], dictionary=nodes,
        ablation=Ablation(ablation, prompts), batch_size=batch_size, with_model=True,
    )  # fmt: skip
    whole = np.asarray(found.metric[0], np.float64)
    scale = max(abs(whole.mean()), 1e-3)
    off = (((found.metric[1:] - whole) / scale) ** 2).mean(1)
    moved = np.asarray(found.kl[1:], np.float64).mean(1) + off
    share = moved[:-1] / max(moved[-1], 1e-30)
    effect = 1 + np.log10(np.clip(share, 10.0**-MAGNITUDES, 1)) / MAGNITUDES
    seen = look(prompts, ablation=ablation, model=model, dictionary=nodes)
    return Measured(places.astype(np.int32), effect.astype(np.float32), seen)


def most_telling(logits: np.ndarray | Scores, count: int, *, seed: int = 0) -> np.ndarray:
    """Choose nodes to ablate: half those likeliest in the circuit, half at random.

    Args:
        logits: (N,) scores of a learner that has not adapted.
        count: Number of nodes to ablate.
        seed: Seed of the random ones.

    Returns:
        (K,) places, N at most.

    Raises:
        ConfigError: If the count is not positive.
        InputError: If the scores are no row of numbers, or the seed is no whole number.

    Example:
        >>> import numpy as np
        >>> from hagd_jax.meta import most_telling
        >>> most_telling(np.array([0.1, 0.9, 0.5]), 1).tolist()
        [1]
    """
    require_number("count", count, least=1, whole=True)
    seed = require_index("seed", seed)
    row = logits.flat() if isinstance(logits, Scores) else np.asarray(read_array("logits", logits))
    if row.ndim != 1:
        raise InputError("logits", got=f"shape {row.shape}", expected="(N,) numbers")
    order = np.argsort(-row, kind="stable")
    sure = order[: (count + 1) // 2]
    rest = order[len(sure) :]
    chosen = np.random.default_rng(seed).permutation(rest)[: count - len(sure)]
    return np.sort(np.concatenate([sure, chosen]))


def adapted(learner: Learner, states: jax.Array, measured: Measured) -> jax.Array:
    """Compute membership logits after an inner loop of gradient descent on the last layer.

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
        >>> import jax.numpy as jnp
        >>> from hagd_jax.meta import Measured, adapted, load
        >>> states = jnp.eye(4, load().config.width)
        >>> adapted(load(), states, Measured(jnp.array([0, 1]), jnp.array([1.0, 0.0]))).shape
        (4,)
    """
    return _adapted(learner, states, jnp.asarray(measured.places), jnp.asarray(measured.effects))


@jax.jit
def _adapted(learner: Learner, states: jax.Array, places: jax.Array, own: jax.Array) -> jax.Array:
    p, here = learner.params, states[places]
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


def adapt(learner: Learner, described: Described, measured: Measured) -> Scores:
    """Score the nodes of one graph by a learner that adapts to ablated nodes, see `adapted`.

    Args:
        learner: The learner.
        described: From `describe`.
        measured: Nodes that were ablated, from `effects`.

    Returns:
        Membership scores, higher is likelier. They have seen what the graph has seen, and the
        prompts and the ablation of the measurements.

    Raises:
        InputError: If a node does not exist, or it is a description without its space.

    Example:
        >>> from hagd_jax.meta import adapt, describe, effects, load, most_telling, score
        >>> from hagd_jax.scores import node_graph
        >>> from hagd_jax.testbeds import hand_built
        >>> case = hand_built()[0]
        >>> graph = describe(node_graph(case.model, case.prompts))
        >>> measured = effects(case.model, case.prompts, most_telling(score(load(), graph), 4))
        >>> "counterfactual" in adapt(load(), graph, measured).seen.ablations
        True
    """
    for what, value, kind in (
        ("learner", learner, Learner), ("described", described, Described),
        ("measured", measured, Measured),
    ):  # fmt: skip
        require_is(what, value, kind)
    places = read_indices("places", measured.places, int(described.graph.n_node[0]), (None,))
    arrays = Measured(jnp.asarray(places), jnp.asarray(read_array("effects", measured.effects)))
    values = adapted(learner, states(learner, padded(described.graph)), arrays)
    return as_scores(described, values).after(measured.seen or Seen.unknown())
