"""One prompt's pass, held: what is left of the model is a linear map, and this is its transpose.

Attention patterns, weights of experts, norm denominators and MLP outputs stay what they were, those
of norms after attention and after the MLP among them; a soft cap on the logits is its tangent. A
gradient then comes down a block by two matrix products and one mixing of positions. Gradients of
many targets travel together, positions first: (T, B, D) for B targets.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.models import DecoderConfig, LanguageModel, norm_weight
from hagd_jax.parallel import constrain

# Capture these of a pass, and the sites that a dictionary needs.
FROZEN_SITES = (
    "attn_pattern", "attn_out_scale", "mlp_out_scale", "norm1_scale", "norm2_scale", "normf_scale",
)  # fmt: skip
# Of gradients: targets are split as a batch is.
GRADIENT = ("length", "batch", "act_embed")


class Frozen(struct.PyTreeNode):
    """A frozen pass holds the attention patterns, norm scales and experts' weights of a prompt.

    Attributes:
        pattern: (L, H, T, T) attention of each position to earlier ones.
        gain1: (L, T) 1 / what the norm before attention divided by.
        gain2: (L, T) the same before the MLP.
        gain_attn: (L, T) the same after attention.
        gain_mlp: (L, T) the same after the MLP.
        gain_final: (T,) the same before the unembedding.
        slope: (V,) derivative of the next token's logits with respect to what they were before
            their soft cap; None without one.
        router: (L, T, E) weights of experts, where neurons of a mixture are nodes; else None.
    """

    pattern: jax.Array
    gain1: jax.Array
    gain2: jax.Array
    gain_attn: jax.Array
    gain_mlp: jax.Array
    gain_final: jax.Array
    slope: jax.Array | None = None
    router: jax.Array | None = None

    __repr__ = one_line


def frozen(trace: dict[str, jax.Array], slope: jax.Array | None = None) -> Frozen:
    """Keep the attention patterns and norm scales of a pass.

    Args:
        trace: Of one prompt, with `FROZEN_SITES` captured, and `router` where it is to be held.
        slope: From `cap_slope`.

    Returns:
        The `Frozen`, float32.
    """

    def gain(site: str) -> jax.Array:
        return 1 / trace[site][..., 0, :, 0].astype(jnp.float32)

    return Frozen(
        pattern=trace["attn_pattern"][:, 0].astype(jnp.float32),
        gain1=gain("norm1_scale"),
        gain2=gain("norm2_scale"),
        gain_attn=gain("attn_out_scale"),
        gain_mlp=gain("mlp_out_scale"),
        gain_final=gain("normf_scale"),
        slope=slope,
        router=trace["router"][:, 0].astype(jnp.float32) if "router" in trace else None,
    )


def cap_slope(logits: jax.Array, config: DecoderConfig) -> jax.Array | None:
    """Differentiate the soft cap of logits where they are: z̃ = c tanh(z / c), ∂z̃/∂z = 1 − (z̃/c)².

    Args:
        logits: (V,) with their cap.
        config: Of the decoder.

    Returns:
        (V,); None if there is no cap.
    """
    cap = config.logit_softcap
    return 1 - jnp.square(logits / cap) if cap else None


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


def weight_of(params: dict[str, Any], norm: str, config: DecoderConfig) -> Any:
    """Return what a norm multiplies by, in float32; None if there is no such norm."""
    return norm_weight(params[norm]["scale"], config) if norm in params else None


def sublayer_back(
    gradient: jax.Array, site: str, block: dict[str, Any], gain: jax.Array, config: DecoderConfig
) -> jax.Array:
    """Back-propagate from the stream to what a sublayer puts out, through the norm between them.

    Args:
        gradient: (T, B, D) at the stream.
        site: `attn_out` or `mlp_out`.
        block: Parameters of this layer.
        gain: (T,) 1 / denominator of the norm after the sublayer.
        config: Of the decoder.

    Returns:
        (T, B, D); the same gradient where no norm follows the sublayer.
    """
    weight = weight_of(block, f"norm_{site}", config)
    return gradient if weight is None else norm_back(gradient, weight, gain[:, None], config)


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
    back = norm_back(back, weight_of(block, "norm1", c), gain[:, None], c)
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
