import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hagd_jax.corpus import CorpusConfig, open_corpus, text
from hagd_jax.corpus.holdout import held_out_mask
from hagd_jax.errors import ConfigError, InputError
from tests.corpus.corpus_models import EOS, WORDS, counted, plain_rows, tiny_model, word_tokenizer
from tests.tasks.conftest import byte_bpe

MODEL = tiny_model(word_tokenizer())


def write(folder, documents, suffix=".txt"):
    """Files of numbers as words; their names sort as the documents do."""
    for i, document in enumerate(documents):
        (folder / f"{i:03}{suffix}").write_text(" ".join(map(str, document)), "utf-8")
    return folder


def documents(count, seed=0, longest=30):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 40, rng.integers(1, longest)).tolist() for _ in range(count)]


def tokens_of(rows):
    return [token for row in counted(rows[:]) for token in row]


def test_documents_are_packed_with_separators(tmp_path):
    docs = documents(7)
    corpus = open_corpus(write(tmp_path, docs), MODEL, CorpusConfig(length=8, held_out=0))
    tokens, weight = plain_rows(docs, 8)
    np.testing.assert_array_equal(corpus.train[:].tokens, tokens)
    np.testing.assert_array_equal(corpus.train[:].weight, weight)
    assert (corpus.train[:].tokens == EOS).sum() > 6
    assert len(corpus.held_out) == 0


def test_whole_documents_are_held_out(tmp_path):
    docs = documents(60)
    corpus = open_corpus(write(tmp_path, docs), MODEL, CorpusConfig(length=8, held_out=0.05))
    held = held_out_mask(60, 3, seed=0)
    assert held.sum() == 3
    for part, rows in ((False, corpus.train), (True, corpus.held_out)):
        ours = [document for document, out in zip(docs, held, strict=True) if out == part]
        tokens, weight = plain_rows(ours, 8)
        np.testing.assert_array_equal(rows[:].tokens, tokens)
        np.testing.assert_array_equal(rows[:].weight, weight)


