"""Rivals: other ways to find a circuit, on the same nodes, edges and judge."""

from hagd_jax.baselines.acdc import Acdc, acdc
from hagd_jax.baselines.edge_order import EdgeOrder, edges_backwards
from hagd_jax.baselines.exhaustive import Exhaustive, exhaustive
from hagd_jax.baselines.random import random_scores

__all__ = [
    "Acdc",
    "EdgeOrder",
    "Exhaustive",
    "acdc",
    "edges_backwards",
    "exhaustive",
    "random_scores",
]
