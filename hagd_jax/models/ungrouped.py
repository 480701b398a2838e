"""Undo grouped-query attention: the same function, with keys and values for each query head."""

from __future__ import annotations

import functools
from typing import Any

import flax.traverse_util
import jax.numpy as jnp

from hagd_jax.errors import require_is
from hagd_jax.models.model import LanguageModel

# Parameters with an axis of key/value heads, and that axis.
_AXES = {
    "k/kernel": 2, "v/kernel": 2, "k/bias": 1, "v/bias": 1, "k_norm/scale": 1,
}  # fmt: skip


def ungrouped(model: LanguageModel) -> LanguageModel:
    """Copy the keys and values that query heads share, so that each head has its own.

    The model computes what it computed. Circuits can then cut an edge into the keys of one head
    and keep it for the others of its group, as the files of the MIB benchmark do.

    Args:
        model: The model.

    Returns:
        The model itself if no head shares anything.

    Example:
        >>> from hagd_jax.models import DecoderConfig, forward, init
        >>> config = DecoderConfig(
        ...     vocab_size=9, n_layers=1, d_model=8, n_heads=4, n_kv_heads=2, d_mlp=6)
        >>> model = init(config, jax.random.key(0))
        >>> apart = ungrouped(model)
        >>> apart.config.n_kv_heads
        4
        >>> both = [forward(each, [[1, 2, 3]]).logits for each in (model, apart)]
        >>> bool(jnp.allclose(*both, atol=1e-6))
        True
    """
    require_is("model", model, LanguageModel)
    c = model.config
    group = c.n_heads // c.n_kv_heads
    if group == 1:
        return model
    flat: dict[str, Any] = dict(flax.traverse_util.flatten_dict(model.params, sep="/"))
    repeat = functools.partial(jnp.repeat, repeats=group)
    for end, axis in _AXES.items():
        name = f"blocks/attn/{end}"
        # The norm of a single head's keys has no axis of heads.
        if name in flat and (end != "k_norm/scale" or c.qk_norm == "all"):
            flat[name] = repeat(flat[name], axis=axis)
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    return model.replace(config=c.replace(n_kv_heads=c.n_heads), params=params)
