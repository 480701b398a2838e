"""Levels of ever coarser graphs: supernodes that hold what belongs together."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hagd_jax.brief import one_line
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.hierarchy.kmeans import kmeans
from hagd_jax.hierarchy.spectral import embed
from hagd_jax.hierarchy.weights import Weights


@dataclasses.dataclass(frozen=True)
class HierarchyConfig:
    """How coarse each level is.

    Attributes:
        ratio: Supernodes of a level for each node of the one below.
        least: The coarsest level has no fewer.
        band: A supernode of the first level spans so many layers at most, one of the next level
            twice as many, and so on; 0 for no such bound.
        vectors: Eigenvectors that nodes are told apart by, at most.
        krylov: Products with the weights that those take, at most.
        iterations: Of k-means.
        regularise: How much all nodes are tied to each other, as a share of the mean degree.
    """

    ratio: float = 0.25
    least: int = 8
    band: int = 0
    vectors: int = 16
    krylov: int = 64
    iterations: int = 25
    regularise: float = 0.05

    def __post_init__(self):
        if not 0 < self.ratio < 1:
            raise ConfigError("ratio", got=self.ratio, expected="between 0 and 1")
        for field in ("least", "vectors", "krylov", "iterations"):
            if getattr(self, field) < 1:
                raise ConfigError(field, got=getattr(self, field), expected="1 or more")
        if self.band < 0 or self.regularise <= 0:
            raise ConfigError("band and regularise", got=(self.band, self.regularise),
                              expected="0 or more, and above 0")  # fmt: skip


@struct.dataclass
class Level:
    """One level above the nodes.

    Attributes:
        cluster: (n,) int32 supernode of every node of the level below.
        weights: Between supernodes; on the diagonal what lies within each.
    """

    cluster: Any
    weights: Weights

    __repr__ = one_line

    @property
    def count(self) -> int:
        """How many supernodes."""
        return self.weights.count


@struct.dataclass
class Hierarchy:
    """Levels from fine to coarse.

    Attributes:
        levels: The first is made of nodes, each other of the one before.
        count: How many nodes there are.
    """

    levels: tuple[Level, ...]
    count: int = struct.field(pytree_node=False, default=0)

    __repr__ = one_line

    def clusters(self) -> list[np.ndarray]:
        """(N,) int32 supernode of every node, one array a level, coarsest first.

        What `search.Tree.of` takes.
        """
        place, found = np.arange(self.count), []
        for level in self.levels:
            place = np.asarray(level.cluster)[place]
            found.append(place.astype(np.int32))
        return found[::-1]

    def members(self, level: int, supernode: int) -> np.ndarray:
        """The nodes within a supernode; levels count from the finest, 0."""
        return np.flatnonzero(self.clusters()[::-1][level] == supernode)


def coarsen(
    weights: Weights,
    config: HierarchyConfig = HierarchyConfig(),
    *,
    layer: np.ndarray | None = None,
    seed: int = 0,
) -> Hierarchy:
    """Spectral coarsening: leading eigenvectors of the normalised Laplacian, then k-means.

    Levels shrink by a constant ratio, so there are O(log N) of them; each costs as many products
    with its weights as `krylov` says, N² at most.

    Args:
        weights: Of the graph.
        config: How coarse.
        layer: (N,) of every node, where supernodes are bound to bands of layers.
        seed: Of Lanczos's first vectors and of k-means.

    Returns:
        The levels; none if the graph is no larger than the least level.

    Raises:
        InputError: If bands are asked for without layers, or there are not as many as nodes.

    Example:
        >>> graph = weights([0, 1, 2, 3], [1, 0, 3, 2], [1.0] * 4, 4)
        >>> coarsen(graph, HierarchyConfig(ratio=0.5, least=2)).clusters()[0].tolist()
        [0, 0, 1, 1]
    """
    if config.band and (layer is None or len(layer) != weights.count):
        raise InputError(
            "layer", got=None if layer is None else f"{len(layer)} of them",
            expected=f"one of each of {weights.count} nodes, to bound supernodes by bands",
        )  # fmt: skip
    depth = np.zeros(weights.count, int) if layer is None else np.asarray(layer, int)
    levels: list[Level] = []
    now, band, key = weights, config.band, jax.random.key(seed)
    while True:
        group = depth // band if band else np.zeros_like(depth)
        count = _size(now.count, len(np.unique(group)), config)
        if count >= now.count:
            break
        key, own = jax.random.split(key)
        level = _level(now, group, count, own, config)
        # A supernode is as deep as its first member.
        first = np.full(level.count, np.iinfo(int).max)
        np.minimum.at(first, np.asarray(level.cluster), depth)
        levels.append(level)
        now, depth, band = level.weights, first, 2 * band
    return Hierarchy(tuple(levels), weights.count)


def _size(count: int, groups: int, config: HierarchyConfig) -> int:
    """Supernodes of the next level."""
    return max(int(np.ceil(config.ratio * count)), min(config.least, count), groups)


def _level(
    weights: Weights, group: np.ndarray, count: int, key: jax.Array, config: HierarchyConfig
) -> Level:
    of_vectors, of_centres = jax.random.split(key)
    krylov = min(config.krylov, weights.count)
    size = min(config.vectors, count, krylov)
    points, _ = embed(weights, of_vectors, size=size, krylov=krylov, regularise=config.regularise)
    numbered = np.unique(group, return_inverse=True)[1]
    centres = _centres(numbered, count)
    cluster = kmeans(
        points, jnp.asarray(numbered, jnp.int32), jnp.asarray(centres, jnp.int32), of_centres,
        iterations=config.iterations,
    )  # fmt: skip
    # Numbered in the order of their first members, so that numbers do not depend on chance alone.
    order = np.unique(np.asarray(cluster), return_index=True)
    rank = np.empty(count, np.int64)
    rank[order[0][np.argsort(order[1])]] = np.arange(len(order[0]))
    named = jnp.asarray(rank[np.asarray(cluster)], jnp.int32)
    return Level(named, weights.merged(named, len(order[0])))


def _centres(group: np.ndarray, count: int) -> np.ndarray:
    """(count,) which group each centre is of: one each, the rest by how many nodes groups have."""
    sizes = np.bincount(group)
    given = np.ones(len(sizes), int)
    for _ in range(count - len(sizes)):
        # Highest averages (Sainte-Laguë), so that no group gets more centres than nodes.
        share = np.where(given < sizes, sizes / (2 * given + 1), -1)
        given[share.argmax()] += 1
    return np.repeat(np.arange(len(sizes)), given)
