"""Attribution graphs: which feature drives which on a prompt, and over the prompts of a task."""

from hagd_jax.graphs.attribute import attribute
from hagd_jax.graphs.config import AttributionConfig
from hagd_jax.graphs.graph import AttributionGraph, GraphInfo, LogitTarget, NodeTable
from hagd_jax.graphs.graph_files import load_graph, save_graph
from hagd_jax.graphs.heads import edge_heads
from hagd_jax.graphs.influence import GraphScores, Pruned, graph_scores, influence, prune, subgraph
from hagd_jax.graphs.neuronpedia import neuronpedia_json, to_neuronpedia
from hagd_jax.graphs.query_key import QueryKey, query_key
from hagd_jax.graphs.targets import difference_target
from hagd_jax.graphs.task_graph import TaskGraph, task_graph

__all__ = [
    "AttributionConfig",
    "AttributionGraph",
    "GraphInfo",
    "GraphScores",
    "LogitTarget",
    "NodeTable",
    "Pruned",
    "QueryKey",
    "TaskGraph",
    "attribute",
    "difference_target",
    "edge_heads",
    "graph_scores",
    "influence",
    "load_graph",
    "neuronpedia_json",
    "prune",
    "query_key",
    "save_graph",
    "subgraph",
    "task_graph",
    "to_neuronpedia",
]
