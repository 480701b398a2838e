"""Gemma 3's text models as Hugging Face stores them: five layers with a window to one without.

Queries and keys are normed. Layers with a window rotate by a base of their own, and only the others
stretch theirs.
"""

from __future__ import annotations

from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.errors import ConfigError, require_number
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import gemma, gemma2, kin, options, rope, windows
from hagd_jax.models.families.options import Options, option, same, words

MODEL_TYPE = "gemma3_text"
ARCHITECTURE = "Gemma3ForCausalLM"
PREFIX, UNEMBED, BUFFERS = kin.PREFIX, kin.UNEMBED, kin.BUFFERS
UNDERSTOOD = gemma.UNDERSTOOD | words(
    """
    final_logit_softcapping layer_types query_pre_attn_scalar rope_local_base_freq sliding_window
    sliding_window_pattern
    """
)
_USUAL = gemma.USUAL._replace(max_positions=131072, theta=1e6)


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
    # A cap on the scores is written down, but no version of transformers computes it.
    options.check(given, UNDERSTOOD, strict)
    given, local = _rotations(gemma.legacy(given), strict)
    kin.whole_heads(given)
    found = kin.read(given, _USUAL, strict) | kin.biases(given) | gemma.OPTIONS
    every, window = option(given, "sliding_window_pattern", int, 6), windows.size(given, 4096)
    require_number("config.json: sliding_window_pattern", every, least=1, whole=True)
    layers = found["n_layers"]
    found |= windows.from_hf(given, layers, window, lambda layer: (layer + 1) % every != 0)
    found |= gemma2.query_scalar(given) | gemma2.caps(given, {"final_logit_softcapping": 0.0})
    if "window" in found:
        found["rope_local_theta"] = local
    return DecoderConfig(family="gemma3", norm_placement="both", qk_norm="head", **found)


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    local = {"rope_local_base_freq": config.rope_local_theta or 10000.0}
    return gemma2.to_hf(config) | local | {"attn_logit_softcapping": None}


def _rotations(given: Options, strict: bool) -> tuple[Options, float]:
    """The file with the rotation of layers without a window, and the base of the others.

    Version 5 writes a dictionary for each kind of layer under `rope_parameters`.
    """
    nested = option(given, "rope_parameters", dict, {})
    kinds = {windows.FULL, windows.SLIDING}
    inner: Options = {}
    if nested.keys() & kinds:
        if strict:
            options.require_known(nested, kinds, "config.json: rope_parameters")
        inner = option(nested, windows.SLIDING, dict, {})
        given = {**given, "rope_parameters": option(nested, windows.FULL, dict, {})}
    found = {
        "rope_local_base_freq": given.get("rope_local_base_freq"),
        "inner": inner.get("rope_theta"),
    }
    base = option({"rope_theta": same(found, *found)}, "rope_theta", float, 10000.0)
    _, scaling, _ = rope.from_hf({"rope_parameters": {**inner, "rope_theta": base}}, strict=strict)
    if scaling is not None:
        raise ConfigError(
            "config.json: rope_parameters: sliding_attention",
            got=quoted(scaling.kind),
            expected="a rope_type: default",
        )
    return given, base


TABLE = (*kin.ENDS, *kin.BOTH, *kin.READS, *kin.QK_NORMS, *kin.WRITES)
