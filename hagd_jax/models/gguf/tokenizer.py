"""The tokenizer inside a GGUF file, rebuilt with the `tokenizers` library.

GGUF files hold a vocabulary and, by name only, the way text is cut before it: `tokenizer.ggml.pre`.
The cuts below are those of llama.cpp (src/llama-vocab.cpp, `llm_tokenizer_bpe`), which in turn
follow each model's own `tokenizer.json`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import tokenizers
from gguf.constants import TokenType
from tokenizers import decoders, models, normalizers, pre_tokenizers

from hagd_jax.brief import quoted
from hagd_jax.models.gguf.unigram import SPACE, pieces_decoder, unigram
from hagd_jax.models.gguf.vocabulary import Vocabulary
from hagd_jax.models.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# Each list of patterns cuts what the one before it left, and keeps every piece.
_CUTS: dict[str, tuple[str, ...]] = {
    "smollm": (r"\p{N}", _GPT2),
    "gpt-2": (_GPT2,),
    "phi-2": (_GPT2,),
    "mpt": (_GPT2,),
    "olmo": (_GPT2,),  # of Pythia, too
    "default": (r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
    "llama-v3": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "deepseek-r1-qwen": (_QWEN2,),
}
_LLAMA3_NAMES = frozenset({"llama-bpe", "llama3", "llama-v3"})
_MERGED = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
# Characters of a token that is put together of others: SentencePiece's own limit is 16 unless it is
# raised (Gemma's longest has 48), and time grows with its square.
_LONGEST = 512


def gguf_tokenizer(metadata: Mapping[str, Any], where: str) -> Tokenizer | None:
    """Build the tokenizer that a GGUF file describes.

    Args:
        metadata: Of the file, see `read_header`.
        where: The file's name, for messages.

    Returns:
        The tokenizer; None if the file has none, or one of a kind that is not supported (the log
        says so), since the model itself works on token ids all the same.

    Raises:
        CheckpointError: If the vocabulary is missing, inconsistent, or has tokens twice.
    """
    model = metadata.get("tokenizer.ggml.model", "none")
    pre = metadata.get("tokenizer.ggml.pre", "default")
    # A damaged file may have anything there, arrays included.
    model, pre = (value if isinstance(value, str) else quoted(value) for value in (model, pre))
    if model in ("none", "no_vocab"):
        return None
    if model == "gpt2" and pre in _CUTS:
        vocabulary = Vocabulary(metadata, where, bos=None, eos=None)
        return vocabulary.finish(_byte_level(vocabulary, pre), add_bos=pre in _LLAMA3_NAMES)
    if model == "llama":
        vocabulary = Vocabulary(metadata, where, bos=1, eos=2)
        return vocabulary.finish(_sentence_piece(vocabulary), add_bos=True)
    if model == "t5":
        vocabulary = Vocabulary(metadata, where, bos=None, eos=1)
        return vocabulary.finish(unigram(vocabulary), add_bos=False, add_eos=True)
    _log.warning(
        "%s: the tokenizer (model %r, pre %r) is not supported, so the model is loaded without "
        "one. Supported: 'llama', 't5', and 'gpt2' with pre %s.",
        where,
        model,
        pre,
        ", ".join(_CUTS),
    )
    return None


def _byte_level(vocabulary: Vocabulary, pre: str) -> tokenizers.Tokenizer:
    """Byte-level BPE, as GPT-2 has it: merges by rank."""
    pairs = [_pair(merge, vocabulary) for merge in vocabulary.strings("merges")]
    native = vocabulary.native(
        models.BPE, merges=pairs, fuse_unk=False, ignore_merges=pre in _LLAMA3_NAMES
    )
    cuts = [pre_tokenizers.Split(tokenizers.Regex(cut), "isolated") for cut in _CUTS[pre]]
    native.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    native.decoder = decoders.ByteLevel()
    return native


def _pair(merge: str, vocabulary: Vocabulary) -> tuple[str, str]:
    """The two parts of a merge; the first may itself begin with a space."""
    cut = merge.find(" ", 1)
    if cut < 0:
        raise vocabulary.error("merges", repr(merge[:80]), "two tokens with a space between")
    return merge[:cut], merge[cut + 1 :]


def _sentence_piece(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """SentencePiece BPE: merges by the score of what they make; bytes for unknown characters."""
    unknown = vocabulary.id("unknown_token_id", 0)
    native = vocabulary.native(
        models.BPE,
        merges=_merges_by_score(vocabulary),
        unk_token=None if unknown is None else vocabulary.tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    prefix = vocabulary.flag("add_space_prefix", True)
    steps: list[Any] = [normalizers.Prepend(SPACE)] if prefix else []
    native.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    native.decoder = pieces_decoder(prefix)
    return native


def _merges_by_score(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to make a token of two others, the best-scored tokens first."""
    scores, tokens = vocabulary.scores(), vocabulary.tokens
    merged = np.isin(vocabulary.kinds, _MERGED)
    usable = {tokens[i]: i for i in np.flatnonzero(merged).tolist()}
    found: list[tuple[str, str]] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        token = tokens[i]
        if len(token) < 2 or not merged[i]:
            continue
        if len(token) > _LONGEST:
            expected = f"at most {_LONGEST}"
            raise vocabulary.error("tokens", f"one of {len(token)} characters", expected)
        pairs = [
            (usable[left], usable[token[cut:]], left, token[cut:])
            for cut in range(1, len(token))
            if (left := token[:cut]) in usable and token[cut:] in usable
        ]
        found += [(left, right) for _, _, left, right in sorted(pairs)]
    return found
