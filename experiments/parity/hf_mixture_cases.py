"""The small models of `parity/hf_goldens.py` with mixtures of experts: Qwen 3 and Mixtral."""

from __future__ import annotations

from typing import Any

from experiments.parity.hf_cases import Case
from experiments.parity.hf_family_cases import SMALL

BASE: dict[str, dict[str, Any]] = {
    "Qwen3Moe": SMALL
    | {"head_dim": 6, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 10},
    "Mixtral": SMALL | {"intermediate_size": 12, "num_local_experts": 4, "num_experts_per_tok": 2},
}

# Dense layers 0 and 2 by the step and 1 by name; their 24 neurons fill two experts and a part.
STEPS = {"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [1]}

CASES = [
    Case("qwen3_moe", "Qwen3Moe", {"attention_bias": True}),
    Case(
        "qwen3_moe_normalised",
        "Qwen3Moe",
        {"norm_topk_prob": True, "num_experts": 6, "num_experts_per_tok": 3, "rope_theta": 500.0},
        dtype="bfloat16",
        shard_size="12KB",
    ),
    Case("qwen3_moe_steps", "Qwen3Moe", STEPS | {"tie_word_embeddings": True}),
    Case(
        "qwen3_moe_window",
        "Qwen3Moe",
        {
            "norm_topk_prob": True,
            "use_sliding_window": True,
            "sliding_window": 4,
            "mlp_only_layers": [0],
            "intermediate_size": 30,
        },
    ),
    Case("mixtral", "Mixtral", {"router_jitter_noise": 0.5}, dtype="bfloat16"),
    Case(
        "mixtral_window",
        "Mixtral",
        {"sliding_window": 4, "head_dim": 6, "num_local_experts": 3, "num_experts_per_tok": 1},
        shard_size="12KB",
    ),
    Case(
        "v5_qwen3_moe",
        "Qwen3Moe",
        {
            "norm_topk_prob": True,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 900.0},
        },
        release=5,
    ),
    Case(
        "v5_qwen3_moe_steps",
        "Qwen3Moe",
        STEPS | {"use_sliding_window": True, "sliding_window": 5},
        release=5,
        shard_size="12KB",
    ),
    Case(
        "v5_qwen3_moe_fused",
        "Qwen3Moe",
        {"mlp_only_layers": [1], "num_hidden_layers": 3},
        release=5,
        as_computed=True,
    ),
    Case("v5_mixtral", "Mixtral", {"num_experts_per_tok": 3}, release=5, dtype="bfloat16"),
    Case("v5_mixtral_window", "Mixtral", {"sliding_window": 3}, release=5),
    Case("v5_mixtral_fused", "Mixtral", release=5, as_computed=True, shard_size="12KB"),
]
