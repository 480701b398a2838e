"""How configuration files spell rotary positions, in transformers 4 and 5."""

from __future__ import annotations

import math
from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.errors import ConfigError
from hagd_jax.models.config import DecoderConfig, RopeScaling
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
_YARN = words("attention_factor beta_fast beta_slow mscale mscale_all_dim truncate")
_LONGROPE = words("attention_factor long_factor short_factor")
# What else stands there in some kinds of stretching.
_FURTHER = {"yarn": _YARN, "longrope": _LONGROPE}
_KINDS = "default, linear, dynamic, llama3, yarn or longrope"

# What only a stretching has; `default` passes over them, as transformers does.
_STRETCHES = (
    *("factor", "high_freq_factor", "low_freq_factor", "original_max_position_embeddings"),
    *sorted(_YARN | _LONGROPE),
)


def from_hf(
    given: Options, theta_name: str = "rope_theta", strict: bool = True, usual: float = 10000.0
) -> tuple[float, RopeScaling | None, Options]:
    """Translate rotary base and scaling, in the spelling of transformers 4 or 5.

    Version 4 writes `rope_theta` and `rope_scaling`, version 5 `rope_parameters`.

    Args:
        given: The parsed `config.json`.
        theta_name: A further name of the base at the top level.
        strict: Refuse entries nobody here has heard of.
        usual: The base where none is given.

    Returns:
        The base, the stretching, and the dictionary that described it (for what a family adds).

    Raises:
        ConfigError: If the stretching is of an unknown kind or lacks a number.
    """
    inner = option({"rope_scaling": same(given, *SPELLINGS)}, "rope_scaling", dict, {})
    kind = option({"rope_type": same(inner, "rope_type", "type")}, "rope_type", str, "default")
    if strict:
        further = _FURTHER.get(kind, frozenset())
        require_known(inner, INSIDE | further, "config.json: rope_scaling")
    top = {"top": same(given, "rope_theta", theta_name), "inner": inner.get("rope_theta")}
    base = option({"rope_theta": same(top, "inner", "top")}, "rope_theta", float, usual)
    stretched = [name for name in _STRETCHES if inner.get(name) is not None]
    if stretched and same(inner, "rope_type", "type") is None:
        raise ConfigError(
            "config.json: rope_scaling",
            got=f"{' and '.join(stretched)} without a rope_type",
            expected=f"a rope_type: {_KINDS}",
            mend="Which stretching it means cannot be told; transformers would compute with none.",
        )
    if kind == "default":
        return base, None, inner
    if kind not in _READERS:
        raise ConfigError(
            "config.json: rope type",
            got=quoted(kind),
            expected=_KINDS,
            mend="It changes the mathematics, and the decoder here does not have it.",
        )
    longest = option(given, "max_position_embeddings", int, 2048)
    return base, _READERS[kind](inner, longest, given), inner


def to_hf(scaling: RopeScaling | None, max_positions: int) -> dict[str, Any] | None:
    """Write the `rope_scaling` entry that both versions of transformers read.

    Raises:
        ConfigError: If Hugging Face has no such stretching.
    """
    if scaling is None:
        return None
    kind, factor = scaling.kind, scaling.factor
    longest = {"original_max_position_embeddings": scaling.original_max_positions or max_positions}
    if kind == "llama3":
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        bounds = {"low_freq_factor": low, "high_freq_factor": high}
        return {"rope_type": kind, "factor": factor, **bounds, **longest}
    if kind == "yarn":
        names = ("attention_factor", "beta_fast", "beta_slow", "truncate")
        return {"rope_type": kind, "factor": factor, **longest} | {
            name: getattr(scaling, name) for name in names
        }
    if kind == "longrope":
        long, short = list(scaling.factors), list(scaling.short_factors)
        return {"rope_type": kind, "long_factor": long, "short_factor": short}
    if kind in ("linear", "dynamic"):
        return {"rope_type": kind, "factor": factor}
    raise ConfigError(
        "rope_scaling", got=repr(kind), expected=_KINDS, mend='Save it as family="custom".'
    )


