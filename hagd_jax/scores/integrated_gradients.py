"""How much each node moves a behaviour: integrated gradients from counterfactual to clean."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax.errors import InputError, require, require_flag, require_is, require_number
from hagd_jax.models import LanguageModel, forward
from hagd_jax.parallel import replicate
from hagd_jax.scores.path import Metric, metric_sum, path_gradient
from hagd_jax.tasks.batching import batch_rows, padded_batches
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import look
from hagd_jax.units import Dictionary, Nodes, Scores, Source, as_dictionary


@dataclasses.dataclass(frozen=True)
class GradientConfig:
    """Configure how gradients along a path are computed.

    Attributes:
        steps: Where on the path the gradient is taken: 0 is the counterfactual, 1 the clean
            prompt. The mean over the steps stands for the integral.
        batch_size: Prompts in one call.
        remat: Recompute blocks in the backward pass; needed for large models only.
    """

    steps: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    batch_size: int = 8
    remat: bool = False

    def __post_init__(self):
        steps = self.steps
        whole = isinstance(steps, tuple) and len(steps) > 0
        require(whole, "steps", got=repr(steps), expected="a tuple of one number or more")
        for step in steps:
            require_number("steps", step, least=0, most=1)
        require_number("batch_size", self.batch_size, least=1, whole=True)
        require_flag("remat", self.remat)


def check_scored(model: Any, prompts: Any, config: Any) -> None:
    """Refuse models, prompts and configurations that cannot be scored.

    Args:
        model: A `LanguageModel`.
        prompts: One prompt or more.
        config: A `GradientConfig`.

    Raises:
        InputError: If one of them is something else, or there are no prompts.
    """
    require_is("model", model, LanguageModel)
    require_is("prompts", prompts, Prompts, mend="A split of a task has some.")
    require_is("config", config, GradientConfig)
    if not len(prompts):
        raise InputError("prompts", got="none", expected="one or more")


def node_scores(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig = GradientConfig(),
    *,
    dictionary: Source | None = None,
    metric: Metric = logit_difference,
    start: tuple[int, Nodes] | None = None,
) -> Iterator[tuple[int, Nodes]]:
    """Yield integrated gradients of a metric for every node's mask, batch by batch.

    score_i = mean over prompts of ∫₀¹ ∂m/∂μ_i dα at masks μ = α, where node i's activation is
    μ_i · own + (1 − μ_i) · counterfactual. With enough steps the scores sum to
    m(all nodes kept) − m(all nodes counterfactual). Positive: the node helps the behaviour.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        config: Steps and batching.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default.
        metric: (logits (B, T, V), prompts) → (B,); a module-level function (others recompile).
        start: (prompts done, sum so far) to continue from, as yielded before.

    Yields:
        (prompts done, running sum over prompts) after each batch; divide the last sum by the
        number of prompts, or use `mean_scores`.

    Raises:
        InputError: If the prompts or the dictionary do not fit the model.
    """
    check_scored(model, prompts, config)
    bare, nodes = model.bare(), as_dictionary(model, dictionary).bare()
    done, total = (0, Nodes.full(nodes.space, 0.0)) if start is None else start
    if done >= len(prompts):
        return
    steps = jnp.asarray(config.steps, jnp.float32)
    rows = batch_rows(len(prompts), config.batch_size, model.mesh)
    for batch, weight in padded_batches(model, prompts[done:], rows):
        part = batch_scores(bare, nodes, batch, weight, steps, metric, config.remat)
        total = jax.tree.map(jnp.add, total, part)
        done = min(done + rows, len(prompts))
        yield done, total


def mean_scores(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig = GradientConfig(),
    *,
    dictionary: Source | None = None,
    metric: Metric = logit_difference,
) -> Scores:
    """Average the integrated gradients of every node over prompts.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        config: Steps and batching.
        dictionary: As in `node_scores`.
        metric: As in `node_scores`.

    Returns:
        Mean score of each node, in units of the metric, with what it has seen.

    Raises:
        InputError: If there are no prompts, or they or the dictionary do not fit the model.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> mean_scores(case.model, case.prompts)
        Scores(10 values, Seen(ablations counterfactual; 81 prompts; either#...; neurons))
    """
    check_scored(model, prompts, config)
    nodes = as_dictionary(model, dictionary)
    *_, (_, total) = node_scores(model, prompts, config, dictionary=nodes, metric=metric)
    seen = look(prompts, ablation="counterfactual", model=model, dictionary=nodes)
    return Scores(jax.tree.map(lambda x: x / len(prompts), total), seen)


@functools.partial(jax.jit, static_argnames=("metric", "remat"))
def batch_scores(
    model: LanguageModel,
    dictionary: Dictionary,
    batch: Prompts,
    weight: jax.Array,
    steps: jax.Array,
    metric: Metric,
    remat: bool,
) -> Nodes:
    """Sum the integrated gradients of every node over a batch.

    Args:
        model: The model, without name and tokenizer.
        dictionary: Its nodes, without a name.
        batch: B prompts with their counterfactuals.
        weight: (B,) what each weighs.
        steps: (S,) where on the path gradients are taken.
        metric: (logits (B, T, V), prompts) → (B,).
        remat: Whether blocks are recomputed in the backward pass.

    Returns:
        `Nodes` of float32.
    """
    trace = forward(model, batch.inputs("corrupted"), capture=dictionary.capture).trace
    other, dictionary = dictionary.values(trace), dictionary.at(batch)

    def value(mask: Nodes) -> jax.Array:
        out = forward(model, batch.inputs(), dictionary.mask(mask, other), remat=remat)
        return metric_sum(metric, out.logits, batch, weight)

    def gradient(step: jax.Array) -> Nodes:
        return jax.grad(value)(jax.tree.map(lambda x: x * step, Nodes.full(dictionary.space, 1.0)))

    return replicate(path_gradient(gradient, steps), model.mesh)
