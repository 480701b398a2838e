"""Mistral 7B as Hugging Face stores it: Llama with a window on every layer."""

from __future__ import annotations

from typing import Any

from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import kin, options, windows
from hagd_jax.models.families.options import Options, words

MODEL_TYPE = "mistral"
ARCHITECTURE = "MistralForCausalLM"
PREFIX, UNEMBED, BUFFERS = kin.PREFIX, kin.UNEMBED, kin.BUFFERS
UNDERSTOOD = kin.UNDERSTOOD | words("sliding_window")
_USUAL = kin.Usual(131072, heads_shared=True)


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
    found = kin.read(given, _USUAL, strict)
    return DecoderConfig(family="mistral", window=windows.size(given, 4096), **found)


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    return kin.write(config) | {"sliding_window": config.window or None}


TABLE = (*kin.ENDS, *kin.BEFORE, *kin.READS, *kin.WRITES)
