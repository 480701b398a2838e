"""The small models of `parity/hf_goldens.py`: Qwen, Gemma, Mistral, OLMo 2, Phi-3, long contexts.

Windows are shorter than the twelve tokens, soft caps low enough to bend, and stretched rotations
have a base at which some pairs turn fast, some slowly and some in between.
"""

from __future__ import annotations

from typing import Any

from experiments.parity.hf_cases import Case

SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
GEMMA = SMALL | {"head_dim": 6}
BASE: dict[str, dict[str, Any]] = {
    "Qwen2": SMALL,
    "Qwen3": SMALL | {"head_dim": 6},
    "Gemma": GEMMA,
    "Gemma2": GEMMA | {"query_pre_attn_scalar": 5, "sliding_window": 4},
    "Gemma3": GEMMA | {"query_pre_attn_scalar": 5, "sliding_window": 4},
    "Mistral": SMALL,
    "Olmo2": SMALL,
    "Phi3": SMALL,
}

FULL, SLIDING = "full_attention", "sliding_attention"
# Of the four wavelengths 2π·100^(j/4), two are blended.
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 2.0,
    "beta_slow": 0.25,
}
EIGHT = {"head_dim": 8, "rope_theta": 100.0}
LONGROPE: dict[str, Any] = {
    "type": "longrope",
    "long_factor": [1.5, 3.0],
    "short_factor": [1.0, 1.25],
}
NESTED = {
    FULL: {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
    SLIDING: {"rope_type": "default", "rope_theta": 50.0},
}

CASES = [
    Case(
        "qwen2_window",
        "Qwen2",
        {
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    Case("qwen2_shards", "Qwen2", {"rope_theta": 500.0}, shard_size="12KB"),
    Case(
        "qwen3_window",
        "Qwen3",
        {
            "num_hidden_layers": 3,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 3,
            "layer_types": [SLIDING, FULL, SLIDING],
        },
    ),
    Case(
        "qwen3_yarn",
        "Qwen3",
        EIGHT | {"rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 1.5}},
        dtype="bfloat16",
    ),
    Case("gemma", "Gemma", {"num_key_value_heads": 1, "attention_bias": True}),
    Case(
        "gemma2",
        "Gemma2",
        {
            "num_hidden_layers": 4,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 2.0,
        },
    ),
    Case(
        "gemma2_options",
        "Gemma2",
        {
            "num_hidden_layers": 3,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "hidden_activation": "silu",
            "layer_types": [FULL, SLIDING, SLIDING],
            "tie_word_embeddings": False,
        },
        dtype="bfloat16",
        shard_size="12KB",
    ),
    Case(
        "gemma3",
        "Gemma3",
        {
            "num_hidden_layers": 7,
            "intermediate_size": 12,
            "num_key_value_heads": 1,
            "rope_theta": 500.0,
            "rope_local_base_freq": 50.0,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "final_logit_softcapping": 3.0,
        },
    ),
    Case(
        "gemma3_pattern",
        "Gemma3",
        {"num_hidden_layers": 3, "sliding_window_pattern": 2, "attention_bias": True},
    ),
    Case("mistral_window", "Mistral", {"sliding_window": 4, "head_dim": 6}),
    Case("mistral_full", "Mistral", {"sliding_window": None}, shard_size="12KB"),
    Case("olmo2", "Olmo2", {"attention_bias": True}),
    Case("olmo2_linear", "Olmo2", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    Case(
        "phi3_long",
        "Phi3",
        {
            "original_max_position_embeddings": 8,
            "rope_scaling": LONGROPE,
            "rope_theta": 100.0,
            "sliding_window": 5,
        },
    ),
    Case(
        "phi3_short",
        "Phi3",
        {
            "hidden_size": 32,
            "num_key_value_heads": 4,
            "original_max_position_embeddings": 16,
            "partial_rotary_factor": 0.5,
            "rope_scaling": LONGROPE,
            "tie_word_embeddings": True,
        },
        shard_size="12KB",
    ),
    Case("llama_yarn", "Llama", EIGHT | {"rope_scaling": YARN | {"attention_factor": 0.6}}),
    Case(
        "v5_qwen2",
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0},
        release=5,
    ),
    Case(
        "v5_qwen3_yarn",
        "Qwen3",
        {
            "head_dim": 8,
            "rope_parameters": YARN | {"rope_theta": 100.0, "truncate": False},
            "tie_word_embeddings": True,
        },
        release=5,
    ),
    Case("v5_gemma", "Gemma", release=5, dtype="bfloat16"),
    Case("v5_gemma2", "Gemma2", {"attn_logit_softcapping": 1.0}, release=5, shard_size="12KB"),
    Case(
        "v5_gemma3",
        "Gemma3",
        {
            "num_hidden_layers": 3,
            "layer_types": [SLIDING, FULL, SLIDING],
            "rope_parameters": NESTED,
        },
        release=5,
    ),
    Case("v5_mistral", "Mistral", {"sliding_window": 5}, release=5),
    Case(
        "v5_olmo2",
        "Olmo2",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 900.0}},
        release=5,
    ),
    Case(
        "v5_phi3_long",
        "Phi3",
        {
            "original_max_position_embeddings": 8,
            "rope_parameters": LONGROPE | {"rope_type": "longrope", "rope_theta": 100.0},
        },
        release=5,
    ),
]
