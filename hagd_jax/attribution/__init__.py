"""Attribution: which feature drives which, and how much each node drives a behaviour."""

from hagd_jax.attribution.attribute import attribute
from hagd_jax.attribution.component_graph import ComponentGraph, component_graph
from hagd_jax.attribution.config import AttributionConfig
from hagd_jax.attribution.graph import AttributionGraph, GraphInfo, LogitTarget, NodeTable
from hagd_jax.attribution.graph_files import load_graph, save_graph
from hagd_jax.attribution.heads import edge_heads
from hagd_jax.attribution.influence import Pruned, Scores, influence, prune, scores, subgraph
from hagd_jax.attribution.integrated_gradients import GradientConfig, mean_scores, node_scores
from hagd_jax.attribution.neuronpedia import neuronpedia_json, to_neuronpedia
from hagd_jax.attribution.node_graph import NodeGraph, node_graph
from hagd_jax.attribution.query_key import QueryKey, query_key
from hagd_jax.attribution.targets import logit_difference
from hagd_jax.attribution.task_graph import TaskGraph, task_graph

__all__ = [
    "AttributionConfig",
    "AttributionGraph",
    "ComponentGraph",
    "GradientConfig",
    "GraphInfo",
    "LogitTarget",
    "NodeGraph",
    "NodeTable",
    "Pruned",
    "QueryKey",
    "Scores",
    "TaskGraph",
    "attribute",
    "component_graph",
    "edge_heads",
    "influence",
    "load_graph",
    "logit_difference",
    "mean_scores",
    "neuronpedia_json",
    "node_graph",
    "node_scores",
    "prune",
    "query_key",
    "save_graph",
    "scores",
    "subgraph",
    "task_graph",
    "to_neuronpedia",
]