def share(config: DecoderConfig) -> float:
    """Return the share of a head that is rotated, such that rounding down gives rotary_dim."""
    found = config.rotary_dim / config.d_head
    # The product is rounded down to a dimension: keep it from falling just short of one.
    short = int(config.d_head * found) != config.rotary_dim
    return math.nextafter(found, 1.0) if short else found


def _llama3(inner: Options, longest: int, given: Options) -> RopeScaling:
    return RopeScaling(
        "llama3",
        _factor(inner),
        low_freq_factor=option(inner, "low_freq_factor", float),
        high_freq_factor=option(inner, "high_freq_factor", float),
        original_max_positions=_original(inner, longest, given),
    )


def _yarn(inner: Options, longest: int, given: Options) -> RopeScaling:
    factor = _factor(inner)
    attention = option(inner, "attention_factor", float, 0.0)
    scales = [option(inner, name, float, 0.0) for name in ("mscale", "mscale_all_dim")]
    if not attention and all(scales) and factor > 1:
        above, below = (0.1 * scale * math.log(factor) + 1 for scale in scales)
        attention = above / below
    return RopeScaling(
        "yarn",
        factor,
        original_max_positions=_original(inner, longest, given),
        # Zero is how the default is spelled here, as in transformers.
        beta_fast=option(inner, "beta_fast", float, 0.0) or 32.0,
        beta_slow=option(inner, "beta_slow", float, 0.0) or 1.0,
        truncate=option(inner, "truncate", bool, True),
        attention_factor=attention,
    )


def _longrope(inner: Options, longest: int, given: Options) -> RopeScaling:
    """Source: Ding et al. 2024, arXiv 2402.13753; the attention factor is that of Phi-3."""
    top = option(given, _ORIGINAL, int, 0)
    trained = _original(inner, longest, given)
    if trained != longest and not top and given.get("rope_parameters") is None:
        raise ConfigError(
            f"config.json: rope_scaling: {_ORIGINAL}",
            got=trained,
            expected=f"{_ORIGINAL} beside rope_scaling",
            mend="Versions 4 and 5 of transformers read this file differently.",
        )
    if trained < 1:
        raise ConfigError(f"config.json: {_ORIGINAL}", got=trained, expected="1 or more")
    attention = option(inner, "attention_factor", float, 0.0)
    found = {"factor": inner.get("factor"), "ratio": longest / trained if top else None}
    factor = found["factor"] if attention else same(found, "factor", "ratio")
    lists = {}
    for name in ("long_factor", "short_factor"):
        # Numbered, so that an error names the entry.
        entries = {f"{name}[{i}]": x for i, x in enumerate(option(inner, name, list))}
        lists[name] = tuple(option(entries, key, float) for key in entries)
    return RopeScaling(
        "longrope",
        option({"factor": factor}, "factor", float, longest / trained),
        original_max_positions=trained,
        factors=lists["long_factor"],
        short_factors=lists["short_factor"],
        attention_factor=attention,
    )


def _original(inner: Options, longest: int, given: Options) -> int:
    """The trained context, in or beside the dictionary."""
    found = {"inside": inner.get(_ORIGINAL), "beside": given.get(_ORIGINAL)}
    return option({_ORIGINAL: same(found, "inside", "beside")}, _ORIGINAL, int, longest)


def _factor(inner: Options) -> float:
    factor = option(inner, "factor", float)
    if not factor >= 1:
        raise ConfigError("config.json: rope factor", got=factor, expected="at least 1")
    return factor


_ORIGINAL = "original_max_position_embeddings"
_READERS = {
    "linear": lambda inner, longest, given: RopeScaling("linear", _factor(inner)),
    "dynamic": lambda inner, longest, given: RopeScaling(
        "dynamic", _factor(inner), original_max_positions=longest
    ),
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
