"""Equal batches of prompts, on the devices: one compiled program serves them all."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import ConfigError
from hagd_jax.parallel import batch_parts, sharding
from hagd_jax.tasks.base import Prompts


def batch_rows(prompts: int, size: int, mesh: jax.sharding.Mesh | None) -> int:
    """Rows in each batch: `size`, or all prompts if fewer, rounded up to what the mesh splits."""
    parts = batch_parts(mesh)
    return -(-min(size, prompts) // parts) * parts


def count_batches(prompts: int, size: int, mesh: jax.sharding.Mesh | None = None) -> int:
    """How many batches `padded_batches` yields."""
    return -(-prompts // batch_rows(prompts, size, mesh))


def padded_batches(
    prompts: Prompts, size: int, *, mesh: jax.sharding.Mesh | None = None
) -> Iterator[tuple[Prompts, jax.Array]]:
    """Batches of exactly `size` rows; the last one is filled up with copies that weigh nothing.

    Args:
        prompts: N prompts.
        size: Rows a batch, see `batch_rows`.
        mesh: Spread the rows over it.

    Yields:
        (batch, weight): weight (size,) float32 is 1 for real rows and 0 for copies.

    Raises:
        ConfigError: If `size` is not positive.
    """
    if size < 1:
        raise ConfigError("batch_size", got=size, expected="1 or more")
    size = batch_rows(len(prompts), size, mesh)
    for start in range(0, len(prompts), size):
        rows = np.arange(start, start + size)
        weight = (rows < len(prompts)).astype(np.float32)
        batch = jax.tree.map(np.asarray, prompts)[np.minimum(rows, len(prompts) - 1)]
        yield jax.tree.map(
            lambda x: (
                jnp.asarray(x)
                if mesh is None
                else jax.device_put(x, sharding(mesh, ("batch",) + (None,) * (x.ndim - 1), x.shape))
            ),
            (batch, weight),
        )
