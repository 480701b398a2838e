"""Rivals: other ways to find a circuit, on the same nodes, edges and judge."""

from hagd_jax.baselines.exhaustive import Exhaustive, exhaustive
from hagd_jax.baselines.random import random_scores

__all__ = [
    "Exhaustive",
    "exhaustive",
    "random_scores",
]
