"""What a format computes beside its matrices goes into them, so that all transcoders are alike."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax.transcoders.formats.stored import Stored
from hagd_jax.transcoders.params import Params


def needed_for(leaves: Collection[str], stored: Stored) -> set[str]:
    """List parameters, and those that enter into what `fold` computes of them."""
    needed = set(leaves)
    if stored.rescaled and needed & {"W_enc", "b_enc"}:
        needed |= {"W_dec"}
    if stored.centred and "b_enc" in needed:
        needed |= {"W_enc", "b_dec"}
    return needed


def fold(params: Params, stored: Stored, weights: jax.Array | None) -> Params:
    """Compute parameters that do from `config.reads` what the folder does from its own input.

    Args:
        params: As they are stored: all of them, or some with those of `needed_for`.
        stored: What is to be folded into them.
        weights: (L, D) of the norms that features read before, or None.

    Returns:
        The parameters, lying where they lay.
    """
    if stored.positive:
        params = _changed(params, ["threshold"], _positive)
    if stored.rescaled:
        params = _changed(params, ["W_enc", "b_enc", "W_dec"], _rescaled)
    if stored.centred:
        params = _changed(params, ["b_enc"], _centred)
    if weights is not None:
        params = _changed(params, ["W_enc", "W_skip"], _unweighted, weights)
    return params


def _changed(params: Params, leaves: list[str], change: Callable[..., Any], *more: Any) -> Params:
    """Some parameters computed anew, lying where they lay."""
    new: Params = {}
    for leaf in filter(params.__contains__, leaves):
        run = jax.jit(change, static_argnums=0, out_shardings=params[leaf].sharding)
        new[leaf] = run(leaf, params, *more)
    return params | new


def _positive(leaf: str, params: Params) -> jax.Array:
    """relu(x) above θ is x above max(θ, 0)."""
    return jnp.maximum(params[leaf], 0)


def _rescaled(leaf: str, params: Params) -> jax.Array:
    """act((W_enc x + b_enc) n) W_dec / n, with n the norms of the rows of W_dec, one edge a layer.

    A row of zeros writes nothing, whatever its feature is divided by.
    """
    rows = params["W_dec"].astype(jnp.promote_types(params["W_dec"].dtype, jnp.float32))
    norm = jnp.linalg.norm(rows, axis=-1)
    if leaf == "b_enc":
        changed = params[leaf] * norm
    elif leaf == "W_enc":
        changed = params[leaf] * norm[..., None]
    else:
        changed = rows / jnp.where(norm > 0, norm, 1)[..., None]
    return changed.astype(params[leaf].dtype)


def _centred(leaf: str, params: Params) -> jax.Array:
    """W_enc (x − b_dec) + b_enc = W_enc x + (b_enc − W_enc b_dec)."""
    wide = jnp.promote_types(params[leaf].dtype, jnp.float32)
    shift = jnp.einsum(
        "lfd,ld->lf", params["W_enc"], params["b_dec"],
        precision="highest", preferred_element_type=wide,
    )  # fmt: skip
    return (params[leaf] - shift).astype(params[leaf].dtype)


def _unweighted(leaf: str, params: Params, weights: jax.Array) -> jax.Array:
    """W x̂ = (W / w) (w x̂), and w x̂ is what `mlp_in` holds."""
    return (params[leaf] / weights[:, None]).astype(params[leaf].dtype)
