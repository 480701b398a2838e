"""One prompt's pass, held: what is left of the model is a linear map, and this is its transpose.

Attention patterns, norm denominators and MLP outputs stay what they were. A gradient then comes
down a block by two matrix products and one mixing of positions. Gradients of many targets travel
together, positions first: (T, B, D) for B targets.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.models import DecoderConfig, LanguageModel
from hagd_jax.parallel import constrain

# Capture these of a pass, and the sites that a dictionary needs.
FROZEN_SITES = ("attn_pattern", "norm1_scale", "norm2_scale", "normf_scale")
# Of gradients: targets are split as a batch is.
GRADIENT = ("length", "batch", "act_embed")


class Frozen(struct.PyTreeNode):
    """A frozen pass holds the attention patterns and norm scales of a prompt.

    Attributes:
        pattern: (L, H, T, T) attention of each position to earlier ones.
        gain1: (L, T) 1 / what the norm before attention divided by.
        gain2: (L, T) the same before the MLP.
        gain_final: (T,) the same before the unembedding.
    """

    pattern: jax.Array
    gain1: jax.Array
    gain2: jax.Array
    gain_final: jax.Array

    __repr__ = one_line


def frozen(trace: dict[str, jax.Array]) -> Frozen:
    """Keep the attention patterns and norm scales of a pass.

    Args:
        trace: Of one prompt, with `FROZEN_SITES` captured.

    Returns:
        The `Frozen`, float32.
    """

    def gain(site: str) -> jax.Array:
        return 1 / trace[site][..., 0, :, 0].astype(jnp.float32)

    pattern = trace["attn_pattern"][:, 0].astype(jnp.float32)
    return Frozen(pattern, gain("norm1_scale"), gain("norm2_scale"), gain("normf_scale"))


def norm_back(gradient: jax.Array, weight: Any, gain: jax.Array, config: DecoderConfig) -> Any:
    """Back-propagate through a norm whose denominator is frozen.

    Args:
        gradient: (..., D).
        weight: (D,) of the norm; None where it has none.
        gain: (...) 1 / denominator.
        config: Which norm.

    Returns:
        (..., D).
    """
    back = gradient * gain[..., None]
    back = back if weight is None else back * weight
    return back - back.mean(-1, keepdims=True) if config.norm == "layer" else back


def weight_of(params: dict[str, Any], norm: str) -> Any:
    """Return the scale of a norm in float32, or None."""
    return params[norm]["scale"].astype(jnp.float32) if norm in params else None


def out_back(gradient: jax.Array, block: dict[str, Any], model: LanguageModel) -> jax.Array:
    """Back-propagate from the output of attention to what its heads mixed.

    Args:
        gradient: (T, B, D) at the output of attention.
        block: Parameters of this layer.
        model: The model.

    Returns:
        (K, G · T, B · Dh): key/value heads first, so that the query heads that share one and the
        positions are summed over in one product.
    """
    c = model.config
    length, targets, _ = gradient.shape
    out = block["attn"]["o"]["kernel"].astype(jnp.float32).reshape(-1, c.d_model)
    heads = (gradient @ out.T).reshape(length, targets, c.n_heads, c.d_head)
    heads = constrain(heads, ("length", "batch", "heads", "head_dim"), model.mesh)
    heads = heads.reshape(length, targets, c.n_kv_heads, -1, c.d_head).transpose(2, 3, 0, 1, 4)
    return heads.reshape(c.n_kv_heads, -1, targets * c.d_head)


def value_back(
    values: jax.Array, block: dict[str, Any], gain: jax.Array, model: LanguageModel
) -> jax.Array:
    """Back-propagate from values to the stream before the layer.

    Args:
        values: (K, T, B · Dh) gradients at the values.
        block: Parameters of this layer.
        gain: (T,) of the norm before attention.
        model: The model.

    Returns:
        (T, B, D).
    """
    c = model.config
    into = block["attn"]["v"]["kernel"].astype(jnp.float32).reshape(c.d_model, -1)
    values = values.reshape(*values.shape[:2], -1, c.d_head).transpose(1, 2, 0, 3)
    back = values.reshape(*values.shape[:2], -1) @ into.T
    back = norm_back(back, weight_of(block, "norm1"), gain[:, None], c)
    return constrain(back, GRADIENT, model.mesh)


def layer_of(tree: Any, layer: jax.Array) -> Any:
    """Select one layer of a pytree of stacked arrays."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False), tree)


def run_sites(reads: tuple[str, ...]) -> tuple[str, ...]:
    """List the sites that attribution needs of a pass."""
    return tuple(sorted({*FROZEN_SITES, *reads}))


def unembedding(model: LanguageModel) -> jax.Array:
    """Return the (D, V) unembedding, tied or not."""
    params = model.params
    return params["embed"]["embedding"].T if model.config.tied else params["unembed"]["kernel"]
