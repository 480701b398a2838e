"""How much each node moves a behaviour, summed over prompts batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from hagd_jax.models import LanguageModel
from hagd_jax.scores.gradient_config import GradientConfig, check_scored
from hagd_jax.scores.methods import How, Method, mask_gradients, read_method
from hagd_jax.scores.path import Metric
from hagd_jax.tasks.batching import batch_rows, padded_batches
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import look
from hagd_jax.units import Nodes, Scores, Source, as_dictionary


def node_scores(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig | None = None,
    *,
    method: str | Method = "ig",
    dictionary: Source | None = None,
    metric: Metric = logit_difference,
    start: tuple[int, Nodes] | None = None,
) -> Iterator[tuple[int, Nodes]]:
    """Yield the scores of every node, summed over prompts, batch by batch.

    By default they are integrated gradients of a metric for every node's mask:
    score_i = mean over prompts of ∫₀¹ ∂m/∂μ_i dα at masks μ = α, where node i's activation is
    μ_i · own + (1 − μ_i) · counterfactual. With enough steps these sum to
    m(all nodes kept) − m(all nodes counterfactual). Positive: the node helps the behaviour.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        config: Steps and batching; by default the method's own steps, in batches of 8.
        method: `ig`, `eap`, `eap_ig`, `relp`, `gim` or `conductance`, see `METHODS`; or a `Method`.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default.
        metric: (logits (B, T, V), prompts) → (B,); a module-level function (others recompile).
        start: (prompts done, sum so far) to continue from, as yielded before.

    Yields:
        (prompts done, running sum over prompts) after each batch; divide the last sum by the
        number of prompts, or use `mean_scores`.

    Raises:
        ConfigError: If there is no such method.
        InputError: If the prompts or the dictionary do not fit the model.
    """
    own = read_method(method)
    config = GradientConfig(steps=own.steps) if config is None else config
    check_scored(model, prompts, config)
    bare, nodes = model.bare(), as_dictionary(model, dictionary).bare()
    done, total = (0, Nodes.full(nodes.space, 0.0)) if start is None else start
    if done >= len(prompts):
        return
    steps, how = jnp.asarray(config.steps, jnp.float32), How(own, metric, config.remat)
    rows = batch_rows(len(prompts), config.batch_size, model.mesh)
    for batch, weight in padded_batches(model, prompts[done:], rows):
        part = mask_gradients(bare, nodes, batch, weight, steps, how)
        total = jax.tree.map(jnp.add, total, part)
        done = min(done + rows, len(prompts))
        yield done, total


def mean_scores(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig | None = None,
    *,
    method: str | Method = "ig",
    dictionary: Source | None = None,
    metric: Metric = logit_difference,
) -> Scores:
    """Average the scores of every node over prompts, by default integrated gradients.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        config: As in `node_scores`.
        method: As in `node_scores`.
        dictionary: As in `node_scores`.
        metric: As in `node_scores`.

    Returns:
        Mean score of each node, in units of the metric, with what it has seen.

    Raises:
        ConfigError: If there is no such method.
        InputError: If there are no prompts, or they or the dictionary do not fit the model.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> mean_scores(case.model, case.prompts)
        Scores(10 values, Seen(ablations counterfactual; 81 prompts; either#...; neurons))
    """
    nodes = as_dictionary(model, dictionary)
    found = node_scores(model, prompts, config, method=method, dictionary=nodes, metric=metric)
    *_, (_, total) = found
    seen = look(prompts, ablation="counterfactual", model=model, dictionary=nodes)
    return Scores(jax.tree.map(lambda x: x / len(prompts), total), seen)
