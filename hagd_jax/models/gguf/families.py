"""What each architecture of GGUF files computes, as llama.cpp's converters and graphs define it.

Much of it is stated nowhere in a file: which norms there are, the activation, Gemma's embedding
scale, which layers have windows, what queries are divided by. It follows from the architecture's
name, and in Gemma's largest models from the number of layers, just as in llama.cpp
(`src/models/gemma2.cpp`, `gemma3.cpp`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hagd_jax.brief import one_line
from hagd_jax.models.families.table import Source, Weight
from hagd_jax.models.gguf import rope, tables
from hagd_jax.models.gguf.settings import Settings

_RMS_KEYS = rope.KEYS | {"attention.layer_norm_rms_epsilon"}
_YARN_KEYS = _RMS_KEYS | rope.YARN_KEYS
_LAYER_NORM_KEYS = frozenset({"attention.layer_norm_epsilon"})
_WINDOW_KEYS = frozenset({"attention.sliding_window", "attention.sliding_window_pattern"})
_EXPERT_KEYS = frozenset(
    f"expert_{key}"
    for key in ("count", "used_count", "gating_func", "weights_norm", "weights_scale")
)
_LOCAL_BASE = "rope.freq_base_swa"
Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An architecture tells what the settings of its files mean and where its tensors go.

    Attributes:
        family: The family whose mathematics it has.
        keys: Settings that it reads, beside those of all architectures.
        fields: Settings, tensors and sizes → the other fields of `DecoderConfig`.
        table: Which tensor holds which parameter, every optional bias included.
        norms_plus_one: Norm weights w are stored as 1 + w, where the family computes with w.
        ignored: Tensors that `fields` has read.
    """

    family: str
    keys: frozenset[str]
    fields: Callable[[Settings, Source, Fields], Fields]
    table: tuple[Weight, ...]
    norms_plus_one: bool = False
    ignored: frozenset[str] = frozenset()

    __repr__ = one_line


def _rms(read: Settings, activation: str) -> Fields:
    return {
        "norm": "rms",
        "norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "activation": activation,
        "gated_mlp": True,
        "qkv_bias": False,
        "attn_out_bias": False,
        "mlp_bias": False,
    }


