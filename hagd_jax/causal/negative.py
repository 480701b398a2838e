"""Models that compute nothing, but whose weights are the same numbers."""

from __future__ import annotations

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.models import LanguageModel


def permuted(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """Permute each weight array of a model along all of its axes, layer by layer.

    Rows and columns change places in every array by itself, so that no array writes what another
    one reads; sizes, norms and spectra stay. A judge that accepts a circuit here would accept
    anything.

    Args:
        model: The model; its devices stay the same.
        seed: Of the permutations.

    Returns:
        The model, under another name.

    Example:
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> permuted(init(config, jax.random.key(0), name="small")).name
        'small, permuted 0'
    """
    flat: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(model.params)
    rng = np.random.default_rng(seed)
    changed = {path: _permuted(rng, x, path[0] == "blocks") for path, x in flat.items()}
    if model.mesh is not None:
        changed = {path: jax.device_put(x, flat[path].sharding) for path, x in changed.items()}
    params = flax.traverse_util.unflatten_dict(changed)
    return model.replace(params=params, name=f"{model.name}, permuted {seed}")


def _permuted(rng: np.random.Generator, x: jax.Array, stacked: bool) -> jax.Array:
    """Along every axis; the first of a stack is that of the layers, permuted each by itself."""
    layers = len(x) if stacked else 1
    # On the host, if all of it is here: nothing is compiled, and nothing is bound to a device.
    on_host = x.is_fully_addressable
    found: Any = np.asarray(x) if on_host else x
    for axis in range(int(stacked), x.ndim):
        order = rng.permuted(np.tile(np.arange(x.shape[axis]), (layers, 1)), axis=1)
        shape = [1] * x.ndim
        shape[0], shape[axis] = layers, x.shape[axis]
        take = np.take_along_axis if on_host else jnp.take_along_axis
        found = take(found, order.reshape(shape), axis)
    return jnp.asarray(found)
