"""Levels of ever coarser graphs: supernodes that hold what belongs together."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index, require_is, require_number
from hagd_jax.hierarchy.kmeans import kmeans
from hagd_jax.hierarchy.spectral import embed
from hagd_jax.hierarchy.weights import Weights
from hagd_jax.models.arrays import read_array


@dataclasses.dataclass(frozen=True)
class HierarchyConfig:
    """Configure how coarse each level is.

    Attributes:
        ratio: Supernodes of a level for each node of the one below.
        least: The coarsest level has no fewer.
        band: A supernode of the first level spans so many layers at most, one of the next level
            twice as many, and so on; 0 for no such bound.
        vectors: Largest number of eigenvectors that nodes are told apart by.
        krylov: Dimension of the Krylov space in which those of more than 512 nodes are looked for
            before each restart.
        iterations: Of k-means.
        regularise: How much all nodes are tied to each other, as a share of the mean degree.
    """

    ratio: float = 0.25
    least: int = 8
    band: int = 0
    vectors: int = 16
    krylov: int = 128
    iterations: int = 25
    regularise: float = 0.05

    def __post_init__(self):
        require_number("ratio", self.ratio, above=0, below=1)
        for field in ("least", "vectors", "krylov", "iterations"):
            require_number(field, getattr(self, field), least=1, whole=True)
        require_number("band", self.band, least=0, whole=True)
        require_number("regularise", self.regularise, above=0)


@struct.dataclass
class Level:
    """A level assigns every node to a supernode.

    Attributes:
        cluster: (n,) int32 supernode of every node of the level below.
        weights: Between supernodes; on the diagonal what lies within each.
    """

    cluster: Any
    weights: Weights

    __repr__ = one_line

    @property
    def count(self) -> int:
        """Return the number of supernodes."""
        return self.weights.count


@struct.dataclass
class Hierarchy:
    """A hierarchy lists levels from fine to coarse.

    Attributes:
        levels: The first is made of nodes, each other of the one before.
        count: How many nodes there are.
    """

    levels: tuple[Level, ...]
    count: int = struct.field(pytree_node=False, default=0)

    __repr__ = one_line

    def clusters(self) -> list[np.ndarray]:
        """Return the (N,) int32 supernode of every node, one array per level, coarsest first.

        What `search.Tree.of` takes.
        """
        place, found = np.arange(self.count), []
        for level in self.levels:
            place = np.asarray(level.cluster)[place]
            found.append(place.astype(np.int32))
        return found[::-1]

    def members(self, level: int, supernode: int) -> np.ndarray:
        """List the nodes within a supernode.

        Args:
            level: Number of the level, counted from the finest, 0.
            supernode: Number of the supernode.

        Returns:
            Numbers of its nodes, ascending.

        Raises:
            InputError: If there is no such level or supernode.
        """
        level = require_index("level", level, len(self.levels))
        supernode = require_index("supernode", supernode, self.levels[level].count)
        return np.flatnonzero(self.clusters()[::-1][level] == supernode)


def coarsen(
    weights: Weights,
    config: HierarchyConfig = HierarchyConfig(),
    *,
    layer: np.ndarray | None = None,
    seed: int = 0,
) -> Hierarchy:
    """Coarsen a graph by leading eigenvectors of the normalised Laplacian and k-means.

    Levels shrink by a constant ratio, so there are O(log N) of them. A level of more than 512 nodes
    costs a bounded number of products with its weights, of at most N² operations a vector.

    Args:
        weights: Of the graph.
        config: How coarse each level is.
        layer: (N,) layer of every node, where supernodes are bound to bands of layers.
        seed: Seed of the embedding's random vectors and of k-means.

    Returns:
        The levels; none if the graph is no larger than the least level.

    Raises:
        InputError: If bands are asked for without layers, or there are not as many as nodes.

    Example:
        >>> from hagd_jax.hierarchy import HierarchyConfig, coarsen, weights
        >>> graph = weights([0, 1, 2, 3], [1, 0, 3, 2], [1.0] * 4, 4)
        >>> coarsen(graph, HierarchyConfig(ratio=0.5, least=2)).clusters()[0].tolist()
        [0, 0, 1, 1]
    """
    require_is("weights", weights, Weights)
    require_is("config", config, HierarchyConfig)
    seed = require_index("seed", seed)
    if config.band and layer is None:
        expected = f"one of each of {weights.count} nodes, to bound supernodes by bands"
        raise InputError("layer", got="none", expected=expected)
    if layer is not None:
        own = read_array("layer", layer, "(N,) layers")
        if own.shape != (weights.count,) or not np.issubdtype(own.dtype, np.integer):
            raise InputError(
                "layer", got=f"{own.dtype} of shape {own.shape}",
                expected=f"one whole number for each of {weights.count} nodes",
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
    own, numbered = np.unique(group, return_inverse=True)
    numbered = jnp.asarray(numbered, jnp.int32)
    return level_of(weights, numbered, centre_groups(numbered, len(own), count), key, config)


def level_of(
    weights: Weights,
    group: jax.Array,
    centre_group: jax.Array,
    key: jax.Array,
    config: HierarchyConfig,
) -> Level:
    """Cluster the nodes of a graph into one level, with fixed shapes, also under `jit`.

    Args:
        weights: Weights of the graph.
        group: (N,) int32 group of every node; supernodes do not mix groups.
        centre_group: (k,) int32 group of every supernode; each group has one or more, and no more
            than it has nodes.
        key: PRNG key.
        config: How coarse the level is.

    Returns:
        The level, of k supernodes in the order of their first members.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from hagd_jax.hierarchy import HierarchyConfig, weights
        >>> from hagd_jax.hierarchy.coarsen import level_of
        >>> graph = weights([0, 1, 2, 3], [3, 2, 1, 0], [1.0] * 4, 4)
        >>> alike = jnp.zeros(4, jnp.int32), jnp.zeros(2, jnp.int32)
        >>> level_of(graph, *alike, jax.random.key(0), HierarchyConfig()).cluster.tolist()
        [0, 1, 1, 0]
    """
    of_vectors, of_centres = jax.random.split(key)
    count = len(centre_group)
    krylov = min(config.krylov, weights.count)
    size = min(config.vectors, count, krylov)
    points, _ = embed(weights, of_vectors, size=size, krylov=krylov, regularise=config.regularise)
    cluster = kmeans(points, group, centre_group, of_centres, iterations=config.iterations)
    # Numbered in the order of their first members, so that numbers do not depend on chance alone.
    first = jax.ops.segment_min(jnp.arange(weights.count), cluster, count)
    named = jnp.argsort(jnp.argsort(first)).astype(jnp.int32)[cluster]
    return Level(named, weights.merged(named, count))


def centre_groups(group: jax.Array, groups: int, count: int) -> jax.Array:
    """Distribute the centres of a level over groups, in proportion to their nodes.

    Each group has one; the rest go by highest averages (Sainte-Laguë), so that no group has more
    centres than nodes.

    Args:
        group: (N,) int32 group of every node, each of 0 to `groups` - 1 at least once.
        groups: Number of groups.
        count: Number of centres, from `groups` to N.

    Returns:
        (count,) int32 group of each centre, ascending.

    Example:
        >>> import jax.numpy as jnp
        >>> from hagd_jax.hierarchy.coarsen import centre_groups
        >>> centre_groups(jnp.array([0, 0, 0, 0, 1]), 2, 3).tolist()
        [0, 0, 1]
    """
    sizes = jnp.bincount(group, length=groups)

    def give(_: Any, given: jax.Array) -> jax.Array:
        share = jnp.where(given < sizes, sizes / (2 * given + 1), -1)
        return given.at[share.argmax()].add(1)

    given = jax.lax.fori_loop(0, count - groups, give, jnp.ones(groups, jnp.int32))
    return jnp.repeat(jnp.arange(groups, dtype=jnp.int32), given, total_repeat_length=count)
