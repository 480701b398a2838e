"""K-means++ of fixed shapes and iterations, inside groups that must not mix."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames="iterations")
def kmeans(
    points: jax.Array,
    group: jax.Array,
    centre_group: jax.Array,
    key: jax.Array,
    *,
    iterations: int = 25,
) -> jax.Array:
    """Cluster points within their groups by k-means++ (Arthur & Vassilvitskii, 2007; Lloyd).

    Args:
        points: (N, d).
        group: (N,) int32 group of every point.
        centre_group: (k,) int32 group of every centre; every group has one or more, and no more
            than it has points.
        key: Of the first centres.
        iterations: Of Lloyd's algorithm.

    Returns:
        (N,) int32 the nearest centre of the own group. A centre that lost all its points takes
        the point that is farthest from its own, so no cluster is empty.
    """
    centres = _spread(points, group, centre_group, key)

    def move(_: Any, centres: jax.Array) -> jax.Array:
        nearest, _ = _assign(points, group, centres, centre_group)
        total = jax.ops.segment_sum(points, nearest, len(centres))
        size = jax.ops.segment_sum(jnp.ones(len(points)), nearest, len(centres))
        mean = total / jnp.maximum(size, 1)[:, None]
        return jnp.where(size[:, None] > 0, mean, centres)

    centres = jax.lax.fori_loop(0, iterations, move, centres)
    nearest, distance = _assign(points, group, centres, centre_group)
    return _filled(nearest, distance, group, centre_group)


def _assign(
    points: jax.Array, group: jax.Array, centres: jax.Array, centre_group: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The nearest centre of the own group, and the squared distance to it."""
    square = (points**2).sum(1)[:, None] - 2 * points @ centres.T + (centres**2).sum(1)
    square = jnp.where(group[:, None] == centre_group, jnp.maximum(square, 0), jnp.inf)
    nearest = square.argmin(1).astype(jnp.int32)
    return nearest, jnp.take_along_axis(square, nearest[:, None], 1)[:, 0]


def _spread(
    points: jax.Array, group: jax.Array, centre_group: jax.Array, key: jax.Array
) -> jax.Array:
    """First centres: each a point, the likelier the farther from those of its group so far."""
    far = 1e6
    keys = jax.random.split(key, len(centre_group))

    def choose(i: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        centres, distance = carry
        mine = group == centre_group[i]
        # All points of a group in one place: any of them that is no centre yet.
        chance = jnp.where(mine, jnp.log(distance + 1e-12), -jnp.inf)
        place = jax.random.categorical(keys[i], chance)
        centre = points[place]
        nearer = jnp.minimum(distance, ((points - centre) ** 2).sum(1))
        distance = jnp.where(mine, nearer, distance).at[place].set(0)
        return centres.at[i].set(centre), distance

    nothing = jnp.zeros((len(centre_group), points.shape[1]), points.dtype)
    return jax.lax.fori_loop(0, len(centre_group), choose, (nothing, jnp.full(len(points), far)))[0]


def _filled(
    nearest: jax.Array, distance: jax.Array, group: jax.Array, centre_group: jax.Array
) -> jax.Array:
    """Give each empty cluster the farthest point of a cluster that has several."""
    count = len(centre_group)

    def fill(i: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        nearest, distance = carry
        size = jax.ops.segment_sum(jnp.ones(len(nearest)), nearest, count)
        free = (group == centre_group[i]) & (size[nearest] > 1)
        place = jnp.where(free, distance, -1).argmax()
        empty = (size[i] == 0) & free.any()
        nearest = jnp.where(empty, nearest.at[place].set(i), nearest)
        return nearest, jnp.where(empty, distance.at[place].set(0), distance)

    return jax.lax.fori_loop(0, count, fill, (nearest, distance))[0]
