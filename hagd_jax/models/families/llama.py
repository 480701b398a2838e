"""Llama 1, 2 and 3, and what shares their class (SmolLM2 ...), as Hugging Face stores them."""

from __future__ import annotations

from typing import Any

from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import kin, options
from hagd_jax.models.families.options import Options, option, words

MODEL_TYPE = "llama"
ARCHITECTURE = "LlamaForCausalLM"
PREFIX, UNEMBED, BUFFERS = kin.PREFIX, kin.UNEMBED, kin.BUFFERS
UNDERSTOOD = kin.UNDERSTOOD | words("attention_bias mlp_bias")


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
    kin.whole_heads(given)
    found = kin.read(given, kin.Usual(), strict) | kin.biases(given)
    found["mlp_bias"] = option(given, "mlp_bias", bool, False)
    return DecoderConfig(family="llama", **found)


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    own = {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}
    return kin.write(config) | own


TABLE = (*kin.ENDS, *kin.BEFORE, *kin.READS, *kin.WRITES)
