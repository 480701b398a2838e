"""Write golden files for the GGUF tests with llama.cpp: token ids and dequantized blocks.

    python -m experiments.parity.gguf_goldens

Needs `pip install llama-cpp-python` (a C++ build of several minutes); takes a few seconds.

- `tests/models/goldens/gguf_tokenizers.json` has seven small vocabularies, each written into a GGUF
  file, and llama.cpp's ids of some texts. The vocabularies are trained without pre-tokenization, so
  that a wrong split of a text gives wrong merges. `gemma` is the SentencePiece one with runs of
  spaces and lines that are user-defined, and no space in front.
- `tests/models/goldens/gguf_blocks.npz` has random numbers quantized by ggml to each type we read
  (`<type>_bytes`) and dequantized to float32 by ggml (`<type>_values`).
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
from gguf.constants import GGML_QUANT_SIZES, TokenType
from tokenizers import models, pre_tokenizers, trainers

from experiments.common.script import ROOT, need, run
from experiments.parity.tokenizer import FIXED
from hagd_jax.models.gguf.header import SUPPORTED

PRE = ("smollm", "gpt-2", "default", "llama-bpe", "qwen2")
BLOCK_TYPES = tuple(
    kind for kind in SUPPORTED if kind.name not in ("F32", "F16", "BF16")
)  # fmt: skip
SPECIAL = ["<unk>", "<s>", "</s>"]
CORPUS = [
    "it's 2024 and they're 12345 days, aren't we?  I'll go;  we'd (not) [do] {it}!",
    "def f(x):\n    return x+1\n\n\n\tif a == b:\r\n\t\tprint('x', 10, 200, 3000)\n   ",
    "The DON'T'S... 1,000,000 + 3.14 = $5.00 <tag> a~b ^c | d >= e",
    "aaaaaaaaaaaaa aaaaa aaa        aa    a",
    "Ελλάδα Россия 日本語 naïve café — “quoted” 😀😀",
] * 2  # fmt: skip


def byte_level() -> tuple[list[str], list[str]]:
    """Train a byte-level BPE, and return its tokens and merges."""
    native = tokenizers.Tokenizer(models.BPE())
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    native.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return _tokens(native), [" ".join(pair) for pair in _merges(native)]


def sentence_piece() -> tuple[list[str], list[float]]:
    """Train a SentencePiece BPE with all bytes, and return its tokens and scores."""
    native = tokenizers.Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=260, special_tokens=SPECIAL, show_progress=False)
    # Newlines and tabs are encoded as bytes, as in Llama's own vocabulary.
    lines = [line.translate(dict.fromkeys(map(ord, " \n\r\t"), "\u2581")) for line in CORPUS]
    native.train_from_iterator(lines, trainer)
    pieces = _tokens(native)[len(SPECIAL) :]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    # As in trained models: later merges score less, single characters least.
    order = {left + right: i for i, (left, right) in enumerate(_merges(native))}
    return tokens, [-float(order.get(token, len(order))) for token in tokens]


def gemma() -> dict[str, Any]:
    """Return the SentencePiece vocabulary as Gemma's files have theirs.

    Runs of spaces, lines and tabs are user-defined, with a score that means nothing.
    """
    tokens, scores = sentence_piece()
    runs = [char * n for char, most in ((" ", 5), ("\n", 4), ("\t", 3)) for n in range(2, most)]
    added = [*runs, "\n", "<table>", "<tab"]
    return {
        "name": "gemma",
        "model": "llama",
        "add_space_prefix": False,
        "tokens": [*tokens, *added],
        "token_type": token_types(tokens) + [TokenType.USER_DEFINED.value] * len(added),
        "scores": scores + [-1000.0] * len(added),
    }


def _tokens(native: tokenizers.Tokenizer) -> list[str]:
    vocabulary = native.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _merges(native: tokenizers.Tokenizer) -> list[tuple[str, str]]:
    return [(left, right) for left, right in json.loads(native.to_str())["model"]["merges"]]


def token_types(tokens: list[str]) -> list[int]:
    """Return the GGUF type of each token: unknown, control, byte or normal."""
    kinds = {"<unk>": TokenType.UNKNOWN, "<s>": TokenType.CONTROL, "</s>": TokenType.CONTROL}
    return [
        kinds.get(t, TokenType.BYTE if t.startswith("<0x") else TokenType.NORMAL).value
        for t in tokens
    ]


def ids(case: dict[str, Any], folder: Path) -> list[list[int]]:
    """Return llama.cpp's ids of the texts, with the beginning token if the vocabulary adds it."""
    import llama_cpp  # pyright: ignore[reportMissingImports]

    path = folder / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_feed_forward_length(64)
    writer.add_tokenizer_model(case["model"])
    if case["model"] == "gpt2":
        writer.add_tokenizer_pre(case["pre"])
        writer.add_token_merges(case["merges"])
    else:
        writer.add_token_scores(case["scores"])
        writer.add_add_space_prefix(case.get("add_space_prefix", True))
    writer.add_token_list(case["tokens"])
    writer.add_token_types(case["token_type"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    peer = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return [peer.tokenize(text.encode(), True, True) for text in case["texts"]]


def tokenizer_goldens() -> list[dict[str, Any]]:
    """Return one case for each pre-tokenizer, and two for SentencePiece."""
    texts = [*CORPUS[:5], *FIXED]
    tokens, merges = byte_level()
    common = {"tokens": tokens, "token_type": token_types(tokens), "merges": merges}
    cases: list[dict[str, Any]] = [{"model": "gpt2", "pre": pre, **common} for pre in PRE]
    tokens, scores = sentence_piece()
    cases.append(
        {
            "model": "llama",
            "tokens": tokens,
            "token_type": token_types(tokens),
            "scores": scores,
        }
    )
    cases.append(gemma())
    for case in cases:
        case["texts"] = texts
        with tempfile.TemporaryDirectory() as folder:
            case["ids"] = ids(case, Path(folder))
    # Stored once, since the byte-level cases differ only in the name of the pre-tokenizer.
    shared = {key: cases[0][key] for key in ("tokens", "token_type", "merges", "texts")}
    return [
        {"shared": shared},
        *({k: v for k, v in c.items() if shared.get(k) != v} for c in cases),
    ]


def block_goldens() -> dict[str, np.ndarray]:
    """Quantize and dequantize two rows of 512 numbers with ggml, for each type."""
    package = importlib.util.find_spec("llama_cpp")
    assert package is not None
    folder = Path(package.origin or "").parent / "lib"
    ggml = ctypes.CDLL(str(next(folder.glob("libggml-base*"))))
    values = np.random.default_rng(0).normal(size=(2, 512)).astype(np.float32)
    values[0, 300] = 20.0
    values[1, :256] = 0.0
    found: dict[str, np.ndarray] = {"values": values}
    everything = np.ones(512, np.float32)  # how much each column matters; some types need it
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    for kind in BLOCK_TYPES:
        block, block_bytes = GGML_QUANT_SIZES[kind]
        stored = np.zeros((2, 512 // block * block_bytes), np.uint8)
        back = np.zeros_like(values)
        written = ggml.ggml_quantize_chunk(
            ctypes.c_int(kind.value), _at(values), _at(stored), ctypes.c_int64(0),
            ctypes.c_int64(2), ctypes.c_int64(512), _at(everything),
        )  # fmt: skip
        assert written == stored.nbytes, kind.name
        name = kind.name.lower().replace("_k", "_K") if kind.name[0] == "Q" else kind.name.lower()
        dequantize = getattr(ggml, f"dequantize_row_{name}")
        dequantize(_at(stored), _at(back), ctypes.c_int64(values.size))
        found[f"{kind.name}_bytes"], found[f"{kind.name}_values"] = stored, back
    return found


def _at(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


@dataclasses.dataclass(frozen=True)
class Config:
    """Config holds the settings for writing llama.cpp's goldens.

    Attributes:
        out: Folder that they are written to.
    """

    out: Path = ROOT / "tests" / "models" / "goldens"


def main(config: Config) -> None:
    """Write both golden files."""
    need("llama_cpp", install="pip install llama-cpp-python")
    config.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(tokenizer_goldens(), separators=(",", ":"))
    (config.out / "gguf_tokenizers.json").write_text(text, "utf-8")
    arrays: Any = block_goldens()
    np.savez_compressed(config.out / "gguf_blocks.npz", **arrays)


if __name__ == "__main__":
    run(main, Config, __doc__)
