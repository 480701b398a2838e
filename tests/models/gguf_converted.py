"""Model folders of Hugging Face as GGUF files, by the rules of llama.cpp's converters.

Written from the rules (`conversion/*.py` there), with explicit reshapes, so that nothing here is
shared with the tables that read the files back.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (bfloat16 tensors)
import numpy as np
from gguf.constants import GGMLQuantizationType
from safetensors import safe_open

from tests.models import gguf_tiny

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen3_moe": "qwen3moe",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gpt2": "gpt2",
    "gpt_neox": "gptneox",
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    # Mixtures of experts
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "gate_proj": "ffn_gate_exps",
    "up_proj": "ffn_up_exps",
    "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps",
    "w3": "ffn_up_exps",
    "w2": "ffn_down_exps",
    # GPT-2
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    # GPT-NeoX
    "embed_in": "token_embd",
    "final_layer_norm": "output_norm",
    "embed_out": "output",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def convert(folder: Path, path: Path, **settings: Any) -> Path:
    """Write the model of a folder; settings are added, or removed where they are None."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    tensors: dict[str, gguf_tiny.Stored] = {}
    for name, value in with_joined_experts(stored(folder)).items():
        found = gguf_name(name, config)
        if found is not None:
            tensors[found] = kept(converted(found, value, config))
    factors = llama3_factors(config)
    if factors is not None:
        tensors["rope_freqs.weight"] = factors
    architecture = ARCHITECTURES[config["model_type"]]
    given = {f"{architecture}.{key}": value for key, value in metadata(config).items()}
    given |= {f"{architecture}.{k.replace('__', '.')}": v for k, v in settings.items()}
    given = {key: value for key, value in given.items() if value is not None}
    return gguf_tiny.write(path, tensors, given, architecture)


def stored(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "np") as handle:
            found |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    return found


