"""Models that compute nothing, but whose weights are the same numbers."""

from __future__ import annotations

import functools
from typing import Any

import flax.traverse_util
import jax

from hagd_jax.models import LanguageModel


def permuted(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """A model whose weight arrays are each permuted along all of their axes, layer by layer.

    Rows and columns change places in every array by itself, so that no array writes what another
    one reads; sizes, norms and spectra stay. A judge that accepts a circuit here would accept
    anything.

    Args:
        model: The model; its devices stay the same.
        seed: Of the permutations.

    Returns:
        The model, under another name.

    Example:
        >>> permuted(model).name
        'gpt2, permuted 0'
    """
    flat = flax.traverse_util.flatten_dict(model.params)
    keys = jax.random.split(jax.random.key(seed), len(flat))
    changed = {
        path: _permute(key, leaf, path[0] == "blocks")
        for key, (path, leaf) in zip(keys, flat.items(), strict=True)
    }
    params = flax.traverse_util.unflatten_dict(changed)
    return model.replace(params=params, name=f"{model.name}, permuted {seed}")


def _permute(key: jax.Array, x: jax.Array, stacked: bool) -> jax.Array:
    shuffle: Any = _axes
    if stacked:
        # Each layer by itself: the first axis is that of the layers.
        key, shuffle = jax.random.split(key, len(x)), jax.vmap(_axes)
    return jax.jit(shuffle, out_shardings=x.sharding)(key, x)


def _axes(key: jax.Array, x: jax.Array) -> jax.Array:
    keys = jax.random.split(key, x.ndim)
    return functools.reduce(
        lambda y, axis: jax.random.permutation(keys[axis], y, axis=axis), range(x.ndim), x
    )
