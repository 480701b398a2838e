"""The tokenizer as a value."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.models.tokenizer import Tokenizer

WORDS = Tokenizer.words(["0", "1", "+", "=", "odd"])


@pytest.fixture(scope="module")
def native() -> tokenizers.Tokenizer:
    """A byte-level BPE, trained here."""
    native = tokenizers.Tokenizer(models.BPE())
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    native.train_from_iterator(["the cat and the other cat sat there"] * 3, trainer)
    return native


def with_template(native: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    native = tokenizers.Tokenizer.from_str(native.to_str())
    template = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    native.post_processor = processors.Sequence([processors.ByteLevel(), template])
    return native


def write(folder: Path, native: tokenizers.Tokenizer, config: Any = None) -> Path:
    (folder / "tokenizer.json").write_text(native.to_str(), "utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def test_words():
    assert WORDS.encode(" 1 +\t0\n= odd ") == [1, 2, 0, 3, 4]
    assert WORDS.decode([1, 2, 0, 3, 4]) == "1 + 0 = odd"
    assert [WORDS.token(i) for i in range(WORDS.vocab_size)] == ["0", "1", "+", "=", "odd"]
    assert WORDS.encode("") == []
    assert WORDS.decode([]) == ""
    assert (WORDS.bos_id, WORDS.eos_id, WORDS.add_bos) == (None, None, False)


def test_unknown_word_is_named():
    with pytest.raises(InputError, match="'even'; expected words of the vocabulary"):
        WORDS.encode("1 + even")


@pytest.mark.parametrize("vocabulary", [[], ["a", "a"], ["a b"], [""], ["a\n"], [1]])
def test_bad_words(vocabulary: list[Any]):
    with pytest.raises(InputError, match="vocabulary"):
        Tokenizer.words(vocabulary)


def test_value(native: tokenizers.Tokenizer):
    one = Tokenizer.from_json(native.to_str(), eos_id=1)
    # The same content, written with other white space, from another object.
    two = Tokenizer.from_json(json.dumps(json.loads(native.to_str()), indent=3), eos_id=1)
    assert one == two
    assert hash(one) == hash(two)
    assert one != Tokenizer.from_json(native.to_str())
    assert one != WORDS
    assert len({one, two, WORDS}) == 2
    for copied in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert copied == one
        assert copied.encode("the cat") == one.encode("the cat") != []
    assert len(repr(one)) < 100
    with pytest.raises(AttributeError):
        one.bos_id = 3  # type: ignore[misc]


@settings(max_examples=100)
@given(st.text())
def test_round_trip(text: str):
    tokenizer = _byte_level()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


def _byte_level(cache: list[Tokenizer] = []) -> Tokenizer:  # noqa: B006 (built once)
    if not cache:
        vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        native = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        native.decoder = decoders.ByteLevel()
        cache.append(Tokenizer(native.to_str()))
    return cache[0]


def test_many_texts_are_encoded_as_each_alone(native: tokenizers.Tokenizer):
    tokenizer = Tokenizer.from_native(with_template(native))
    assert tokenizer.add_bos
    texts = ["the cat", "", "</s> and\n", "é the other " * 50]
    found = tokenizer.encode_batch(texts)
    assert found == [tokenizer.encode(text, begin=False, end=False) for text in texts]
    assert [len(ids) > 0 for ids in found] == [True, False, True, True]
    assert tokenizer.encode_batch([]) == []


@pytest.mark.parametrize("text", ["1 + 2", "\ud800", 3, None])
def test_bad_text_among_many(text: Any):
    with pytest.raises(InputError, match="text: got"):
        WORDS.encode_batch(["1 + 0", text])


def test_token_reads_as_in_a_text(native: tokenizers.Tokenizer):
    tokenizer = Tokenizer(native.to_str())
    (the,) = tokenizer.encode(" the")
    assert tokenizer.token(the) == " the"
    assert tokenizer.token(0) == "<s>"
    first_byte = tokenizer.encode("é")[0]
    assert tokenizer.token(first_byte) == "Ã"  # the vocabulary's own name of byte C3


def test_ids_of_any_library(native: tokenizers.Tokenizer):
    tokenizer = Tokenizer(native.to_str())
    ids = tokenizer.encode("the cat sat")
    assert len(ids) > 1
    for given_ids in (np.array(ids, np.int32), jnp.array(ids), tuple(ids), iter(ids)):
        assert tokenizer.decode(given_ids) == "the cat sat"


@pytest.mark.parametrize("bad", [-1, 300, 2**40, "1", 1.0, None])
def test_bad_ids(native: tokenizers.Tokenizer, bad: Any):
    tokenizer = Tokenizer(native.to_str())
    assert tokenizer.vocab_size <= 300
    for call in (lambda: tokenizer.decode([0, bad]), lambda: tokenizer.token(bad)):
        with pytest.raises(InputError, match="token id"):
            call()


@pytest.mark.parametrize("text", [b"bytes", None, 3, "lone \ud800 surrogate"])
def test_bad_text(text: Any):
    with pytest.raises(InputError, match="text"):
        WORDS.encode(text)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"model": null}', '{"version": "1.0", "model": {"type": "Nothing"}}'],
)
def test_broken_json(tmp_path: Path, text: str):
    with pytest.raises(CheckpointError, match="tokenizer JSON"):
        Tokenizer.from_json(text)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.from_file(tmp_path)


def test_special_ids_must_exist():
    with pytest.raises(CheckpointError, match="eos_id: got 99"):
        Tokenizer(WORDS.json, eos_id=99)
    with pytest.raises(CheckpointError, match="add_bos"):
        Tokenizer(WORDS.json, add_bos=True)
    with pytest.raises(CheckpointError, match="add_eos"):
        Tokenizer(WORDS.json, add_eos=True)


def test_template_adds_the_beginning_and_the_end(tmp_path: Path, native: tokenizers.Tokenizer):
    tokenizer = Tokenizer.from_file(write(tmp_path, with_template(native)))
    plain = native.encode("the cat").ids
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    assert (tokenizer.add_bos, tokenizer.add_eos) == (True, True)
    assert tokenizer.encode("the cat") == [0, *plain, 1]
    assert tokenizer.encode("the cat", end=False) == [0, *plain]
    assert tokenizer.encode("the cat", begin=False, end=False) == plain
    assert tokenizer.encode("") == [0, 1]


SPECIAL = ["<s>", "</s>", "<other>", "<|im:start|>", "$x"]


@functools.cache
def word_level() -> tokenizers.Tokenizer:
    """Some words and special tokens; two of these are hard to write in a template."""
    words = {word: i for i, word in enumerate([*SPECIAL, "a", "b"])}
    native = tokenizers.Tokenizer(models.WordLevel(words))
    native.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    native.add_special_tokens(SPECIAL)
    return native


def template(begin: list[str], end: list[str]) -> processors.TemplateProcessing:
    """One that says it in the way of any tokenizer.json."""
    names = {token: f"t{i}" for i, token in enumerate(SPECIAL)}
    return processors.TemplateProcessing(
        single=[*(names[t] for t in begin), "$A", *(names[t] for t in end)],
        special_tokens=[
            {"id": name, "ids": [SPECIAL.index(token)], "tokens": [token]}
            for token, name in names.items()
        ],
    )


TOKENS = st.lists(st.sampled_from(SPECIAL), max_size=3)


@settings(max_examples=40)
@given(TOKENS, TOKENS, st.booleans(), st.sampled_from(["", "a", "b a b"]))
def test_all_that_the_template_adds_in_its_order(begin, end, chained, text):
    native = tokenizers.Tokenizer.from_str(word_level().to_str())
    made = template(begin, end)
    native.post_processor = processors.Sequence([processors.ByteLevel(), made]) if chained else made
    tokenizer = Tokenizer(native.to_str())
    assert tokenizer.encode(text) == native.encode(text).ids
    assert [SPECIAL[i] for i in tokenizer.begin] == begin
    assert [SPECIAL[i] for i in tokenizer.end] == end


@pytest.mark.parametrize(
    "processor",
    [
        processors.BertProcessing(("</s>", 1), ("<s>", 0)),
        processors.RobertaProcessing(("</s>", 1), ("<s>", 0)),
        processors.Sequence([template(["<s>"], []), template(["<other>"], ["</s>"])]),
        processors.ByteLevel(),
    ],
    ids=["bert", "roberta", "two templates", "none"],
)
def test_other_post_processors(processor):
    native = tokenizers.Tokenizer.from_str(word_level().to_str())
    native.post_processor = processor
    for text in ("", "a b"):
        assert Tokenizer(native.to_str()).encode(text) == native.encode(text).ids


def test_a_template_without_the_text_is_refused():
    native = tokenizers.Tokenizer.from_str(word_level().to_str())
    for single in ("<s>", "$A $A"):
        native.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", 0)]
        )
        with pytest.raises(CheckpointError, match="leaves the text out or repeats it"):
            Tokenizer(native.to_str())


@settings(max_examples=40)
@given(TOKENS, TOKENS, st.sampled_from([None, True, False]), st.sampled_from([None, True, False]))
def test_what_is_saved_says_the_same_to_others(tmp_path_factory, begin, end, add_bos, add_eos):
    """Flag, template and JSON agree, whichever of them a reader goes by."""
    folder = tmp_path_factory.mktemp("saved")
    native = tokenizers.Tokenizer.from_str(word_level().to_str())
    native.post_processor = template(begin, end)
    ours = Tokenizer(native.to_str(), 0, 1, add_bos, add_eos)
    ours.save(folder)
    assert Tokenizer.from_file(folder) == ours
    ids = ours.encode("a b")
    assert bool(ours.begin) == ours.add_bos == (bool(begin) if add_bos is None else add_bos)
    assert bool(ours.end) == ours.add_eos == (bool(end) if add_eos is None else add_eos)
    # The tokenizers library, and all that goes by tokenizer.json alone.
    alone = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert alone.encode("a b").ids == ids
    # transformers 5 makes a template of the flags, where there are any.
    given_ = json.loads((folder / "tokenizer_config.json").read_text())
    if {"add_bos_token", "add_eos_token"} & given_.keys():
        front = [alone.token_to_id(given_["bos_token"])] * given_["add_bos_token"]
        back = [alone.token_to_id(given_["eos_token"])] * given_["add_eos_token"]
        assert [*front, *alone.encode("a b", add_special_tokens=False).ids, *back] == ids
    else:
        assert ours.begin not in ((), (0,)) or ours.end not in ((), (1,))


@pytest.mark.parametrize("spelling", ["<s>", {"content": "<s>", "lstrip": False}])
def test_config_beside_the_file(tmp_path: Path, native: tokenizers.Tokenizer, spelling: Any):
    config = {"bos_token": spelling, "eos_token": "</s>", "add_bos_token": True}
    folder = write(tmp_path, native, config)
    for path in (folder, folder / "tokenizer.json", str(folder)):
        tokenizer = Tokenizer.from_file(path)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos) == (0, 1, True)
    off = write(tmp_path, with_template(native), {**config, "add_bos_token": False})
    assert Tokenizer.from_file(off).encode("cat") == native.encode("cat").ids
    null = write(tmp_path, native, {"bos_token": None, "eos_token": None})
    assert Tokenizer.from_file(null).bos_id is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bos_token": "<absent>"}, "bos_token: got '<absent>'"),
        ({"eos_token": 7}, "eos_token: got 7"),
        ({"add_bos_token": "yes"}, "add_bos_token: got 'yes'"),
        ([], "tokenizer_config.json: got list"),
    ],
)
def test_bad_config(tmp_path: Path, native: tokenizers.Tokenizer, config: Any, message: str):
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_file(write(tmp_path, native, config))


def test_missing_or_unreadable_file(tmp_path: Path, native: tokenizers.Tokenizer):
    with pytest.raises(CheckpointError, match="AutoTokenizer"):
        Tokenizer.from_file(tmp_path)
    write(tmp_path, native)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        Tokenizer.from_file(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.from_file(tmp_path)


def test_truncation_and_padding_of_the_file_are_switched_off(native: tokenizers.Tokenizer):
    cut = tokenizers.Tokenizer.from_str(native.to_str())
    cut.enable_truncation(2)
    cut.enable_padding(length=64)
    assert (
        Tokenizer(cut.to_str()).encode("the cat sat there")
        == native.encode("the cat sat there").ids
    )


def test_save(tmp_path: Path, native: tokenizers.Tokenizer):
    for tokenizer in (WORDS, Tokenizer(native.to_str(), 0, 1, add_bos=True)):
        tokenizer.save(tmp_path)
        assert Tokenizer.from_file(tmp_path) == tokenizer
        assert json.loads(tokenizer.to_json())["version"] == "1.0"
