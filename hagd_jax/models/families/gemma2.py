"""Gemma 2 as Hugging Face stores it: four norms a block, soft caps, every other layer a window."""

from __future__ import annotations

from typing import Any

from hagd_jax.errors import require_number
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import gemma, kin, options, windows
from hagd_jax.models.families.options import Options, option, words

MODEL_TYPE = "gemma2"
ARCHITECTURE = "Gemma2ForCausalLM"
PREFIX, UNEMBED, BUFFERS = kin.PREFIX, kin.UNEMBED, kin.BUFFERS
UNDERSTOOD = gemma.UNDERSTOOD | words(
    """
    attn_logit_softcapping final_logit_softcapping layer_types query_pre_attn_scalar sliding_window
    """
)
# The file's names of soft caps, and ours.
CAPS = {"attn_logit_softcapping": "attn_softcap", "final_logit_softcapping": "logit_softcap"}


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
    given = gemma.legacy(given)
    kin.whole_heads(given)
    found = kin.read(given, gemma.USUAL, strict) | kin.biases(given) | gemma.OPTIONS
    window = windows.size(given, 4096)
    found |= windows.from_hf(given, found["n_layers"], window, lambda layer: layer % 2 == 0)
    found |= query_scalar(given) | caps(given, _USUAL)
    return DecoderConfig(family="gemma2", norm_placement="both", **found)


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    scalar = config.query_scalar or config.d_head
    found = {name: getattr(config, ours) or None for name, ours in CAPS.items()}
    return (
        kin.write(config)
        | gemma.own(config)
        | found
        | {
            "layer_types": windows.layer_types(config),
            "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
            "sliding_window": config.window or 4096,
        }
    )


_USUAL = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}


def query_scalar(given: Options) -> dict[str, float]:
    """Read what scores are divided by the root of."""
    scalar = option(given, "query_pre_attn_scalar", float, 256.0)
    require_number("config.json: query_pre_attn_scalar", scalar, above=0, most=1e15)
    return {"query_scalar": scalar}


def caps(given: Options, usual: dict[str, float]) -> dict[str, float]:
    """Read soft caps: null switches one off, and absent it is the usual one.

    Raises:
        ConfigError: If a cap is no positive number.
    """
    found = {}
    for name, value in usual.items():
        cap = option(given, name, float, 0.0 if name in given else value)
        if given.get(name) is not None:
            require_number(f"config.json: {name}", cap, above=0, most=1e15)
        found[CAPS[name]] = cap
    return found


TABLE = (*kin.ENDS, *kin.BOTH, *kin.READS, *kin.WRITES)
