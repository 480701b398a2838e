"""Rivals: other ways to find a circuit, on the same nodes, edges and judge."""

from hagd_jax.baselines.acdc import Acdc, acdc
from hagd_jax.baselines.edge_order import EdgeOrder, edges_backwards
from hagd_jax.baselines.edge_pruning import EdgePruningConfig, Pruned, edge_pruning
from hagd_jax.baselines.exhaustive import Exhaustive, exhaustive
from hagd_jax.baselines.node_masks import node_masks
from hagd_jax.baselines.random import random_scores
from hagd_jax.baselines.rivals import EDGE_RIVALS, NODE_RIVALS, Rival, RivalsConfig, rivals

__all__ = [
    "EDGE_RIVALS",
    "NODE_RIVALS",
    "Acdc",
    "EdgeOrder",
    "EdgePruningConfig",
    "Exhaustive",
    "Pruned",
    "Rival",
    "RivalsConfig",
    "acdc",
    "edge_pruning",
    "edges_backwards",
    "exhaustive",
    "node_masks",
    "random_scores",
    "rivals",
]
