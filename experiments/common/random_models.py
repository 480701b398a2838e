"""Random models and transcoders for the experiments on attribution graphs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import models, transcoders

KINDS = ("per-layer", "cross-layer")
ACTIVE = 32
# A standard normal exceeds this threshold with probability 32 / 4096.
_THRESHOLD = 2.4176


@dataclasses.dataclass(frozen=True)
class Shape:
    """Shape holds the sizes of a Llama-like random model and of its transcoders.

    Attributes:
        layers: Number of transformer blocks.
        width: Width of the residual stream.
        heads: Attention heads per layer.
        mlp: MLP neurons per layer.
        vocabulary: Size of the vocabulary, in tokens.
        positions: Longest prompt, in tokens.
        features: Transcoder features per layer.
    """

    layers: int = 12
    width: int = 256
    heads: int = 8
    mlp: int = 1024
    vocabulary: int = 8192
    positions: int = 4096
    features: int = 4096


def random_model(shape: Shape = Shape()) -> models.LanguageModel:
    """Return a model with random weights."""
    config = models.DecoderConfig(
        vocab_size=shape.vocabulary, n_layers=shape.layers, d_model=shape.width,
        n_heads=shape.heads, d_mlp=shape.mlp, family="llama", max_positions=shape.positions,
        norm="rms", positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False,
        attn_out_bias=False, mlp_bias=False,
    )  # fmt: skip
    return models.init(config, jax.random.key(0), name="random")


def random_transcoder(kind: str, shape: Shape = Shape()) -> transcoders.Transcoder:
    """Return a random transcoder with about 32 active features a token.

    A `per-layer` one is TopK with window 0. A `cross-layer` one is ReLU with a negative bias, whose
    features write to all later layers.
    """
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
    """Return random token ids that begin with token 1, the beginning of the text."""
    tokens = np.random.default_rng(seed).integers(2, shape.vocabulary, length)
    tokens[0] = 1
    return tokens.astype(np.int32)
