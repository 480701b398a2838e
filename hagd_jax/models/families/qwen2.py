"""Qwen 2 and 2.5 as Hugging Face stores them: Llama with biases on queries, keys and values."""

from __future__ import annotations

from typing import Any

from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import kin, options, windows
from hagd_jax.models.families.options import Options, option, words

MODEL_TYPE = "qwen2"
ARCHITECTURE = "Qwen2ForCausalLM"
PREFIX, UNEMBED, BUFFERS = kin.PREFIX, kin.UNEMBED, kin.BUFFERS
UNDERSTOOD = kin.UNDERSTOOD | words(
    "layer_types max_window_layers sliding_window use_sliding_window"
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
    found = kin.read(given, kin.Usual(32768, heads_shared=True), strict) | {"qkv_bias": True}
    return DecoderConfig(family="qwen2", **found, **read_windows(given, found["n_layers"]))


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    return kin.write(config) | write_windows(config)


def read_windows(given: Options, n_layers: int) -> dict[str, Any]:
    """Read which layers have a window: those from `max_window_layers` on, if it is switched on."""
    size = windows.size(given, 4096)
    window = size if option(given, "use_sliding_window", bool, False) else 0
    first = option(given, "max_window_layers", int, 28)
    return windows.from_hf(given, n_layers, window, lambda layer: bool(window) and layer >= first)


def write_windows(config: DecoderConfig) -> dict[str, Any]:
    """Write which layers have a window, in both ways where both can say it."""
    kinds = windows.layer_types(config)
    first = kinds.index(windows.SLIDING) if config.window else config.n_layers
    return {
        "layer_types": kinds,
        "max_window_layers": first,
        "sliding_window": config.window or None,
        "use_sliding_window": bool(config.window),
    }


TABLE = (*kin.ENDS, *kin.BEFORE, *kin.READS, *kin.WRITES)