def _llama(read: Settings, tensors: Source, sizes: Fields) -> Fields:
    read.require("rope.dimension_count", sizes["d_head"])
    stretch = rope.scaling(read, yarn=True)
    stretch = rope.with_factors(read, stretch, tensors, sizes["d_head"] // 2)
    names = tensors.names()
    return _rms(read, "silu") | rope.rotary(read, stretch) | {
        "qkv_bias": "blk.0.attn_q.bias" in names,
        "attn_out_bias": "blk.0.attn_output.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
    }  # fmt: skip


def _qwen2(read: Settings, tensors: Source, sizes: Fields) -> Fields:
    read.require("rope.dimension_count", sizes["d_head"])
    found = _rms(read, "silu") | rope.rotary(read, rope.scaling(read, yarn=True))
    return found | {"qkv_bias": True}


def _qwen3(read: Settings, tensors: Source, sizes: Fields) -> Fields:
    return _qwen2(read, tensors, sizes) | {"qkv_bias": False, "qk_norm": "head"}


def _experts(read: Settings, each: int) -> Fields:
    """Read a mixture of experts with `each` neurons.

    llama.cpp divides the weights of a token's experts by their sum in both architectures, whatever
    the model's own configuration said; files that state another choice are refused.
    """
    read.require("expert_gating_func", 1)  # softmax
    read.require("expert_weights_norm", True)
    if read.number("expert_weights_scale", 0.0) not in (0.0, 1.0):  # zero: not said
        raise read.unsupported("expert_weights_scale", read.number("expert_weights_scale"), 1.0)
    count = read.whole("expert_count")
    return {
        "d_mlp": count * each,
        "experts": count,
        "experts_per_token": read.whole("expert_used_count"),
        "normalise_routing": True,
    }


def _mixtral(read: Settings, tensors: Source, sizes: Fields) -> Fields:
    # Old converters wrote a tensor for each expert: those files lack the joined ones, by name.
    return _llama(read, tensors, sizes) | _experts(read, sizes["d_mlp"])


def _qwen3_moe(read: Settings, tensors: Source, sizes: Fields) -> Fields:
    usual = sizes["d_mlp"] // read.whole("expert_used_count")
    each = read.whole("expert_feed_forward_length", usual)
    return _qwen3(read, tensors, sizes) | _experts(read, each)


def _gemma(read: Settings, sizes: Fields, largest: int, base: float) -> Fields:
    """Read what Gemma 2 and 3 share; `largest` is the number of layers of the 27B models."""
    read.require("rope.dimension_count", sizes["d_head"])
    found = _rms(read, "gelu_tanh") | rope.rotary(read, rope.scaling(read), base)
    width = sizes["d_model"] // sizes["n_heads"]
    scalar = width if sizes["n_layers"] == largest else sizes["d_head"]
    return found | {
        "norm_offset": True,
        "norm_placement": "both",
        "scale_embed": True,
        "query_scalar": float(scalar),
    }


def _windows(read: Settings, sizes: Fields, usual: int, period: int) -> Fields:
    """Read which layers have windows; none of them if the file's window is 0."""
    window = read.value("attention.sliding_window", usual)
    layers = read.layers("attention.sliding_window_pattern", sizes["n_layers"], period)
    if not layers or window == 0:
        return {}
    return {"window": read.whole("attention.sliding_window", usual), "window_layers": layers}


def _gemma2(read: Settings, tensors: Source, sizes: Fields) -> Fields:
    found = _gemma(read, sizes, 46, 10000.0) | _windows(read, sizes, 4096, 2)
    # All layers share one table.
    read.require(_LOCAL_BASE, found["rope_theta"])
    return found | {
        "attn_softcap": read.positive("attn_logit_softcapping", 50.0),
        "logit_softcap": read.positive("final_logit_softcapping", 30.0),
    }


def _gemma3(read: Settings, tensors: Source, sizes: Fields) -> Fields:
    found = _gemma(read, sizes, 62, 1e6) | _windows(read, sizes, 0, 6)
    found["qk_norm"] = "head"
    if "window" in found:
        found["rope_local_theta"] = read.positive(_LOCAL_BASE, 10000.0)
    if read.has("final_logit_softcapping"):
        found["logit_softcap"] = read.positive("final_logit_softcapping")
    return found


def _layer_norm(read: Settings, sizes: Fields, activation: str) -> Fields:
    # Queries, keys and values share one matrix in three equal parts.
    read.require("attention.head_count_kv", sizes["n_heads"])
    eps = read.number("attention.layer_norm_epsilon")
    return {"norm": "layer", "norm_eps": eps, "activation": activation}


def _gpt2(read: Settings, tensors: Source, sizes: Fields) -> Fields:
    return _layer_norm(read, sizes, "gelu_tanh") | {"positions": "learned"}


def _gpt_neox(read: Settings, tensors: Source, sizes: Fields) -> Fields:
    # Pythia was trained with the exact function. llama.cpp computes its approximation for every
    # model; a file does not say which.
    found = _layer_norm(read, sizes, "gelu") | rope.rotary(read, rope.scaling(read))
    return found | {
        "rotary_dim": read.whole("rope.dimension_count", sizes["d_head"]),
        "parallel_residual": read.flag("use_parallel_residual"),
    }


# Files of mistral models and of old converters hold the second one too.
_LLAMA_KEYS = _YARN_KEYS | {"attention.layer_norm_epsilon", "tensor_data_layout"}
_FACTORS = frozenset({rope.FREQUENCIES})
ARCHITECTURES = {
    "llama": Architecture("llama", _LLAMA_KEYS, _llama, tables.LLAMA, ignored=_FACTORS),
    "qwen2": Architecture("qwen2", _YARN_KEYS, _qwen2, tables.QWEN2),
    "qwen3": Architecture("qwen3", _YARN_KEYS, _qwen3, tables.QWEN3),
    "qwen3moe": Architecture(
        "qwen3_moe",
        _YARN_KEYS | _EXPERT_KEYS | {"expert_feed_forward_length"},
        _qwen3_moe,
        tables.QWEN3_MOE,
    ),
    "gemma2": Architecture(
        "gemma2",
        _RMS_KEYS
        | _WINDOW_KEYS
        | {_LOCAL_BASE, "attn_logit_softcapping", "final_logit_softcapping"},
        _gemma2,
        tables.GEMMA2,
        norms_plus_one=True,
    ),
    "gemma3": Architecture(
        "gemma3",
        _RMS_KEYS | _WINDOW_KEYS | {_LOCAL_BASE, "final_logit_softcapping"},
        _gemma3,
        tables.GEMMA3,
        norms_plus_one=True,
    ),
    "gpt2": Architecture("gpt2", _LAYER_NORM_KEYS, _gpt2, tables.GPT2),
    "gptneox": Architecture(
        "gpt_neox",
        _LAYER_NORM_KEYS | rope.KEYS | {"use_parallel_residual"},
        _gpt_neox,
        tables.GPT_NEOX,
    ),
}
# Its files call themselves llama.
MIXTRAL = Architecture(
    "mixtral", _LLAMA_KEYS | _EXPERT_KEYS, _mixtral, tables.MIXTRAL, ignored=_FACTORS
)
