"""How configuration files spell rotary positions, in transformers 4 and 5."""

from __future__ import annotations

from typing import Any

from hagd_jax.errors import ConfigError
from hagd_jax.models.config import RopeScaling
from hagd_jax.models.families.options import Options, option, require_known, same, words

# The dictionary of version 5, and that of version 4, which lacks the base.
SPELLINGS = ("rope_parameters", "rope_scaling")

# What may stand in it.
INSIDE = words(
    """
    factor high_freq_factor low_freq_factor original_max_position_embeddings partial_rotary_factor
    rope_theta rope_type type
    """
)


def from_hf(
    given: Options, theta_name: str = "rope_theta", strict: bool = True
) -> tuple[float, RopeScaling | None, Options]:
    """Translate rotary base and scaling, in the spelling of transformers 4 or 5.

    Version 4 writes `rope_theta` and `rope_scaling`, version 5 `rope_parameters`.

    Args:
        given: The parsed `config.json`.
        theta_name: A further name of the base at the top level.
        strict: Refuse entries nobody here has heard of.

    Returns:
        The base, the stretching, and the dictionary that described it (for what a family adds).

    Raises:
        ConfigError: If the stretching is of an unknown kind or lacks a number.
    """
    inner = option({"rope_scaling": same(given, *SPELLINGS)}, "rope_scaling", dict, {})
    if strict:
        require_known(inner, INSIDE, "config.json: rope_scaling")
    top = {"top": same(given, "rope_theta", theta_name), "inner": inner.get("rope_theta")}
    base = option({"rope_theta": same(top, "inner", "top")}, "rope_theta", float, 10000.0)
    kind = same(inner, "rope_type", "type") or "default"
    longest = option(given, "max_position_embeddings", int, 2048)
    if kind == "default":
        return base, None, inner
    if kind == "linear":
        return base, RopeScaling("linear", _factor(inner)), inner
    if kind == "dynamic":
        return base, RopeScaling("dynamic", _factor(inner), original_max_positions=longest), inner
    if kind == "llama3":
        return base, _llama3(inner, longest), inner
    raise ConfigError(
        "config.json: rope type",
        got=repr(kind),
        expected="default, linear, dynamic or llama3",
        mend="It changes the mathematics, and the decoder here does not have it.",
    )


def to_hf(scaling: RopeScaling | None, max_positions: int) -> dict[str, Any] | None:
    """Write the `rope_scaling` entry that both versions of transformers read.

    Raises:
        ConfigError: If Hugging Face has no such stretching.
    """
    if scaling is None:
        return None
    if scaling.kind == "llama3":
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions or max_positions,
        }
    if scaling.kind in ("linear", "dynamic"):
        return {"rope_type": scaling.kind, "factor": scaling.factor}
    raise ConfigError(
        "rope_scaling",
        got=repr(scaling.kind),
        expected="linear, dynamic or llama3",
        mend='Save it as family="custom".',
    )


def _llama3(inner: Options, longest: int) -> RopeScaling:
    return RopeScaling(
        "llama3",
        _factor(inner),
        low_freq_factor=option(inner, "low_freq_factor", float),
        high_freq_factor=option(inner, "high_freq_factor", float),
        original_max_positions=option(inner, "original_max_position_embeddings", int, longest),
    )


def _factor(inner: Options) -> float:
    factor = option(inner, "factor", float)
    if not factor >= 1:
        raise ConfigError("config.json: rope factor", got=factor, expected="at least 1")
    return factor
