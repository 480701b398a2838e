"""SentencePiece's unigram model out of a GGUF file, which calls it `t5`.

A text is cut into the tokens whose scores, log-probabilities, have the largest sum. Before that a
table of the file, SentencePiece's own `precompiled_charsmap`, may rewrite characters (NFKC). The
defaults are those of llama.cpp (src/llama-vocab.cpp, `LLAMA_VOCAB_TYPE_UGM`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tokenizers
from gguf.constants import TokenType
from tokenizers import decoders, models, normalizers

from hagd_jax.models.gguf.vocabulary import Vocabulary

SPACE = "\u2581"  # ▁, how SentencePiece writes a space
_CHARSMAP = "precompiled_charsmap"
# What a text is cut into: all others stand for bytes, or for what no text holds.
_CUT = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
# Bytes of the longest sequence that a table rewrites; published ones stay below 20.
_DEEPEST = 128
_AT_ONCE = 4096


def unigram(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Build the tokenizer of a unigram model.

    Args:
        vocabulary: Of the file.

    Returns:
        The tokenizer, without a template. Unknown characters become bytes if the vocabulary has a
        token for each byte.

    Raises:
        CheckpointError: If scores are not finite, no token stands for what is unknown, or the
            table of characters is damaged.
    """
    unknown = vocabulary.id("unknown_token_id", 2)
    if unknown is None:
        raise vocabulary.error("unknown_token_id", "none", "the id of a token")
    native = vocabulary.native(
        models.Unigram,
        list(zip(vocabulary.tokens, _scores(vocabulary), strict=True)),
        unk_id=unknown,
        byte_fallback=all(f"<0x{byte:02X}>" in vocabulary.ids for byte in range(256)),
    )
    prefix = vocabulary.flag("add_space_prefix", False)
    steps: list[Any] = []
    if table := _table(vocabulary):
        steps.append(normalizers.Precompiled(table))
    if vocabulary.flag("remove_extra_whitespaces", False):
        steps += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    if prefix:
        steps.append(normalizers.Prepend(SPACE))
    native.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    native.decoder = pieces_decoder(prefix)
    return native


def pieces_decoder(prefix: bool) -> Any:
    """Return the decoder of SentencePiece's tokens; `prefix` if texts began with a space."""
    undo: list[Any] = [decoders.Strip(" ", 1, 0)] if prefix else []
    return decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *undo]
    )


def _scores(vocabulary: Vocabulary) -> list[float]:
    """Scores by which a token that texts are not cut into is never the best way to read one."""
    scores, cut = vocabulary.scores(), np.isin(vocabulary.kinds, _CUT)
    if not cut.any():
        raise vocabulary.error("token_type", "no normal token", "some")
    # Any other way through a token's characters loses less: ten below the least for each unknown.
    longest = max(map(len, vocabulary.tokens))
    never = (min(float(scores[cut].min()), 0.0) - 10.0) * (longest + 1)
    return np.where(cut, scores, never).tolist()


def _table(vocabulary: Vocabulary) -> bytes:
    """The table of rewritten characters, empty if there is none.

    The library that reads it trusts it, and aborts on one that points outside of itself. It is a
    32-bit size, a double-array trie (darts-clone), and the texts that its leaves point into.
    """
    value = vocabulary.metadata.get(f"tokenizer.ggml.{_CHARSMAP}")
    if value is None:
        return b""
    if not isinstance(value, np.ndarray) or value.dtype.itemsize != 1:
        raise vocabulary.error(_CHARSMAP, type(value).__name__, "an array of bytes")
    data = value.tobytes()
    size = int.from_bytes(data[:4], "little")
    # Blocks of 256 units of four bytes.
    if len(data) < 4 or size % 1024 or not 0 < size <= len(data) - 4:
        got = f"{len(data)} bytes, {size} of them a trie"
        raise vocabulary.error(_CHARSMAP, got, "whole blocks of 1024 bytes, and texts behind them")
    texts = data[4 + size :]
    try:
        texts.decode()
    except UnicodeDecodeError as error:
        raise vocabulary.error(_CHARSMAP, "texts that are not UTF-8", "UTF-8") from error
    if wrong := _wrong(np.frombuffer(data[4 : 4 + size], "<u4"), np.frombuffer(texts, np.uint8)):
        raise vocabulary.error(_CHARSMAP, wrong, "a trie that ends within itself")
    return data


def _wrong(units: np.ndarray, texts: np.ndarray) -> str | None:
    """Follow every path of a trie, and say what is wrong with it if one leaves it."""
    seen, reached = np.zeros(len(units), bool), _offset(units[:1])
    for _ in range(_DEEPEST):
        if np.any(reached >= len(units)):
            return "a unit beyond its end"
        reached = np.unique(reached[~seen[reached]])
        if not len(reached):
            return None
        seen[reached] = True
        parts = np.split(reached, range(_AT_ONCE, len(reached), _AT_ONCE))
        places = np.concatenate([_children(units, part) for part in parts])
        reached = places ^ _offset(units[places])
        leaves = reached[(units[places] >> 8) & 1 == 1]
        if np.any(leaves >= len(units)):
            return "a leaf beyond its end"
        index = units[leaves] & 0x7FFFFFFF
        if np.any(index >= len(texts)) or np.any(texts[index] & 0xC0 == 0x80):
            return "a leaf that points at no text"
    return f"sequences of more than {_DEEPEST} bytes"


def _children(units: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Where the children of some places are: a block has 256 units, one for each label."""
    labels = np.arange(1, 256, dtype=np.uint32)
    places = (parents[:, None] ^ labels).ravel()
    return places[(units[places] & 0x800000FF) == np.tile(labels, len(parents))]


def _offset(units: np.ndarray) -> np.ndarray:
    """How far the children of units are away, combined by exclusive or."""
    return (units >> 10) << ((units & 0x200) >> 6)