@pytest.mark.parametrize("held_out", [0.02, 0.3, 0.9])
def test_the_end_is_held_out_if_no_document_can_be_spared(tmp_path, held_out):
    docs = documents(1, longest=100)
    corpus = open_corpus(write(tmp_path, docs), MODEL, CorpusConfig(length=8, held_out=held_out))
    rows = -(-len(docs[0]) // 7)
    assert len(corpus.held_out) == max(1, round(held_out * rows)) < rows
    assert tokens_of(corpus.train) + tokens_of(corpus.held_out) == docs[0]


def test_held_out_documents_depend_on_the_seed_alone(tmp_path):
    write(tmp_path, documents(50))

    def held_out(seed, **config):
        found = open_corpus(tmp_path, MODEL, CorpusConfig(held_out=0.1, seed=seed, **config))
        return tuple(tokens_of(found.held_out))

    assert held_out(0, length=8) == held_out(0, length=8) == held_out(0, length=16)
    assert len({held_out(seed, length=8) for seed in range(4)}) == 4


def test_every_token_comes_once_an_epoch(tmp_path):
    docs = documents(40)
    corpus = open_corpus(write(tmp_path, docs), MODEL, CorpusConfig(length=8, held_out=0))
    stream = corpus.batches(len(corpus.train), seed=3)
    whole = sorted(token for document in docs for token in document)
    for _ in range(2):
        assert sorted(token for row in counted(next(stream)) for token in row) == whole


@settings(max_examples=200)
@given(st.text(st.sampled_from("ab1. ,\n\r\té\U0001f600"), max_size=60), st.integers(0, 8))
@example("one\ntwo\n\nthree\n  four\n five", 0)
def test_cutting_for_speed_changes_no_token(passage, size):
    cut = list(text.pieces(passage, size))
    assert "".join(cut) == passage
    encoded = BYTES.encode_batch(cut)
    assert [t for ids in encoded for t in ids] == BYTES.encode(passage)


def _bytes_tokenizer():
    from hagd_jax.models import Tokenizer

    sample = ["a b, ab.\n", "\n\n", "1 a\n b\n\n a", "  ab", "é \t"] * 3
    return Tokenizer(byte_bpe(sample).to_str())


BYTES = _bytes_tokenizer()


def test_long_texts_are_cut_and_reported(monkeypatch):
    monkeypatch.setattr(text, "_PIECE", 8)
    monkeypatch.setattr(text, "_GROUP", 32)
    # The default of `pieces` was bound before.
    monkeypatch.setattr(text.pieces, "__defaults__", (8,))
    texts = ["\n".join(WORDS), " ".join(WORDS), "", "\n".join(WORDS[::-1])]
    calls = []
    found = text.tokenise(texts, word_tokenizer(), lambda *call: calls.append(call))
    assert [ids.tolist() for ids in found] == [[*range(40)], [*range(40)], [], [*range(39, -1, -1)]]
    assert all(ids.dtype == np.uint16 for ids in found)
    total = sum(map(len, texts))
    assert len(calls) > 3
    assert calls[-1] == ("tokenise", total, total)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


@pytest.mark.parametrize("form", ["pattern", "folder", "list", "file"])
def test_ways_to_name_files(tmp_path, form):
    docs = documents(4, longest=60)
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", docs)
    (tmp_path / "deep" / ".hidden").write_bytes(b"\0")
    paths = sorted((tmp_path / "deep").glob("*.txt"))
    source = {
        "pattern": f"{tmp_path}/**/*.txt",
        "folder": tmp_path,
        "list": [paths[0], str(paths[0]), f"{tmp_path}/deep/*.txt"],
        "file": str(paths[1]),
    }[form]
    corpus = open_corpus(source, MODEL, CorpusConfig(length=4, held_out=0))
    expected = docs[1:2] if form == "file" else docs
    assert tokens_of(corpus.train) == [token for document in expected for token in document]


def test_marks_and_line_ends_of_other_systems(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\ntwo é\n".encode())
    assert text.read_text(file) == "one\ntwo é\n"


def test_empty_files_add_nothing(tmp_path):
    docs = documents(5)
    write(tmp_path, docs)
    (tmp_path / "empty.txt").touch()
    corpus = open_corpus(tmp_path, MODEL, CorpusConfig(length=8, held_out=0))
    np.testing.assert_array_equal(corpus.train[:].tokens, plain_rows(docs, 8)[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 2 \x00 3", r"bad\.txt: got byte 0x00 at offset 4; expected text in UTF-8"),
        (b"1 2\xff 3", r"bad\.txt: got byte 0xff at offset 3"),
        ("1 é".encode()[:-1], r"bad\.txt: got byte 0xc3 at offset 2"),
        (b"", "got an empty text; expected at least 14, two sequences"),
        (b" \n ", "got an empty text"),
        (b"1 2 3", "got 3 tokens; expected at least 14"),
        (b"1 2 x", "got 'x'; expected words of the vocabulary"),
    ],
)
def test_bad_text(tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_corpus(f"{tmp_path}/*.txt", MODEL, CorpusConfig(length=8))


def test_files_that_are_not_there(tmp_path):
    for source in (tmp_path / "none.txt", f"{tmp_path}/*.txt", str(tmp_path), "nowhere\0"):
        with pytest.raises(InputError, match=r"corpus: got .*; expected a text file"):
            open_corpus(source, MODEL)
    with pytest.raises(InputError, match="corpus: got an empty list"):
        open_corpus([], MODEL)
    with pytest.raises(InputError, match="expected a text file"):
        open_corpus([write(tmp_path, documents(1)), tmp_path / "none.txt"], MODEL)


def test_unreadable_file(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    file.write_text("1 2 3")

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        InputError,
        match=r"a\.txt: got the error .Permission denied.; expected a file",
    ):
        open_corpus(file, MODEL)


def test_dangling_link(tmp_path):
    os.symlink(tmp_path / "gone", tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"a\.txt: got no such file"):
        open_corpus(f"{tmp_path}/*.txt", MODEL)


def test_models_that_cannot_read_text(tmp_path):
    write(tmp_path, documents(30))
    with pytest.raises(InputError, match="got model tiny without a tokenizer"):
        open_corpus(tmp_path, tiny_model())
    with pytest.raises(InputError, match=r"got 42 tokens; expected at most .* vocab_size = 41"):
        open_corpus(tmp_path, tiny_model(word_tokenizer(), vocab_size=41))
    with pytest.raises(ConfigError, match=r"length: got 129; expected .* max_positions = 128"):
        open_corpus(tmp_path, MODEL, CorpusConfig(length=129))
    rotary = tiny_model(word_tokenizer(), positions="rotary", norm="rms")
    assert open_corpus(tmp_path, rotary, CorpusConfig(length=129)).train.layout.length == 129


@pytest.mark.parametrize("source", ["s3:bucket/x", "https://x.org/a.txt", "files:*.txt"])
def test_unknown_schemes(source):
    with pytest.raises(InputError, match=r"corpus: got .*; expected text files, hf:.*, task:"):
        open_corpus(source, MODEL)


def test_a_file_may_have_a_colon_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my:book.txt").write_text(" ".join(WORDS))
    corpus = open_corpus("my:book.txt", MODEL, CorpusConfig(length=8))
    assert tokens_of(corpus.train) + tokens_of(corpus.held_out) == [*range(40)]
