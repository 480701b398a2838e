"""Whether a head raises the logit of the token that it attends to, read off its weights."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.models import LanguageModel, norm_weight
from hagd_jax.parallel import replicate

# Smaller than this part of what the weights could make, a product is rounding.
_NOTHING = 1e-4


def copying(model: LanguageModel) -> np.ndarray:
    """Compute the copy score of every head's OV circuit.

    Σ λ / Σ |λ| over the eigenvalues of W_E W_V W_O W_U, which are those of W_O (W_U W_E) W_V: 1 if
    a head raises whatever it attends to, −1 if it lowers that (Elhage et al., 2021, "A Mathematical
    Framework for Transformer Circuits"). Weights of norms are multiplied in; a head that writes
    nothing to the logits scores 0.

    Args:
        model: The model.

    Returns:
        (L, H) float64 from −1 to 1.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> float(copying(case.model).round().max())
        1.0
    """
    products, most = (np.asarray(x, np.float64) for x in _products(model.bare()))
    values = np.linalg.eigvals(products)
    size = np.abs(values).sum(-1)
    return np.where(size > _NOTHING * most, values.real.sum(-1) / np.maximum(size, 1e-30), 0.0)


@functools.partial(jax.jit)
def _products(model: LanguageModel) -> tuple[jax.Array, jax.Array]:
    """(L, H, Dh, Dh) W_O (W_U W_E) W_V, and (L, H) the product of the norms of its factors."""
    c, p = model.config, jax.tree.map(lambda x: x.astype(jnp.float32), model.params)
    embedding = p["embed"]["embedding"]
    unembedding = embedding.T if c.tied else p["unembed"]["kernel"]
    through = unembedding @ embedding  # (D, D), whatever the vocabulary
    if c.norm != "none" and "norm_f" in p:
        through = norm_weight(p["norm_f"]["scale"], c)[:, None] * through
    attn = p["blocks"]["attn"]
    value, out = attn["v"]["kernel"], attn["o"]["kernel"]
    if c.norm != "none" and "norm1" in p["blocks"]:
        value = norm_weight(p["blocks"]["norm1"]["scale"], c)[:, :, None, None] * value
    if "norm_attn_out" in p["blocks"]:
        out = out * norm_weight(p["blocks"]["norm_attn_out"]["scale"], c)[:, None, None]
    value = jnp.repeat(value, c.n_heads // c.n_kv_heads, axis=2)

    def layer(weights: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        value, out = weights
        found = jnp.einsum("hkd,de,ehj->hkj", out, through, value)
        size = jnp.linalg.norm(out, axis=(1, 2)) * jnp.linalg.norm(value, axis=(0, 2))
        return found, size * jnp.linalg.norm(through)

    return replicate(jax.lax.map(layer, (value, out)), model.mesh)