def with_joined_experts(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a layer's experts stacked into one a matrix, named without their numbers."""
    found: dict[str, Any] = {}
    for name, value in tensors.items():
        body, dot, expert = name.partition(".experts.")
        if not dot:
            found[name] = value
            continue
        number, _, matrix = expert.partition(".")
        found.setdefault(f"{body}.experts.{matrix}", {})[int(number)] = value
    return {
        name: np.stack([value[i] for i in range(len(value))]) if isinstance(value, dict) else value
        for name, value in found.items()
    }


def kept(value: np.ndarray) -> gguf_tiny.Stored:
    """Vectors become float32, as converters do; the writer knows bfloat16 as bytes only."""
    if value.ndim == 1:
        return value.astype(np.float32)
    value = np.ascontiguousarray(value)
    bfloat16 = value.dtype.name == "bfloat16"
    return (value.view(np.uint8), GGMLQuantizationType.BF16) if bfloat16 else value


def gguf_name(name: str, config: dict[str, Any]) -> str | None:
    """The name that the converter gives a tensor; None if it drops it."""
    body, _, end = name.rpartition(".")
    if name.endswith((".attn.bias", ".attention.bias", ".masked_bias", ".inv_freq")):
        return None
    if config.get("tie_word_embeddings", config["model_type"] == "gpt2") and body in (
        *("lm_head", "embed_out"),
    ):
        return None
    body = body.removeprefix("transformer.").removeprefix("gpt_neox.")
    for start in ("model.layers.", "h.", "layers."):
        if body.startswith(start):
            layer, _, part = body.removeprefix(start).partition(".")
            return f"blk.{layer}.{part_name(part, config)}.{end}"
    return f"{NAMES[body]}.{end}"


def part_name(part: str, config: dict[str, Any]) -> str:
    """What Hugging Face calls the norm after attention is before the MLP in most families."""
    if part == "post_attention_layernorm":
        return "post_attention_norm" if config["model_type"].startswith("gemma") else "ffn_norm"
    return NAMES[part.rpartition("experts.")[2]]


def converted(name: str, value: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """The numbers as the converter stores them."""
    kind, heads = config["model_type"], config.get("num_attention_heads", 0)
    if kind in ("llama", "mistral", "mixtral") and (".attn_q." in name or ".attn_k." in name):
        heads = heads if "attn_q" in name else config["num_key_value_heads"]
        split = value.reshape(heads, 2, len(value) // heads // 2, *value.shape[1:])
        return np.ascontiguousarray(split.swapaxes(1, 2).reshape(value.shape))
    if kind == "gpt2" and value.ndim == 2 and name.startswith("blk."):
        return np.ascontiguousarray(value.T)
    if kind == "gpt_neox" and "attn_qkv" in name:
        split = value.reshape(heads, 3, -1, *value.shape[1:])
        return np.concatenate([split[:, c].reshape(-1, *value.shape[1:]) for c in range(3)])
    if kind.startswith("gemma"):
        return for_gemma(name, value, config)
    return value


def for_gemma(name: str, value: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Norms with one added, and queries scaled, since no file says what they are divided by."""
    stretch = np.float32(math.sqrt(config["head_dim"] / config["query_pre_attn_scalar"]))
    if name.endswith("norm.weight"):
        value = value + np.float32(1)
    normed = config["model_type"] == "gemma3_text"
    if name.endswith("attn_q_norm.weight" if normed else "attn_q.weight"):
        value = value * stretch
    return value


def llama3_factors(config: dict[str, Any]) -> np.ndarray | None:
    """The factor of each rotary frequency, by the formula of Llama 3.1."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") != "llama3":
        return None
    dim, trained = config["head_dim"], scaling["original_max_position_embeddings"]
    low, high, factor = (scaling[key] for key in ("low_freq_factor", "high_freq_factor", "factor"))
    found = []
    for pair in range(dim // 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (2 * pair / dim)
        smooth = (trained / wavelength - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
        short, long = wavelength < trained / high, wavelength > trained / low
        found.append(1.0 if short else factor if long else between)
    return np.array(found, np.float32)


def metadata(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that the converter writes."""
    kind = config["model_type"]
    if kind == "gpt2":
        return {
            "block_count": config["n_layer"],
            "context_length": config["n_positions"],
            "embedding_length": config["n_embd"],
            "feed_forward_length": 4 * config["n_embd"],
            "attention.head_count": config["n_head"],
            "attention.layer_norm_epsilon": config["layer_norm_epsilon"],
        }
    found = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
    }
    d_head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") in ("linear", "yarn"):
        found["rope.scaling.type"] = scaling["rope_type"]
        found["rope.scaling.factor"] = float(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        trained = scaling["original_max_position_embeddings"]
        found["rope.scaling.original_context_length"] = trained
        found["rope.scaling.yarn_beta_fast"] = scaling["beta_fast"]
        found["rope.scaling.yarn_beta_slow"] = scaling["beta_slow"]
    if kind == "gpt_neox":
        return found | {
            "rope.dimension_count": int(config["rotary_pct"] * d_head),
            "use_parallel_residual": config["use_parallel_residual"],
            "attention.layer_norm_epsilon": config["layer_norm_eps"],
        }
    found["attention.head_count_kv"] = config["num_key_value_heads"]
    found["attention.layer_norm_rms_epsilon"] = config["rms_norm_eps"]
    found["rope.freq_base"] = float(config["rope_theta"])
    if config.get("head_dim"):
        found |= {"attention.key_length": d_head, "attention.value_length": d_head}
    if kind in ("mixtral", "qwen3_moe"):
        count = config["num_local_experts" if kind == "mixtral" else "num_experts"]
        found |= {"expert_count": count, "expert_used_count": config["num_experts_per_tok"]}
    if kind == "qwen3_moe":
        found["expert_feed_forward_length"] = config["moe_intermediate_size"]
    if kind in ("llama", "mistral", "mixtral"):
        found["rope.dimension_count"] = d_head
    if kind.startswith("gemma"):
        found["attention.sliding_window"] = config["sliding_window"]
        for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
            found[cap] = config.get(cap)
    if kind == "gemma3_text":
        found["rope.freq_base_swa"] = config["rope_local_base_freq"]
    return found
