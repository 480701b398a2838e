"""The random model and transcoders that experiments on attribution graphs have in common."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import models, transcoders

KINDS = ("per-layer", "cross-layer")
ACTIVE = 32
# The share 32 / 4096 of a standard normal lies above this.
_THRESHOLD = 2.4176


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Llama-like random model and its transcoders.

    Attributes:
        layers: Blocks.
        width: Width of the residual stream.
        heads: Attention heads.
        mlp: Neurons a layer.
        vocabulary: Token ids.
        positions: Longest prompt.
        features: Features a layer.
    """

    layers: int = 12
    width: int = 256
    heads: int = 8
    mlp: int = 1024
    vocabulary: int = 8192
    positions: int = 4096
    features: int = 4096


def random_model(shape: Shape = Shape()) -> models.LanguageModel:
    """A model of random weights."""
    config = models.DecoderConfig(
        vocab_size=shape.vocabulary, n_layers=shape.layers, d_model=shape.width,
        n_heads=shape.heads, d_mlp=shape.mlp, family="llama", max_positions=shape.positions,
        norm="rms", positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False,
        attn_out_bias=False, mlp_bias=False,
    )  # fmt: skip
    return models.init(config, jax.random.key(0), name="random")


def random_transcoder(kind: str, shape: Shape = Shape()) -> transcoders.Transcoder:
    """Some 32 active features a token: by TopK, one layer each, or by ReLU and a bias, to all."""
    per_layer = kind == "per-layer"
    config = transcoders.TranscoderConfig(
        n_layers=shape.layers,
        d_model=shape.width,
        n_features=shape.features,
        activation="topk" if per_layer else "relu",
        k=ACTIVE if per_layer else 0,
        window=0 if per_layer else None,
    )
    made = transcoders.init(config, jax.random.key(1))
    keys = jax.random.split(jax.random.key(2))
    params = {
        name: jax.random.normal(key, made.params[name].shape) * scale
        for name, key, scale in zip(
            ("W_enc", "W_dec"), keys, (shape.width**-0.5, 0.05), strict=True
        )
    }
    bias = jnp.full_like(made.params["b_enc"], 0.0 if per_layer else -_THRESHOLD)
    return made.replace(params=made.params | params | {"b_enc": bias}, name=kind)


def random_prompt(length: int, shape: Shape = Shape(), seed: int = 0) -> np.ndarray:
    """Token ids, of which 1 stands for the beginning."""
    tokens = np.random.default_rng(seed).integers(2, shape.vocabulary, length)
    tokens[0] = 1
    return tokens.astype(np.int32)
