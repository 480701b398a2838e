"""Rotary positions in GGUF files."""

from __future__ import annotations

from typing import Any

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError
from hagd_jax.models.config import RopeScaling
from hagd_jax.models.families.table import Source
from hagd_jax.models.gguf.settings import Settings

FREQUENCIES = "rope_freqs.weight"
KEYS = frozenset(
    {"rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"}
    | {"rope.scale_linear", "rope.scaling.attn_factor", "rope.scaling.original_context_length"}
    | {"rope.scaling.finetuned"}  # says how a model was trained, not how it computes
)
YARN_KEYS = frozenset(
    f"rope.scaling.yarn_{name}" for name in ("beta_fast", "beta_slow", "ext_factor", "attn_factor")
)


def rotary(read: Settings, scaling: RopeScaling | None, base: Any = 10000.0) -> dict[str, Any]:
    """Read the fields of `DecoderConfig` that all rotary models have.

    Args:
        read: The settings.
        scaling: The stretching, from `scaling`.
        base: Base of the frequencies where the file gives none.

    Returns:
        Fields.

    Raises:
        CheckpointError: If the base is no positive number.
    """
    return {
        "positions": "rotary",
        "rope_theta": read.positive("rope.freq_base", base),
        "rope_scaling": scaling,
    }


def scaling(read: Settings, *, yarn: bool = False) -> RopeScaling | None:
    """Read how rotary frequencies are stretched.

    Args:
        read: The settings.
        yarn: Whether the architecture may use YaRN, with the constants of its paper: llama.cpp
            multiplies by 0.1 ln(factor) + 1, as Hugging Face does.

    Returns:
        The stretching, or None.

    Raises:
        ConfigError: If it is of a kind that we do not have.
        CheckpointError: If a number cannot be.
    """
    kind = read.value("rope.scaling.type", "none")
    factor = read.positive("rope.scaling.factor", read.number("rope.scale_linear", 1.0))
    read.require("rope.scaling.attn_factor", 1.0)
    if kind == "yarn" and yarn:
        for name in ("ext_factor", "attn_factor"):
            read.require(f"rope.scaling.yarn_{name}", 1.0)
        trained = read.whole("rope.scaling.original_context_length", read.whole("context_length"))
        return RopeScaling(
            "yarn",
            factor=factor,
            original_max_positions=trained,
            beta_fast=read.positive("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=read.positive("rope.scaling.yarn_beta_slow", 1.0),
        )
    if kind not in ("none", "linear"):
        expected = "'none', 'linear' or 'yarn'" if yarn else "'none' or 'linear'"
        raise read.unsupported("rope.scaling.type", quoted(kind), expected)
    # Older files give the factor alone.
    if factor != 1.0 and (kind == "linear" or not read.has("rope.scaling.type")):
        return RopeScaling("linear", factor=factor)
    return None


def with_factors(
    read: Settings, scaling: RopeScaling | None, tensors: Source, pairs: int
) -> RopeScaling | None:
    """Combine the stretching with the tensor of llama3 factors, if the file has one.

    Args:
        read: The settings.
        scaling: The stretching that they ask for.
        tensors: The file's tensors.
        pairs: Rotary pairs of a head.

    Returns:
        The stretching by both.

    Raises:
        CheckpointError: If the tensor does not hold one positive factor a pair.
        ConfigError: If the settings ask for YaRN as well.
    """
    if FREQUENCIES not in tensors.names():
        return scaling
    if scaling is not None and scaling.kind != "linear":
        expected = f"'none' or 'linear' beside tensor {FREQUENCIES}"
        raise read.unsupported("rope.scaling.type", quoted(scaling.kind), expected)
    if tensors.shape(FREQUENCIES) != (pairs,):
        raise CheckpointError(
            f"GGUF tensor {FREQUENCIES}",
            got=f"shape {tensors.shape(FREQUENCIES)}",
            expected=f"({pairs},), one factor a rotary pair",
        )
    factors = tensors.read(FREQUENCIES, (slice(0, pairs),)).astype(np.float64)
    if not np.all(np.isfinite(factors) & (factors > 0)):
        raise CheckpointError(
            f"GGUF tensor {FREQUENCIES}", got=factors, expected="positive numbers"
        )
    # llama.cpp applies both: the tensor a pair, the factor to all.
    factors = factors * (1.0 if scaling is None else scaling.factor)
    return RopeScaling("factors", factors=tuple(factors.tolist()))
