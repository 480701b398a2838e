"""The configuration that the metadata of a GGUF file describes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families.table import Source, Weight, axis_sizes
from hagd_jax.models.gguf.families import ARCHITECTURES, MIXTRAL, Architecture
from hagd_jax.models.gguf.settings import Settings

# Of every architecture; the tensors' shapes say better how large the vocabulary is.
_KEYS = frozenset(
    {"block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"}
    | {"attention.head_count", "attention.head_count_kv", "attention.key_length"}
    | {"attention.value_length", "attention.scale", "attention.causal", "use_parallel_residual"}
)


def architecture_of(metadata: Mapping[str, Any]) -> Architecture:
    """Find what kind of model a GGUF file holds.

    Args:
        metadata: Of the file, see `read_header`.

    Returns:
        Its architecture.

    Raises:
        ConfigError: If the architecture is not supported, or the file is no whole model.
    """
    kind = metadata.get("general.type", "model")
    if not (isinstance(kind, str) and kind == "model"):
        raise ConfigError("GGUF general.type", got=quoted(kind), expected="'model'")
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ConfigError(
            "GGUF general.architecture",
            got=quoted(name),
            expected=f"one of {', '.join(ARCHITECTURES)}",
            mend="Load other families from safetensors.",
        )
    parts = metadata.get("split.count", 1)
    if not (isinstance(parts, int) and parts in (0, 1)):
        raise ConfigError(
            "GGUF split.count",
            got=quoted(parts),
            expected="1",
            mend="Join the parts with llama-gguf-split --merge.",
        )
    experts = metadata.get("llama.expert_count")
    if name == "llama" and isinstance(experts, int) and experts:
        return MIXTRAL
    return ARCHITECTURES[name]


def gguf_config(metadata: Mapping[str, Any], tensors: Source) -> DecoderConfig:
    """Translate the metadata of a GGUF file.

    Args:
        metadata: Of the file, see `read_header`.
        tensors: Its tensors; they tell the vocabulary, biases, tying and llama3 RoPE factors. A
            file with `output.weight` has an unembedding of its own, and it is used.

    Returns:
        The configuration, computing in float32.

    Raises:
        ConfigError: Naming an architecture or a setting that is not supported.
        CheckpointError: Naming a setting or a tensor that is missing or cannot be.
    """
    architecture = architecture_of(metadata)
    read = Settings(metadata, metadata["general.architecture"])
    if "token_embd.weight" not in tensors.names():
        raise CheckpointError("GGUF tensor token_embd.weight", got="none", expected="one")
    read.refuse_unknown(_KEYS | architecture.keys)
    sizes = _sizes(read, tensors)
    # Values as wide as keys, and no attention to what comes later: the decoder has no other.
    read.require("attention.value_length", sizes["d_head"])
    read.require("attention.causal", True)
    found = sizes | architecture.fields(read, tensors, sizes)
    if not found.get("parallel_residual"):
        read.require("use_parallel_residual", False)
    _check_scale(read, math.sqrt(found.get("query_scalar") or sizes["d_head"]))
    config = DecoderConfig(family=architecture.family, **found)
    _check_shapes(config, tensors, architecture.table)
    return config


def _sizes(read: Settings, tensors: Source) -> dict[str, Any]:
    d_model, n_heads = read.whole("embedding_length"), read.whole("attention.head_count")
    if d_model % n_heads and not read.has("attention.key_length"):
        raise read.error("embedding_length", d_model, f"a multiple of head_count = {n_heads}")
    names, n_layers = tensors.names(), read.whole("block_count")
    last = f"blk.{n_layers - 1}.attn_norm.weight"
    if last not in names:
        raise read.error("block_count", n_layers, f"a file with tensor {last}")
    return {
        "vocab_size": tensors.shape("token_embd.weight")[0],
        "n_layers": n_layers,
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": read.whole("attention.head_count_kv", n_heads),
        "d_head": read.whole("attention.key_length", d_model // n_heads),
        "d_mlp": read.whole("feed_forward_length"),
        "max_positions": read.whole("context_length"),
        "tied": "output.weight" not in names,
    }


def _check_scale(read: Settings, divisor: float) -> None:
    # Zero is how llama.cpp writes "the usual scale".
    scale = read.number("attention.scale", 0.0)
    if scale and not math.isclose(scale, 1 / divisor, rel_tol=1e-5):
        raise read.unsupported("attention.scale", scale, f"{1 / divisor} (1/{divisor:g})")


def _check_shapes(config: DecoderConfig, tensors: Source, table: tuple[Weight, ...]) -> None:
    """Hold the settings against the tensors, so that no absurd size gets any further."""
    sizes = axis_sizes(config)
    for weight in table:
        name, want = weight.tensor(0), weight.stored_shape(sizes)
        if name in tensors.names() and tensors.shape(name) != want:
            raise CheckpointError(
                f"GGUF tensor {name}",
                got=f"shape {tensors.shape(name)}",
                expected=f"{want}, from the metadata",
            )
