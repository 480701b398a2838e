"""Scores of nodes by relevance, by modified gradients and by conductance."""

from __future__ import annotations

from hagd_jax.models import LanguageModel
from hagd_jax.scores.gradient_config import GradientConfig
from hagd_jax.scores.methods import Method
from hagd_jax.scores.node_scores import mean_scores
from hagd_jax.scores.path import CLEAN, Metric
from hagd_jax.scores.rules import gim_rules, relp_rules
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Scores, Source


def relp(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig = GradientConfig(steps=CLEAN),
    *,
    dictionary: Source | None = None,
    metric: Metric = logit_difference,
    hold_patterns: bool = True,
) -> Scores:
    """Compute relevance patching of nodes: Σ (clean − counterfactual) · propagation coefficient.

    The coefficients are those of layer-wise relevance propagation at the clean prompt, see
    `scores.rules` (Rezaei Jafari et al., 2025, arXiv:2508.21258, where the gradient of attribution
    patching is replaced by them). In a mixture of experts the router's weights are constants.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        config: Where on the path of embeddings coefficients are taken, the clean prompt by
            default, and batching.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default. Relevance
            passes through the MLPs themselves if the dictionary keeps its error, and otherwise
            through its features, with their derivative.
        metric: (logits (B, T, V), prompts) → (B,); a module-level function (others recompile).
        hold_patterns: See `relp_rules`.

    Returns:
        Mean score of each node, in units of the metric, with what it has seen; positive helps the
        behaviour.

    Raises:
        InputError: If the prompts or the dictionary do not fit the model.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> relp(case.model, case.prompts)
        Scores(10 values, Seen(ablations counterfactual; 81 prompts; either#...; neurons))
    """
    method = Method(rules=relp_rules(hold_patterns=hold_patterns))
    return mean_scores(model, prompts, config, method=method, dictionary=dictionary, metric=metric)


def gim(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig = GradientConfig(steps=CLEAN),
    *,
    dictionary: Source | None = None,
    metric: Metric = logit_difference,
    temperature: float = 2.0,
    normalise: bool = True,
) -> Scores:
    """Compute Σ (clean − counterfactual) · gradient modified as GIM does it, of nodes.

    Norms are held, the softmax of attention is differentiated at a temperature, and factors of
    products share the gradient, see `scores.rules` (Edin et al., 2025, arXiv:2505.17630). The
    gradient is halved at every product on its way, so scores rank nodes and do not estimate their
    effects. In a mixture of experts the router's weights are constants.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        config: As in `relp`.
        dictionary: As in `relp`.
        metric: As in `relp`.
        temperature: Of the softmax in the backward pass; 1 is the derivative.
        normalise: Whether factors of products share the gradient.

    Returns:
        Mean score of each node, with what it has seen.

    Raises:
        InputError: If the prompts or the dictionary do not fit the model.
        ConfigError: If the temperature is below 1.
    """
    method = Method(rules=gim_rules(temperature, normalise=normalise))
    return mean_scores(model, prompts, config, method=method, dictionary=dictionary, metric=metric)


def conductance(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig = GradientConfig(),
    *,
    dictionary: Source | None = None,
    metric: Metric = logit_difference,
) -> Scores:
    """Compute the conductance of nodes: ∫₀¹ ∂m/∂h(x(α)) · dh(x(α))/dα dα.

    x(α) is the straight path from the counterfactual's embeddings to the clean ones, and h a node's
    value. It is the part of the embeddings' integrated gradients that flows through the node
    (Dhamdhere, Sundararajan and Yan, 2018, arXiv:1805.12233, summed over all inputs). Where nodes
    cut every path from the embeddings to the logits, such as all nodes of a layer that the residual
    stream does not bypass, their scores sum to m(clean) − m(counterfactual).

    The values' derivatives are exact, by forward-mode differentiation. In a mixture of experts the
    router's weights vary along the path, while jumps from one expert to another are left out.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        config: Steps of the integral and batching; the default is the midpoint rule of five parts.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default.
        metric: (logits (B, T, V), prompts) → (B,); a module-level function (others recompile).

    Returns:
        Mean score of each node, in units of the metric, with what it has seen.

    Raises:
        InputError: If the prompts or the dictionary do not fit the model.
    """
    return mean_scores(
        model, prompts, config, method="conductance", dictionary=dictionary, metric=metric
    )
