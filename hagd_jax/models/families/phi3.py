"""Phi-3 and Phi-4-mini as Hugging Face stores them: fused projections and LongRoPE."""

from __future__ import annotations

from typing import Any

from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families import kin, options, rope, windows
from hagd_jax.models.families.options import Options, option, words
from hagd_jax.models.families.table import Weight

MODEL_TYPE = "phi3"
ARCHITECTURE = "Phi3ForCausalLM"
PREFIX, UNEMBED, BUFFERS = kin.PREFIX, kin.UNEMBED, kin.BUFFERS
UNDERSTOOD = kin.UNDERSTOOD | words("sliding_window")

_USUAL = kin.Usual(4096, norm_eps=1e-5)
# Published files name these and use none of them.
_OFF: dict[str, tuple[Any, ...]] = {
    "attention_bias": (None, False),
    "full_attn_mod": (None, 1),
    "interpolate_factor": (None, 1),
    "lm_head_bias": (None, False),
    "mlp_bias": (None, False),
}


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
    options.check(given, UNDERSTOOD, strict, _OFF)
    given = _older_names(given)
    found = kin.read(given, _USUAL, strict)
    return DecoderConfig(family="phi3", window=windows.size(given, 0), **found)


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Write a `config.json` that `from_hf` and Hugging Face, version 4 or 5, read."""
    found: dict[str, Any] = kin.write(config) | {"sliding_window": config.window or None}
    found["partial_rotary_factor"] = rope.share(config)
    scaling = found["rope_scaling"]
    if scaling is not None:
        # Version 4 takes just these three, the kind in its older spelling.
        kind = {"type": scaling.pop("rope_type")}
        found["rope_scaling"] = scaling | kind
    # What the files of this family always say: the trained context.
    trained = {"original_max_position_embeddings": config.max_positions}
    return trained | kin.NO_IDS | found


def _older_names(given: Options) -> Options:
    """LongRoPE was called `su` and `yarn` once; the trained context is 4096 where it is absent."""
    trained = option(given, "original_max_position_embeddings", int, 4096)
    given = {**given, "original_max_position_embeddings": trained}
    for name in rope.SPELLINGS:
        inner = option(given, name, dict, None)
        if inner is not None:
            kinds = {
                key: "longrope" if inner[key] in ("su", "yarn") else inner[key]
                for key in ("type", "rope_type")
                if isinstance(inner.get(key), str)
            }
            given[name] = {**inner, **kinds}
    return given


def _fused(leaf: str, name: str, parts: tuple[str, ...], part: int, ours: str) -> Weight:
    """One of the projections that lie in a tensor one after the other."""
    name = f"{kin.LAYER}{name}.weight"
    return Weight(f"blocks/{leaf}/kernel", name, f"{parts[part]} e", ours, parts=parts, part=part)


_QKV, _GATE_UP = ("(h d)", "(k d)", "(k d)"), ("m", "m")

TABLE = (
    *kin.ENDS,
    *kin.BEFORE,
    _fused("attn/q", "self_attn.qkv_proj", _QKV, 0, "e h d"),
    _fused("attn/k", "self_attn.qkv_proj", _QKV, 1, "e k d"),
    _fused("attn/v", "self_attn.qkv_proj", _QKV, 2, "e k d"),
    _fused("mlp/gate", "mlp.gate_up_proj", _GATE_UP, 0, "e m"),
    _fused("mlp/in", "mlp.gate_up_proj", _GATE_UP, 1, "e m"),
    *kin.WRITES,
)
