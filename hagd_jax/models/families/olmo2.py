"""OLMo 2 as Hugging Face stores it: norms after attention and MLP, and of all queries at once."""

from __future__ import annotations

import dataclasses
from typing import Any

from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import kin, options
from hagd_jax.models.families.options import Options, words

MODEL_TYPE = "olmo2"
ARCHITECTURE = "Olmo2ForCausalLM"
PREFIX, UNEMBED, BUFFERS = kin.PREFIX, kin.UNEMBED, kin.BUFFERS
UNDERSTOOD = kin.UNDERSTOOD | words("attention_bias")


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
    found = kin.read(given, kin.Usual(norm_eps=1e-5), strict) | kin.biases(given)
    return DecoderConfig(family="olmo2", norm_placement="after", qk_norm="all", **found)


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    found: dict[str, Any] = kin.write(config) | kin.NO_IDS | {"attention_bias": config.qkv_bias}
    scaling = found["rope_scaling"]
    if scaling is not None:
        # The older spelling is the only one that version 4 takes in this family.
        kind = scaling["rope_type"]
        found["rope_scaling"] = {n: v for n, v in scaling.items() if n != "rope_type"} | {
            "type": kind
        }
    return found


TABLE = (
    *kin.ENDS,
    *kin.AFTER,
    *kin.READS,
    dataclasses.replace(kin.QK_NORMS[0], stored="(h d)", ours="h d"),
    dataclasses.replace(kin.QK_NORMS[1], stored="(k d)", ours="k d"),
    *kin.WRITES,
)
