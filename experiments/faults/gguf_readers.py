"""Good GGUF files: a Llama, a mixture of experts, and each kind of vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, HEADS, KV, MLP, EXPERTS, VOCAB = 8, 2, 1, 12, 4, 12
ATTENTION = {
    "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH // HEADS, WIDTH), "attn_v": (WIDTH // HEADS, WIDTH),
    "attn_output": (WIDTH, WIDTH),
}  # fmt: skip
DENSE = {"ffn_gate": (MLP, WIDTH), "ffn_up": (MLP, WIDTH), "ffn_down": (WIDTH, MLP)}
MIXED = {
    "attn_q_norm": (WIDTH // HEADS,), "attn_k_norm": (WIDTH // HEADS,),
    "ffn_gate_inp": (EXPERTS, WIDTH), "ffn_gate_exps": (EXPERTS, MLP, WIDTH),
    "ffn_up_exps": (EXPERTS, MLP, WIDTH), "ffn_down_exps": (EXPERTS, WIDTH, MLP),
}  # fmt: skip
PIECES = ["<unk>", "<s>", "</s>", "\u2581", *"abcdef", "ab", "\u2581ab"]
SCORES = [-float(i) for i in range(VOCAB)]
TYPES = [2, 3, 3, *[1] * 9]


def table() -> bytes:
    """Return SentencePiece's table that replaces text, a trie of 256 units a node: "A" by "a"."""
    units, place = np.zeros(512, np.uint32), ord("A")
    units[place] = (place ^ 256) << 10 | 1 << 8 | place
    units[256] = 1 << 31
    return (4 * len(units)).to_bytes(4, "little") + units.astype("<u4").tobytes() + b"a\0"


def made_llama(folder: Path) -> list[Path]:
    """Write a small Llama with a SentencePiece vocabulary as a GGUF file."""
    return _written(folder, "llama", ATTENTION | DENSE, {}, "llama",
                    tokens=PIECES, scores=SCORES, token_type=TYPES)  # fmt: skip


def made_mixture(folder: Path) -> list[Path]:
    """Write a small mixture of experts, Qwen 3's, with a byte-level vocabulary."""
    counts = {"expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": MLP}
    return _written(folder, "qwen3moe", ATTENTION | MIXED, counts, "gpt2", pre="qwen2",
                    tokens=["<|end|>", *"abcdefgh", "ab", "cd", "abcd"],
                    merges=["a b", "c d", "ab cd"], token_type=[3, *[1] * 11])  # fmt: skip


def made_unigram(folder: Path) -> list[Path]:
    """Write a small Llama with SentencePiece's unigram vocabulary, which GGUF calls `t5`."""
    return _written(folder, "llama", ATTENTION | DENSE, {}, "t5", tokens=PIECES, scores=SCORES,
                    token_type=TYPES, add_space_prefix=True, eos_token_id=2, unknown_token_id=0,
                    precompiled_charsmap=table())  # fmt: skip


def _written(
    folder: Path, architecture: str, block: Mapping[str, tuple[int, ...]],
    more: Mapping[str, int], tokenizer: str, **vocabulary: Any,
) -> list[Path]:  # fmt: skip
    """Write a file of one layer; its numbers are noise."""
    rng, path = np.random.default_rng(0), folder / "model.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    sizes = {"block_count": 1, "context_length": 16, "embedding_length": WIDTH,
             "feed_forward_length": MLP, "attention.head_count": HEADS,
             "attention.head_count_kv": KV, "rope.dimension_count": WIDTH // HEADS,
             **more}  # fmt: skip
    for name, value in sizes.items():
        writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model(tokenizer)
    for name, value in vocabulary.items():
        key = f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    shapes = {"token_embd": (VOCAB, WIDTH), "output_norm": (WIDTH,), "output": (VOCAB, WIDTH)}
    for name, shape in (shapes | {f"blk.0.{name}": shape for name, shape in block.items()}).items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [path]
