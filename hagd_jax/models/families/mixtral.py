"""Mixtral 8x7B and 8x22B as Hugging Face stores them: Mistral with a mixture in every layer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import kin, mixtures, options, windows
from hagd_jax.models.families.options import Options, option, same, words
from hagd_jax.models.families.table import Weight

MODEL_TYPE = "mixtral"
ARCHITECTURE = "MixtralForCausalLM"
PREFIX, UNEMBED, BUFFERS = kin.PREFIX, kin.UNEMBED, kin.BUFFERS
UNDERSTOOD = kin.UNDERSTOOD | words(
    "num_experts num_experts_per_tok num_local_experts sliding_window"
)
_USUAL = kin.Usual(131072, norm_eps=1e-5, heads_shared=True, theta=1e6)
_NAMES = mixtures.Names(
    "block_sparse_moe.gate.weight", "block_sparse_moe.experts", "w1.weight", "w3.weight",
    "w2.weight",
)  # fmt: skip


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
    count = same(given, "num_local_experts", "num_experts")
    experts = option({"num_local_experts": count}, "num_local_experts", int)
    found |= mixtures.neurons(experts, found["d_mlp"], "intermediate_size")
    return DecoderConfig(
        family="mixtral",
        window=windows.size(given, 0),
        experts_per_token=option(given, "num_experts_per_tok", int),
        normalise_routing=True,
        **found,
    )


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    return kin.write(config) | {
        "intermediate_size": config.d_expert,
        "num_experts_per_tok": config.experts_per_token,
        "num_local_experts": config.experts,
        "sliding_window": config.window or None,
    }


def table(config: DecoderConfig, names: Collection[str] = ()) -> tuple[Weight, ...]:
    """List the weights, in the form that a checkpoint with these tensors has."""
    return mixtures.table(config, names, _NAMES)
