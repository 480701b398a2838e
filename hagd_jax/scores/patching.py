"""Edge attribution patching, and with integrated gradients, for nodes and for edges.

EAP (Syed et al., 2023, arXiv:2310.10348) takes the gradient at the clean prompt; EAP-IG (Hanna et
al., 2024, arXiv:2403.17806) averages it along the straight path from the counterfactual's
embeddings to the clean ones.
"""

from __future__ import annotations

from hagd_jax.models import LanguageModel
from hagd_jax.scores.component_graph import component_graph
from hagd_jax.scores.gradient_config import GradientConfig
from hagd_jax.scores.methods import Method
from hagd_jax.scores.node_scores import mean_scores
from hagd_jax.scores.path import CLEAN, PATH, Metric
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Scores, Source


def eap_ig(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig = GradientConfig(steps=PATH),
    *,
    dictionary: Source | None = None,
    metric: Metric = logit_difference,
) -> Scores:
    """Compute EAP-IG of nodes: Σ (clean − counterfactual) · mean over the path of ∂m/∂node.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        config: Where on the path gradients are taken, and batching.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default.
        metric: (logits (B, T, V), prompts) → (B,); a module-level function (others recompile).

    Returns:
        Mean score of each node, in units of the metric, with what it has seen; positive helps the
        behaviour.

    Raises:
        InputError: If the prompts or the dictionary do not fit the model.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> hagd.search.top_nodes(eap_ig(case.model, case.prompts), 3)
        Selection(3 of 10, Seen(ablations counterfactual; 81 prompts; either#...; neurons))
    """
    return mean_scores(
        model, prompts, config, method=Method(), dictionary=dictionary, metric=metric
    )


def eap(
    model: LanguageModel,
    prompts: Prompts,
    *,
    dictionary: Source | None = None,
    batch_size: int = 8,
) -> Scores:
    """Compute EAP of nodes: `eap_ig` with the gradient at the clean prompt alone.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        dictionary: As in `eap_ig`.
        batch_size: Prompts in one call.

    Returns:
        Mean score of each node.
    """
    config = GradientConfig(steps=CLEAN, batch_size=batch_size)
    return eap_ig(model, prompts, config, dictionary=dictionary)


def eap_edges(model: LanguageModel, prompts: Prompts, *, batch_size: int = 8) -> Scores:
    """Compute EAP of the edges between components.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        batch_size: Prompts in one call.

    Returns:
        Scores of `Edges`, float32; 0 where there is no edge.
    """
    return component_graph(model, prompts, GradientConfig(CLEAN, batch_size)).scores


def eap_ig_edges(model: LanguageModel, prompts: Prompts, *, batch_size: int = 8) -> Scores:
    """Compute EAP-IG of the edges between components.

    Args:
        model: The model.
        prompts: Clean prompts with their counterfactuals.
        batch_size: Prompts in one call.

    Returns:
        Scores of `Edges`, float32; 0 where there is no edge.
    """
    return component_graph(model, prompts, GradientConfig(PATH, batch_size)).scores
