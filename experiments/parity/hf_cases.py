"""The small models of `parity/hf_goldens.py`: GPT-2, GPT-NeoX and Llama."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Case:
    """Case describes a golden model folder.

    Attributes:
        name: Name of the folder.
        family: Prefix of the configuration and model class, such as GPT2, GPTNeoX or Llama.
        options: Changes to the family's small base configuration.
        release: Major release of `transformers` that writes it.
        shard_size: Largest weights file, in the format of `save_pretrained`, such as "1GB".
        dtype: Dtype of the stored weights; expected values are computed from them in float32.
        as_on_hub: Rename and add tensors to match the family's published checkpoints.
        as_computed: Store tensors as release 5 computes with them, experts in one, rather than in
            the published form.
    """

    name: str
    family: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    release: int = 4
    shard_size: str = "1GB"
    dtype: str = "float32"
    as_on_hub: bool = False
    as_computed: bool = False


def eager(version: str) -> dict[str, str]:
    """Return how `from_pretrained` is told to compute in the plainest way.

    Fused attention ignores two options of GPT-2, and grouped products of experts, from release 5
    on, ask for wider ones than those of the cases.
    """
    plain = {"attn_implementation": "eager"}
    return plain if version.startswith("4") else plain | {"experts_implementation": "eager"}


BASE: dict[str, dict[str, Any]] = {
    "GPT2": {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
    "GPTNeoX": {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": 32,
    },
    "Llama": {
        "vocab_size": 61,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5,
    },
}

# Of the four wavelengths 2π·100^(j/4), one stays, one is blended and two are stretched.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

CASES = [
    Case("gpt2", "GPT2"),
    Case(
        "gpt2_options",
        "GPT2",
        {
            "n_inner": 24,
            "activation_function": "relu",
            "scale_attn_by_inverse_layer_idx": True,
            "scale_attn_weights": False,
            "layer_norm_epsilon": 1e-3,
        },
    ),
    Case("gpt2_inverse_layer", "GPT2", {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3}),
    Case("gpt2_untied", "GPT2", {"tie_word_embeddings": False, "activation_function": "gelu"}),
    Case("gpt2_hub", "GPT2", as_on_hub=True),
    Case("neox_parallel", "GPTNeoX", {"rotary_pct": 0.25}),
    Case(
        "neox_sequential",
        "GPTNeoX",
        {
            "use_parallel_residual": False,
            "rotary_pct": 1.0,
            "rotary_emb_base": 500,
            "attention_bias": False,
            "hidden_act": "gelu_fast",
        },
    ),
    Case("neox_hub", "GPTNeoX", {"rotary_pct": 0.5}, as_on_hub=True, dtype="float16"),
    Case(
        "neox_linear",
        "GPTNeoX",
        {
            "rotary_pct": 0.5,
            "tie_word_embeddings": True,
            "rope_scaling": {"rope_type": "linear", "factor": 3.0},
        },
    ),
    Case("llama_mha", "Llama", {"tie_word_embeddings": False, "rms_norm_eps": 1e-2}),
    Case(
        "llama_gqa_shards",
        "Llama",
        {"num_key_value_heads": 2, "rope_theta": 500.0},
        shard_size="12KB",
    ),
    Case(
        "llama_mqa_tied",
        "Llama",
        {"num_key_value_heads": 1, "tie_word_embeddings": True, "hidden_act": "gelu"},
    ),
    Case("llama_biases", "Llama", {"attention_bias": True, "mlp_bias": True}),
    Case("llama_head_dim", "Llama", {"head_dim": 6, "num_key_value_heads": 2}),
    Case("llama_linear", "Llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    Case(
        "llama_dynamic",
        "Llama",
        {"max_position_embeddings": 8, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    ),
    Case(
        "llama_llama3",
        "Llama",
        {
            "head_dim": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "rope_theta": 100.0,
            "rope_scaling": LLAMA3,
        },
    ),
    Case("llama_bfloat16", "Llama", {"num_key_value_heads": 2}, dtype="bfloat16"),
    Case("v5_gpt2", "GPT2", release=5),
    Case(
        "v5_neox",
        "GPTNeoX",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 700.0,
                "partial_rotary_factor": 0.25,
            }
        },
        release=5,
    ),
    Case(
        "v5_llama",
        "Llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 900.0}},
        release=5,
    ),
    Case(
        "v5_llama_linear",
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 900.0, "factor": 2.0}},
        release=5,
        shard_size="12KB",
    ),
    Case(
        "v5_llama_dynamic",
        "Llama",
        {
            "max_position_embeddings": 8,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 900.0, "factor": 3.0},
        },
        release=5,
    ),
    Case(
        "v5_llama_llama3",
        "Llama",
        {
            "head_dim": 8,
            "max_position_embeddings": 64,
            "rope_parameters": {"rope_theta": 100.0} | LLAMA3,
            "tie_word_embeddings": True,
        },
        release=5,
        dtype="bfloat16",
    ),
]
