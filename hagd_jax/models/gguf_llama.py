"""Llama models in GGUF files: configuration and weight table.

llama.cpp rotates neighbouring entries of a head, so its converter stores the rows of queries and
keys as (head, pair, member) where Hugging Face has (head, member, pair); the table undoes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.models.config import DecoderConfig, RopeScaling
from hagd_jax.models.families.table import Source, Weight, axis_sizes, dense, shape

# Settings that say nothing about the mathematics here, or that tensors' shapes say better.
_IGNORED = frozenset(
    {"vocab_size", "rope.scaling.finetuned", "rope.scaling.original_context_length"}
    | {"tensor_data_layout", "attention.layer_norm_epsilon"}
)
_READ = frozenset(
    {"block_count", "context_length", "embedding_length", "feed_forward_length"}
    | {"attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"}
    | {"attention.key_length", "attention.value_length", "attention.scale", "attention.causal"}
    | {"rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"}
    | {"rope.scale_linear", "rope.scaling.attn_factor", "use_parallel_residual"}
)
_FREQUENCIES = "rope_freqs.weight"
_MISSING = object()


def gguf_config(metadata: Mapping[str, Any], tensors: Source) -> DecoderConfig:
    """Translate the metadata of a GGUF file.

    Args:
        metadata: Of the file, see `read_header`.
        tensors: Its tensors; they tell the vocabulary, biases, tying and llama3 RoPE factors.

    Returns:
        The configuration, computing in float32.

    Raises:
        ConfigError: Naming an architecture or a setting that is not supported.
        CheckpointError: Naming a setting or a tensor that is missing or cannot be.
    """
    _whole_model(metadata)
    read = _Settings(metadata)
    names = tensors.names()
    if "token_embd.weight" not in names:
        raise CheckpointError("GGUF tensor token_embd.weight", got="none", expected="one")
    d_model, n_heads = read.whole("embedding_length"), read.whole("attention.head_count")
    if d_model % n_heads and not read.has("attention.key_length"):
        raise read.error("embedding_length", d_model, f"a multiple of head_count = {n_heads}")
    d_head = read.whole("attention.key_length", d_model // n_heads)
    _same_mathematics(read, d_head)
    config = DecoderConfig(
        family="llama",
        vocab_size=tensors.shape("token_embd.weight")[0],
        n_layers=read.whole("block_count"),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=read.whole("attention.head_count_kv", n_heads),
        d_head=d_head,
        d_mlp=read.whole("feed_forward_length"),
        max_positions=read.whole("context_length"),
        norm="rms",
        norm_eps=read.number("attention.layer_norm_rms_epsilon"),
        positions="rotary",
        rope_theta=read.number("rope.freq_base", 10000.0),
        rope_scaling=_rope_scaling(read, tensors, d_head),
        activation="silu",
        gated_mlp=True,
        qkv_bias="blk.0.attn_q.bias" in names,
        attn_out_bias="blk.0.attn_output.bias" in names,
        mlp_bias="blk.0.ffn_up.bias" in names,
        tied="output.weight" not in names,
    )
    _check_sizes(config, tensors)
    return config


def _whole_model(metadata: Mapping[str, Any]) -> None:
    """Refuse other architectures, adapters and split files."""
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ConfigError("GGUF general.type", got=quoted(kind), expected="'model'")
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise ConfigError(
            "GGUF general.architecture",
            got=quoted(architecture),
            expected="'llama'",
            mend="Load other families from safetensors.",
        )
    if metadata.get("split.count", 1) not in (0, 1):
        raise ConfigError(
            "GGUF split.count",
            got=metadata["split.count"],
            expected="1",
            mend="Join the parts with llama-gguf-split --merge.",
        )


def _same_mathematics(read: _Settings, d_head: int) -> None:
    """Refuse settings that ask for something the decoder does not do."""
    read.refuse_unknown()
    for key, only in (
        ("attention.value_length", d_head),
        ("rope.dimension_count", d_head),
        ("rope.scaling.attn_factor", 1.0),
        ("attention.causal", True),
        ("use_parallel_residual", False),
    ):
        value = read.value(key, only)
        if value != only:
            raise read.unsupported(key, value, only)
    # Zero is how llama.cpp writes "the usual scale".
    scale = read.number("attention.scale", 0.0)
    if scale and not math.isclose(scale, d_head**-0.5, rel_tol=1e-5):
        raise read.unsupported("attention.scale", scale, f"{d_head**-0.5} (1/√head size)")


def _rope_scaling(read: _Settings, tensors: Source, d_head: int) -> RopeScaling | None:
    kind = read.value("rope.scaling.type", "none")
    factor = read.number("rope.scaling.factor", read.number("rope.scale_linear", 1.0))
    if kind not in ("none", "linear"):
        raise read.unsupported("rope.scaling.type", repr(kind), "'none' or 'linear'")
    if not factor > 0:
        raise read.error("rope.scaling.factor", factor, "a positive number")
    # Older files give the factor alone.
    linear = factor != 1.0 and (kind == "linear" or not read.has("rope.scaling.type"))
    if _FREQUENCIES not in tensors.names():
        return RopeScaling("linear", factor=factor) if linear else None
    if tensors.shape(_FREQUENCIES) != (d_head // 2,):
        raise CheckpointError(
            f"GGUF tensor {_FREQUENCIES}",
            got=f"shape {tensors.shape(_FREQUENCIES)}",
            expected=f"({d_head // 2},), one factor a rotary pair",
        )
    factors = tensors.read(_FREQUENCIES, (slice(0, d_head // 2),)).astype(np.float64)
    if not np.all(np.isfinite(factors) & (factors > 0)):
        raise CheckpointError(
            f"GGUF tensor {_FREQUENCIES}", got=factors, expected="positive numbers"
        )
    # llama.cpp applies both: the tensor a pair, the factor to all.
    return RopeScaling("factors", factors=tuple((factors * (factor if linear else 1.0)).tolist()))


def _check_sizes(config: DecoderConfig, tensors: Source) -> None:
    """Hold the settings against the tensors, so that no absurd size gets any further."""
    last = f"blk.{config.n_layers - 1}.attn_norm.weight"
    if last not in tensors.names():
        raise CheckpointError(
            "GGUF llama.block_count", got=config.n_layers, expected=f"a file with tensor {last}"
        )
    sizes = axis_sizes(config)
    for weight in GGUF_TABLE:
        name = weight.tensor(0)
        if name in tensors.names() and tensors.shape(name) != shape(weight.stored, sizes):
            raise CheckpointError(
                f"GGUF tensor {name}",
                got=f"shape {tensors.shape(name)}",
                expected=f"{shape(weight.stored, sizes)}, from the metadata",
            )


class _Settings:
    """The `llama.*` part of the metadata."""

    def __init__(self, metadata: Mapping[str, Any]):
        self.values = {
            key.removeprefix("llama."): value
            for key, value in metadata.items()
            if key.startswith("llama.")
        }

    def has(self, key: str) -> bool:
        """Whether the file says anything about it."""
        return key in self.values

    def error(self, key: str, got: object, expected: str) -> CheckpointError:
        """The file is damaged."""
        return CheckpointError(f"GGUF llama.{key}", got=got, expected=expected)

    def unsupported(self, key: str, got: object, expected: object) -> ConfigError:
        """The file asks for something we do not do."""
        return ConfigError(f"GGUF llama.{key}", got=got, expected=f"{expected}")

    def value(self, key: str, default: Any = _MISSING) -> Any:
        """A setting; an array must hold the same for every layer."""
        value = self.values.get(key, default)
        if value is _MISSING:
            raise self.error(key, "nothing", "a value")
        if not isinstance(value, np.ndarray):
            return value
        if not value.size or np.any(value != value[0]):
            raise self.unsupported(key, str(value)[:80], "the same for every layer")
        return value[0].item()

    def whole(self, key: str, default: Any = _MISSING) -> int:
        """A positive whole number."""
        value = self.value(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
            return value
        raise self.error(key, repr(value)[:80], "a positive whole number")

    def number(self, key: str, default: Any = _MISSING) -> float:
        """A finite number that is not negative."""
        value = self.value(key, default)
        if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
            return float(value)
        raise self.error(key, repr(value)[:80], "a finite number, not negative")

    def refuse_unknown(self) -> None:
        """Raise for the first setting that is neither known nor switched off."""
        for key in sorted(self.values.keys() - _READ - _IGNORED):
            if self.value(key):
                raise self.unsupported(key, repr(self.values[key])[:80], "no such setting")


_LAYER = "blk.{layer}."

GGUF_TABLE = (
    Weight("embed/embedding", "token_embd.weight", "v e"),
    Weight("blocks/norm1/scale", _LAYER + "attn_norm.weight", "e"),
    *dense("attn/q", _LAYER + "attn_q", "(h j t) e", "e h (t j)", "(h j t)", "h (t j)"),
    *dense("attn/k", _LAYER + "attn_k", "(k j t) e", "e k (t j)", "(k j t)", "k (t j)"),
    *dense("attn/v", _LAYER + "attn_v", "(k d) e", "e k d", "(k d)", "k d"),
    *dense("attn/o", _LAYER + "attn_output", "e (h d)", "h d e", "e"),
    Weight("blocks/norm2/scale", _LAYER + "ffn_norm.weight", "e"),
    *dense("mlp/gate", _LAYER + "ffn_gate", "m e", "e m", "m"),
    *dense("mlp/in", _LAYER + "ffn_up", "m e", "e m", "m"),
    *dense("mlp/out", _LAYER + "ffn_down", "e m", "m e", "e"),
    Weight("norm_f/scale", "output_norm.weight", "e"),
    Weight("unembed/kernel", "output.weight", "v e", "e v"),
)
