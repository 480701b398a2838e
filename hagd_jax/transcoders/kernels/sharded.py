"""Work that each device does on its own tokens and its own features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from hagd_jax.parallel.rules import RULES

# The axes of `parallel.RULES` that tokens and features are split over.
BATCH, MODEL = "batch", "features"


def shards(mesh: Mesh | None) -> int:
    """Return the number of parts into which a mesh splits the features."""
    return 1 if mesh is None else mesh.shape.get("model", 1)


def mapped(local: Callable, mesh: Mesh | None, inputs: tuple, outputs: tuple) -> Callable:
    """Run a function on every device's part of its arguments.

    Args:
        local: Of the parts; it says itself what to sum over devices, see `total`.
        mesh: Devices; without a mesh the function runs as it is.
        inputs: Axes of each argument, by their names in `parallel.RULES`.
        outputs: Axes of the result, or of each of several.

    Returns:
        The function of whole arrays.
    """
    if mesh is None:
        return local

    def spec(axes: tuple) -> PartitionSpec:
        parts = [() if axis is None else RULES[axis].mesh_axes for axis in axes]
        return PartitionSpec(*(tuple(a for a in part if a in mesh.shape) or None for part in parts))

    many = isinstance(outputs[0], tuple)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=tuple(map(spec, inputs)),
        out_specs=tuple(map(spec, outputs)) if many else spec(outputs),
        check_vma=False,
    )


def total(x: jax.Array, mesh: Mesh | None, axes: Sequence[str]) -> jax.Array:
    """Sum over the given mesh axes that exist, within `mapped`."""
    over = tuple(axis for axis in axes if mesh is not None and axis in mesh.shape)
    return jax.lax.psum(x, over) if over else x


def last_kept(
    values: jax.Array, indices: jax.Array, k: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """Find the k-th largest value of all devices, within `mapped`.

    Args:
        values: (N, K) the largest of this device, K ≥ min(k, width).
        indices: (N, K) their places among its own.
        k: How many are kept, over all devices.
        width: Features of a device.

    Returns:
        (N, 1) the value, and (N, 1) its place among the features of all devices. Equal values:
        the lower place comes first.
    """
    indices = indices + jax.lax.axis_index("model") * width
    everyones: Any = (
        jax.lax.all_gather(part, "model", axis=1, tiled=True) for part in (-values, indices)
    )
    # Sorted by value, then by place.
    ranked, places = jax.lax.sort(tuple(everyones), dimension=1, num_keys=2)
    return -ranked[:, k - 1 : k], places[:, k - 1 : k]
