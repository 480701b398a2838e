"""Scores: how much every node and edge moves a behaviour, over the prompts of a task."""

from hagd_jax.scores.component_graph import ComponentGraph, component_graph
from hagd_jax.scores.integrated_gradients import GradientConfig, mean_scores, node_scores
from hagd_jax.scores.node_graph import NodeGraph, node_graph
from hagd_jax.scores.patching import eap, eap_edges, eap_ig, eap_ig_edges

__all__ = [
    "ComponentGraph",
    "GradientConfig",
    "NodeGraph",
    "component_graph",
    "eap",
    "eap_edges",
    "eap_ig",
    "eap_ig_edges",
    "mean_scores",
    "node_graph",
    "node_scores",
]
