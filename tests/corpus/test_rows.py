import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.corpus import CorpusConfig, corpus_of_tokens, open_corpus
from hagd_jax.corpus.layout import Layout
from hagd_jax.corpus.rows import Packed
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import Tokenizer
from tests.corpus.corpus_models import (
    BOS,
    EOS,
    plain_rows,
    tiny_model,
    with_weights,
    word_tokenizer,
)

TABLE = np.arange(60).reshape(20, 3) % 40


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, EOS), min_size=1, max_size=40),
    st.integers(2, 9),
    st.booleans(),
)
def test_packed_rows_equal_lists(stream, length, bos):
    layout = Layout.of(word_tokenizer(), CorpusConfig(length=length, bos=bos))
    rows = Packed(np.asarray(stream, np.uint16), layout)
    tokens, weight = plain_rows([stream], length, bos=BOS if bos else None)
    assert len(rows) == len(tokens)
    np.testing.assert_array_equal(rows[:].tokens, tokens)
    np.testing.assert_array_equal(rows[:].weight, weight)
    assert rows[:].tokens.dtype == np.int32
    assert rows[:].weight.dtype == np.float32
    for i in range(-len(rows), len(rows)):
        np.testing.assert_array_equal(rows[i].tokens, tokens[i])
        np.testing.assert_array_equal(rows[i].weight, weight[i])
    assert rows.padded == (len(stream) % (length - bos) != 0)
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_without_special_tokens_every_token_weighs():
    layout = Layout.of(word_tokenizer(special=False), CorpusConfig(length=4))
    assert (layout.body, layout.begin, layout.separator) == (4, (), None)
    batch = Packed(np.arange(6), layout)[:]
    assert batch.tokens.tolist() == [[0, 1, 2, 3], [4, 5, 0, 0]]
    assert batch.weight.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_table_keeps_rows_and_weighs_padding_nothing():
    lengths = np.arange(20) % 3 + 1
    corpus = corpus_of_tokens(
        "t", TABLE, tiny_model(), CorpusConfig(held_out=0.25), lengths=lengths
    )
    assert (len(corpus.train), len(corpus.held_out)) == (15, 5)
    given = {tuple(row[:n]) for row, n in zip(TABLE.tolist(), lengths, strict=True)}
    seen = []
    for part in (corpus.train, corpus.held_out):
        tokens, weight = part[:]
        real = np.cumprod(weight, axis=1)
        np.testing.assert_array_equal(weight, real)  # ones, then zeros
        assert (tokens[weight == 0] == 0).all()
        seen += [tuple(row[w > 0].tolist()) for row, w in zip(tokens, weight, strict=True)]
    assert set(seen) == given
    assert len(seen) == len(given) == 20


def test_equal_rows_count_once():
    corpus = corpus_of_tokens("t", np.concatenate([TABLE, TABLE[::-1]]), tiny_model())
    assert len(corpus.train) + len(corpus.held_out) == 20
    # Rows that differ behind their end alone are equal.
    tokens = np.array([[1, 2], [1, 3], [4, 5]])
    corpus = corpus_of_tokens("t", tokens, tiny_model(), lengths=np.array([1, 1, 2]))
    assert len(corpus.train) + len(corpus.held_out) == 2


def test_fingerprint_changes_with_content_only():
    def of(tokens, **config):
        return corpus_of_tokens("t", tokens, tiny_model(), CorpusConfig(**config)).fingerprint

    assert of(TABLE) == of(TABLE.astype(np.int16))
    others = [of(TABLE + 1), of(TABLE[1:]), of(TABLE, seed=1), of(TABLE, held_out=0.3)]
    assert len({of(TABLE), *others}) == 5


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        ([1, 2], None, r"tokens of t: got int64 \(2,\)"),
        (np.zeros((0, 3), int), None, r"got int64 \(0, 3\)"),
        ([[0.5]], None, "got float64"),
        ([[1, 42]], None, "ids from 1 to 42; expected 0 to 41"),
        ([[-1, 4]], None, "ids from -1 to 4"),
        ([[1, 2]], [3], "lengths of t: got 3 to 3; expected one for each of 1 rows, 1 to 2"),
        ([[1, 2]], [0], "got 0 to 0"),
        ([[1, 2]], [1, 1], r"got int64 of shape \(2,\)"),
        ([[1, 2], [1, 2]], None, "got 1 different rows; expected more than the 1"),
    ],
)
def test_bad_tables(tokens, lengths, message):
    lengths = lengths if lengths is None else np.asarray(lengths)
    with pytest.raises(InputError, match=message):
        corpus_of_tokens("t", np.asarray(tokens), tiny_model(), lengths=lengths)


def test_models_that_cannot_read_the_rows():
    with pytest.raises(ConfigError, match=r"length: got 3; expected at most .* max_positions = 2"):
        corpus_of_tokens("t", TABLE, tiny_model(max_positions=2))
    both_ways = tiny_model(causal=False)
    assert len(corpus_of_tokens("t", TABLE, both_ways).train) == 19
    with pytest.raises(InputError, match="reads both ways"):
        corpus_of_tokens("t", TABLE, both_ways, lengths=np.arange(20) % 2 + 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"length": 1},
        {"length": 8.0},
        {"held_out": 1},
        {"held_out": -0.1},
        {"held_out": "2%"},
        {"seed": -1},
        {"seed": 2**32},
        {"samples": 0},
        {"prompts": True},
    ],
)
def test_bad_configurations(fields):
    with pytest.raises(ConfigError, match=f"{next(iter(fields))}: got"):
        CorpusConfig(**fields)


def test_rows_begin_with_all_that_a_template_begins_texts_with():
    """As a text does, with both tokens and in their order; the end of a text is no row's end."""
    native = tokenizers.Tokenizer.from_str(word_tokenizer().json)
    special = [("40", 40), ("41", 41), ("7", 7)]
    native.post_processor = tokenizers.processors.TemplateProcessing(
        single="7 40 $A 41", special_tokens=special
    )
    tokenizer = Tokenizer.from_native(native, eos_id=EOS)
    assert tokenizer.encode("1") == [7, BOS, 1, EOS]
    layout = Layout.of(tokenizer, CorpusConfig(length=5))
    batch = Packed(np.array([1, 2, 3, EOS]), layout)[:]
    assert batch.tokens.tolist() == [[7, BOS, 1, 2, 3], [7, BOS, EOS, EOS, EOS]]
    assert batch.weight.tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]
    assert Layout.of(tokenizer, CorpusConfig(length=5, bos=False)).begin == ()
    with pytest.raises(ConfigError, match="length: got 2; expected more than the 2 beginning"):
        Layout.of(tokenizer, CorpusConfig(length=2))
    model = with_weights(tiny_model(tokenizer))
    sampled = open_corpus("self", model, CorpusConfig(length=6, samples=30)).train[:]
    assert (sampled.tokens[:, :2] == (7, BOS)).all()
    assert not sampled.weight[:, :2].any()
    assert len(np.unique(sampled.tokens[:, 2])) > 5
