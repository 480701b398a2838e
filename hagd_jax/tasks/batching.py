"""Equal batches of prompts, on the devices: one compiled program serves them all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import InputError, require_number
from hagd_jax.models import LanguageModel
from hagd_jax.parallel import batch_parts, sharding
from hagd_jax.tasks.prompts import Prompts


def batch_rows(prompts: int, size: int, mesh: jax.sharding.Mesh | None) -> int:
    """Compute the rows of a batch: `size` or all prompts, rounded up to what the mesh splits."""
    parts = batch_parts(mesh)
    return -(-min(size, prompts) // parts) * parts


def padded_batches(
    model: LanguageModel, prompts: Prompts, size: int
) -> Iterator[tuple[Prompts, jax.Array]]:
    """Yield batches of exactly `size` rows; copies of weight zero fill up the last one.

    Args:
        model: Who will read them, on its mesh.
        prompts: N prompts.
        size: Rows a batch, see `batch_rows`.

    Returns:
        An iterator of (batch, weight): weight (size,) float32 is 1 for real rows, 0 for copies.

    Raises:
        ConfigError: If `size` is no positive integer.
        InputError: If the prompts do not fit the model: a token outside its vocabulary, or
            padding that a model reading both ways would see.
    """
    require_number("batch_size", size, least=1, whole=True)
    prompts.check(model.config.vocab_size)
    host = jax.tree.map(np.asarray, prompts)
    if not model.config.causal and (host.length < host.clean.shape[-1]).any():
        raise InputError(
            "prompts",
            got=f"lengths from {host.length.min()} to {host.length.max()}",
            expected="one length, since this model reads both ways and would read the padding",
            mend="Make a task of prompts of one length.",
        )
    rows = _placed(host, len(host), batch_rows(len(prompts), size, model.mesh), model.mesh)
    return ((batch, weight) for batch, weight in rows)


def narrow_batches(
    model: LanguageModel,
    prompts: Prompts,
    beside: Mapping[str, np.ndarray],
    size: int,
    widths: int = 1,
) -> Iterator[tuple[np.ndarray, Prompts, dict[str, jax.Array]]]:
    """Yield equal batches of prompts of similar lengths, without the padding that none of them has.

    Args:
        model: The model that will read them, on its mesh.
        prompts: N prompts.
        beside: Name → (N, ...) arrays.
        size: Rows a batch, see `batch_rows`.
        widths: At most so many widths do batches have, each of which is compiled on its own; with
            one of them prompts stay in order and as wide as they are.

    Returns:
        An iterator of (which prompts, at most `size` of them; batch; name → (size, ...)); filling
        rows are copies of the last one.

    Raises:
        ConfigError: If `size` is no positive integer.
        InputError: If the prompts do not fit the model, see `padded_batches`.
    """
    width = prompts.clean.shape[-1]
    step = -(-width // widths)
    longest = np.asarray(prompts.length).reshape(len(prompts), -1).max(1)
    order = np.argsort(-(-longest // step), kind="stable")
    first = padded_batches(model, prompts[order], size)
    rows = batch_rows(len(prompts), size, model.mesh)
    own = _placed({k: x[order] for k, x in beside.items()}, len(prompts), rows, model.mesh)
    for start, (batch, _), (more, _) in zip(range(0, len(prompts), rows), first, own, strict=True):
        which = order[start : start + rows]
        most = min(width, step * -(-int(longest[which].max()) // step))
        yield which, batch if most == width else batch.narrowed(most), more


def _placed(
    host: Any, count: int, size: int, mesh: jax.sharding.Mesh | None
) -> Iterator[tuple[Any, jax.Array]]:
    """Batches of a pytree of (count, ...) arrays, with what each row weighs."""

    def place(x: np.ndarray) -> jax.Array:
        if mesh is None:
            return jnp.asarray(x)
        return jax.device_put(x, sharding(mesh, ("batch",) + (None,) * (x.ndim - 1), x.shape))

    for start in range(0, count, size):
        rows = np.arange(start, start + size)
        weight = (rows < count).astype(np.float32)
        batch = jax.tree.map(lambda x, rows=rows: x[np.minimum(rows, count - 1)], host)
        yield jax.tree.map(place, (batch, weight))


def summed(
    model: LanguageModel,
    prompts: Prompts,
    size: int,
    part: Callable[[Prompts, jax.Array], Any],
) -> Any:
    """Sum a function of a batch and its weights over all batches.

    Args:
        model: The model that reads the prompts, on its mesh.
        prompts: N prompts.
        size: Prompts in one call.
        part: (batch, weight (B,) of 1 for prompts and 0 for the copies that fill up the last
            batch) → a pytree of arrays, in which copies weigh nothing.

    Returns:
        The pytree, added up over batches.

    Raises:
        ConfigError: If `size` is no positive integer.
        InputError: If the prompts do not fit the model.
    """
    parts = (part(batch, weight) for batch, weight in padded_batches(model, prompts, size))
    return functools.reduce(functools.partial(jax.tree.map, lambda a, b: a + b), parts)


def joined(
    model: LanguageModel,
    prompts: Prompts,
    size: int,
    part: Callable[[Prompts], Any],
    *,
    axis: int = 0,
) -> Any:
    """Concatenate what a function of a batch returns over all batches, without the copies.

    Args:
        model: The model that reads the prompts, on its mesh.
        prompts: N prompts.
        size: Prompts in one call.
        part: batch → a pytree of arrays with an entry a prompt along `axis`.
        axis: The axis of prompts.

    Returns:
        The pytree, with N entries along `axis`.

    Raises:
        ConfigError: If `size` is no positive integer.
        InputError: If the prompts do not fit the model.
    """
    parts = [part(batch) for batch, _ in padded_batches(model, prompts, size)]

    def join(*pieces: jax.Array) -> jax.Array:
        whole = jnp.concatenate(pieces, axis)
        return jax.lax.slice_in_dim(whole, 0, len(prompts), axis=axis)

    return jax.tree.map(join, *parts)
