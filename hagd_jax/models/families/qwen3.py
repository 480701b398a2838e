"""Qwen 3 (dense) as Hugging Face stores it: norms of each head's queries and keys, no biases."""

from __future__ import annotations

from typing import Any

from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import kin, options, qwen2
from hagd_jax.models.families.options import Options, words

MODEL_TYPE = "qwen3"
ARCHITECTURE = "Qwen3ForCausalLM"
PREFIX, UNEMBED, BUFFERS = kin.PREFIX, kin.UNEMBED, kin.BUFFERS
UNDERSTOOD = kin.UNDERSTOOD | words(
    "attention_bias layer_types max_window_layers sliding_window use_sliding_window"
)


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
    found = kin.read(given, kin.Usual(32768, d_head=128, heads_shared=True), strict)
    found |= kin.biases(given) | qwen2.read_windows(given, found["n_layers"])
    return DecoderConfig(family="qwen3", qk_norm="head", **found)


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    own = {"attention_bias": config.qkv_bias} | qwen2.write_windows(config)
    return kin.write(config) | own


TABLE = (*kin.ENDS, *kin.BEFORE, *kin.READS, *kin.QK_NORMS, *kin.WRITES)
