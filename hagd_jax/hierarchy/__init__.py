"""Graphs at many resolutions: nodes gathered into supernodes, level by level."""

from hagd_jax.hierarchy.coarsen import Hierarchy, HierarchyConfig, Level, coarsen
from hagd_jax.hierarchy.graphs import Levels, as_weights, clusters_of, history, with_rest
from hagd_jax.hierarchy.kmeans import kmeans
from hagd_jax.hierarchy.spectral import embed
from hagd_jax.hierarchy.supernodes import Names, supernodes
from hagd_jax.hierarchy.weights import Weights, weights

__all__ = [
    "Hierarchy",
    "HierarchyConfig",
    "Level",
    "Levels",
    "Names",
    "Weights",
    "as_weights",
    "clusters_of",
    "coarsen",
    "embed",
    "history",
    "kmeans",
    "supernodes",
    "weights",
    "with_rest",
]
