"""Attribution: which feature drives which, and how much each node drives a behaviour."""

from hagd_jax.attribution.attribute import attribute
from hagd_jax.attribution.config import AttributionConfig
from hagd_jax.attribution.graph import AttributionGraph, GraphInfo, NodeTable
from hagd_jax.attribution.graph_files import load_graph, save_graph
from hagd_jax.attribution.influence import Pruned, Scores, influence, prune, scores, subgraph
from hagd_jax.attribution.integrated_gradients import GradientConfig, mean_scores, node_scores
from hagd_jax.attribution.neuronpedia import neuronpedia_json, to_neuronpedia
from hagd_jax.attribution.targets import LogitTarget, logit_difference

__all__ = [
    "AttributionConfig",
    "AttributionGraph",
    "GradientConfig",
    "GraphInfo",
    "LogitTarget",
    "NodeTable",
    "Pruned",
    "Scores",
    "attribute",
    "influence",
    "load_graph",
    "logit_difference",
    "mean_scores",
    "neuronpedia_json",
    "node_scores",
    "prune",
    "save_graph",
    "scores",
    "subgraph",
    "to_neuronpedia",
]
