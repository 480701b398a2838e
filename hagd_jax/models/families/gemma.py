"""Gemma 1 as Hugging Face stores it: norms multiply by 1 + w, embeddings by √d_model."""

from __future__ import annotations

from typing import Any

from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import kin, options
from hagd_jax.models.families.options import Options, words

MODEL_TYPE = "gemma"
ARCHITECTURE = "GemmaForCausalLM"
PREFIX, UNEMBED, BUFFERS = kin.PREFIX, kin.UNEMBED, kin.BUFFERS
UNDERSTOOD = kin.UNDERSTOOD | words("attention_bias hidden_activation")

# What all three generations of Gemma have.
USUAL = kin.Usual(
    8192,
    d_head=256,
    heads_shared=True,
    act="gelu_pytorch_tanh",
    activation=("hidden_act", "hidden_activation"),
    tied=True,
)
OPTIONS: dict[str, Any] = {"norm_offset": True, "scale_embed": True}


def from_hf(given: Options, strict: bool = True) -> DecoderConfig:
    """Translate a `config.json`.

    Args:
        given: The parsed file.
        strict: Refuse options nobody here has heard of.

    Returns:
        The configuration, computing in float32.

    Raises:
        ConfigError: Naming the option that is missing, of the wrong type, or unsupported.
    """
    options.check(given, UNDERSTOOD, strict)
    given = legacy(given)
    kin.whole_heads(given)
    found = kin.read(given, USUAL, strict) | kin.biases(given) | OPTIONS
    return DecoderConfig(family="gemma", **found)


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    return kin.write(config) | own(config)


def legacy(given: Options) -> Options:
    """Read `hidden_act: gelu` as the approximation that the official releases mean by it.

    So does version 5 of transformers; version 4 computes Gemma 1 with the exact function.
    """
    act = given.get("hidden_act")
    return {**given, "hidden_act": "gelu_pytorch_tanh"} if act == "gelu" else given


def own(config: DecoderConfig) -> dict[str, Any]:
    """Write the options that all three generations of Gemma have."""
    act = options.ACTIVATION_NAMES[config.activation]
    return {"attention_bias": config.qkv_bias, "hidden_activation": act}


TABLE = (*kin.ENDS, *kin.BEFORE, *kin.READS, *kin.WRITES)
