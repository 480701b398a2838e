"""Small GGUF files for the tests, written by the `gguf` package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType

D_MODEL, N_HEADS, N_KV, D_HEAD, D_MLP, VOCAB, LAYERS = 16, 4, 2, 6, 20, 11, 2

SETTINGS: dict[str, Any] = {
    "llama.block_count": LAYERS,
    "llama.context_length": 64,
    "llama.embedding_length": D_MODEL,
    "llama.feed_forward_length": D_MLP,
    "llama.attention.head_count": N_HEADS,
    "llama.attention.head_count_kv": N_KV,
    "llama.attention.key_length": D_HEAD,
    "llama.attention.value_length": D_HEAD,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": D_HEAD,
    "llama.rope.freq_base": 5000.0,
}

Stored = np.ndarray | tuple[np.ndarray, GGMLQuantizationType]


def tensors(seed: int = 0, *, biases: bool = False, tied: bool = False) -> dict[str, np.ndarray]:
    """Random weights of a tiny Llama, by their GGUF names, in the order a GGUF file has them."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB, D_MODEL),
        "output_norm.weight": (D_MODEL,),
    }
    if not tied:
        shapes["output.weight"] = (VOCAB, D_MODEL)
    for layer in range(LAYERS):
        block = {
            "attn_norm": (D_MODEL,),
            "ffn_norm": (D_MODEL,),
            "attn_q": (N_HEADS * D_HEAD, D_MODEL),
            "attn_k": (N_KV * D_HEAD, D_MODEL),
            "attn_v": (N_KV * D_HEAD, D_MODEL),
            "attn_output": (D_MODEL, N_HEADS * D_HEAD),
            "ffn_gate": (D_MLP, D_MODEL),
            "ffn_up": (D_MLP, D_MODEL),
            "ffn_down": (D_MODEL, D_MLP),
        }
        for name, shape in block.items():
            shapes[f"blk.{layer}.{name}.weight"] = shape
            if biases and len(shape) == 2:
                shapes[f"blk.{layer}.{name}.bias"] = shape[:1]
    return {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def write(
    path: Path,
    stored: dict[str, Stored] | dict[str, np.ndarray],
    settings: dict[str, Any] | None = None,
    architecture: str = "llama",
) -> Path:
    """Write a file; a tensor is an array, or bytes of rows with their type."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (SETTINGS if settings is None else settings).items():
        _add(writer, key, value)
    for name, tensor in stored.items():
        data, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
