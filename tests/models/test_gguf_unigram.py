"""SentencePiece's unigram tokenizer out of GGUF metadata, against its definition."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import CheckpointError
from hagd_jax.models.gguf.source import open_gguf
from hagd_jax.models.gguf.tokenizer import gguf_tokenizer
from hagd_jax.models.tokenizer import Tokenizer
from tests.models import gguf_tiny

PIECES = {
    "\u2581": -3.0, "\u2581the": -2.5, "th": -4.0, "he": -3.75, "t": -5.25, "h": -5.5, "e": -3.5,
    "\u2581a": -3.25, "a": -4.5, "an": -4.75, "n": -5.0, "ana": -6.5, "w": -7.0, "<": -8.0,
}  # fmt: skip
SPECIAL = ["<pad>", "</s>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TOKENS = [*SPECIAL, *PIECES, *BYTES]
KINDS = [3, 3, 2, *[1] * len(PIECES), *[6] * 256]
SCORES = [0.0] * 3 + list(PIECES.values()) + [0.0] * 256


def charsmap(rules: dict[str, str]) -> np.ndarray:
    """SentencePiece's table for some rules: a block of 256 units for each node of a trie."""
    nodes: dict[bytes, int] = {b"": 0}
    for source in rules:
        raw = source.encode()
        for end in range(1, len(raw) + 1):
            nodes.setdefault(raw[:end], len(nodes))
    units, texts = np.zeros(256 * len(nodes), np.uint32), b""
    for key, node in nodes.items():
        if key:
            place = 256 * nodes[key[:-1]] ^ key[-1]
            units[place] |= np.uint32((place ^ 256 * node) << 10 | key[-1])
    for source, target in rules.items():
        raw = source.encode()
        units[256 * nodes[raw[:-1]] ^ raw[-1]] |= 1 << 8
        units[256 * nodes[raw]] = 1 << 31 | len(texts)
        texts += target.encode() + b"\0"
    data = (4 * len(units)).to_bytes(4, "little") + units.astype("<u4").tobytes() + texts
    return np.frombuffer(data, np.uint8)


TABLE = charsmap({"\uff57": "w", "\u00a0": " ", "\u00e9": "e"})


def metadata(**changes: Any) -> dict[str, Any]:
    found = {
        "model": "t5", "tokens": TOKENS, "scores": np.array(SCORES, np.float32),
        "token_type": np.array(KINDS, np.int32), "add_space_prefix": True,
        "eos_token_id": 1, "unknown_token_id": 2, **changes,
    }  # fmt: skip
    return {f"tokenizer.ggml.{k}": value for k, value in found.items() if value is not None}


def made(**changes: Any) -> Tokenizer:
    tokenizer = gguf_tokenizer(metadata(**changes), "file.gguf")
    assert tokenizer is not None
    return tokenizer


plain = functools.cache(made)


def best(text: str) -> float:
    """The largest sum of scores over all ways to cut a text; an unknown character costs more than
    any of them."""
    sums = [0.0]
    for end in range(1, len(text) + 1):
        ways = [sums[start] + PIECES[text[start:end]]
                for start in range(end) if text[start:end] in PIECES]  # fmt: skip
        sums.append(max([*ways, sums[end - 1] - 1e4]))
    return sums[-1]


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("the an aw<0xA>\u00e9\u65e5\n"), max_size=30))
def test_the_best_way_to_cut_by_definition(text: str):
    """Scores are multiples of 1/4, so that sums are exact; ties may fall either way. Neighbouring
    unknown characters become the bytes of one unknown piece."""
    ids = plain().encode(text, begin=False, end=False)
    found = [TOKENS[i] for i in ids]
    spaced = "\u2581" + text.replace(" ", "\u2581") if text else ""
    raw = b"".join(
        bytes([int(token[3:5], 16)]) if token in BYTES else token.encode() for token in found
    )
    assert raw.decode() == spaced
    unknown = sum(char not in PIECES for char in spaced)
    score = sum(PIECES.get(token, 0.0) for token in found) - 1e4 * unknown
    assert score == best(spaced)
    assert plain().decode(ids) == text


def test_without_bytes_unknown_characters_are_the_unknown_token():
    count = len(SPECIAL) + len(PIECES)
    tokenizer = made(
        tokens=TOKENS[:count], scores=np.array(SCORES[:count], np.float32),
        token_type=np.array(KINDS[:count], np.int32),
    )  # fmt: skip
    ids = tokenizer.encode("a\u65e5n")
    assert [TOKENS[i] for i in ids] == ["\u2581a", "<unk>", "n", "</s>"]


