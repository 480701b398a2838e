"""The leaves of a state, as they are written and as they are read."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import InputError

SCALAR = (bool, int, float, complex, np.generic)


def flatten(state: Any) -> dict[str, Any]:
    """The leaves of a state by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {f"state{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> Any:
    """The generator of a typed key; traced, since `key_impl` refuses a ShapeDtypeStruct."""
    found: list[Any] = []
    abstract = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), abstract)
    return found[0]


def stored(name: str, leaf: Any) -> jax.Array | np.ndarray:
    """What is written for a leaf: numbers as arrays, typed keys as their raw data."""
    if isinstance(leaf, SCALAR):
        return np.asarray(leaf)
    if not isinstance(leaf, jax.Array | np.ndarray):
        raise InputError(name, got=type(leaf).__name__, expected="an array or a number")
    if leaf.size == 0:
        # Orbax's limit: its storage format has no chunks of size zero.
        raise InputError(name, got=f"shape {leaf.shape}", expected="at least one element")
    if isinstance(leaf, jax.Array):
        if _is_key(leaf):
            leaf = jax.random.key_data(leaf)
        if jax.process_count() > 1 and leaf.is_fully_addressable:
            # Every process holds its own copy, so the first one writes it.
            return np.asarray(leaf)
    return leaf


def target(name: str, leaf: Any) -> jax.ShapeDtypeStruct | np.ndarray:
    """How Orbax should read a leaf: onto a sharding, or as NumPy."""
    if isinstance(leaf, SCALAR):
        return np.asarray(leaf)
    if isinstance(leaf, np.ndarray):
        return leaf
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        raise InputError(name, got=type(leaf).__name__, expected="an array or a number")
    placed = leaf.sharding if getattr(leaf, "committed", True) else None
    shape, dtype = leaf.shape, leaf.dtype
    if _is_key(leaf):
        raw = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(shape, dtype))
        shape, dtype = raw.shape, raw.dtype
    if placed is None or (jax.process_count() > 1 and placed.is_fully_addressable):
        # NumPy first: an array committed to one device could not meet arrays on a mesh.
        return np.broadcast_to(np.zeros((), dtype), shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=placed)


def as_wanted(value: Any, leaf: Any) -> Any:
    """A leaf that was read, as the kind of value that was asked for."""
    if isinstance(leaf, np.ndarray | np.generic):
        return value[()] if isinstance(leaf, np.generic) else value
    if isinstance(leaf, SCALAR):
        return value.item()
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=_key_impl(leaf))
    return jnp.asarray(value)