def test_texts_end_as_llama_cpp_ends_them():
    assert plain().encode("the")[-1:] == [1]
    assert (plain().bos_id, plain().eos_id) == (None, 1)
    assert made(add_eos_token=False).encode("the") == plain().encode("the")[:-1]
    assert [TOKENS[i] for i in plain().encode("a</s>", end=False)] == ["\u2581a", "</s>"]
    # As in llama.cpp, none of these unless the file says so.
    bare = made(add_space_prefix=None, unknown_token_id=None, eos_token_id=None)
    assert [TOKENS[i] for i in bare.encode("a  n")] == ["a", "\u2581", "\u2581", "n", "</s>"]
    tidy = made(remove_extra_whitespaces=True)
    assert tidy.encode("  a   the ") == plain().encode("a the")


def test_characters_are_rewritten_by_the_files_table():
    tokenizer = made(precompiled_charsmap=TABLE)
    assert tokenizer.encode("\uff57\u00a0th\u00e9") == plain().encode("w the")
    assert tokenizer.encode("the \u65e5") == plain().encode("the \u65e5")
    # Files may call them signed.
    assert made(precompiled_charsmap=TABLE.view(np.int8)).encode("\uff57") == plain().encode("w")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(TABLE) - 1), st.integers(1, 255)), min_size=1,
                max_size=4), st.integers(0, 5))  # fmt: skip
def test_a_damaged_table_is_refused_or_harmless(damage: list[tuple[int, int]], cut: int):
    """The library that reads it aborts on some; half of the places hit what is used."""
    data = TABLE[: len(TABLE) - cut].copy()
    used = np.flatnonzero(TABLE)
    for place, change in damage:
        place = used[place % len(used)] if place % 2 else place
        data[min(place, len(data) - 1)] ^= change
    try:
        tokenizer = made(precompiled_charsmap=data)
    except CheckpointError as error:
        assert "precompiled_charsmap" in str(error)  # noqa: PT017 (either is right)
    else:
        every = "".join(map(chr, range(1, 0x250))) + "\uff57\u65e5"
        tokenizer.encode(every)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.array(SCORES[:-1], np.float32)}, "scores: got 272 numbers"),
        ({"scores": np.array([*SCORES[:-1], np.nan], np.float32)}, "scores: got nan"),
        ({"scores": np.array([*SCORES[:-1], -np.inf], np.float32)}, "scores: got -inf"),
        ({"scores": np.zeros(len(TOKENS), np.int32)}, "scores: got int32"),
        ({"scores": None}, "scores: got NoneType"),
        ({"unknown_token_id": len(TOKENS)}, "unknown_token_id: got 273"),
        ({"eos_token_id": -1}, "eos_token_id: got -1"),
        ({"token_type": np.full(len(TOKENS), 3, np.int32)}, "no normal token"),
        ({"tokens": [*TOKENS[:-1], TOKENS[0]]}, "twice"),
        ({"tokens": ["a"], "scores": np.zeros(1, np.float32), "token_type": None,
          "unknown_token_id": None, "eos_token_id": None}, "unknown_token_id: got none"),
        ({"precompiled_charsmap": "x"}, "charsmap: got str"),
        ({"precompiled_charsmap": TABLE[:3]}, "charsmap: got 3 bytes"),
        ({"precompiled_charsmap": TABLE[:500]}, "charsmap: got 500 bytes"),
        ({"precompiled_charsmap": np.append(TABLE, [np.uint8(255)])}, "not UTF-8"),
        ({"add_space_prefix": 1}, "true or false"),
    ],
)  # fmt: skip
def test_damaged_vocabularies_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=message):
        gguf_tokenizer(metadata(**changes), "file.gguf")


def test_it_is_read_from_a_file(tmp_path):
    found = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in metadata().items()}
    table = {"tokenizer.ggml.precompiled_charsmap": TABLE.tobytes()}
    settings_ = gguf_tiny.SETTINGS | found | table
    path = gguf_tiny.write(tmp_path / "t5.gguf", gguf_tiny.tensors(), settings_)
    tokenizer = open_gguf(path).tokenizer()
    assert tokenizer is not None
    assert tokenizer.encode("the \uff57") == plain().encode("the w")
