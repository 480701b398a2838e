import json
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.corpus import CorpusConfig, open_corpus
from hagd_jax.corpus.holdout import draw
from hagd_jax.corpus.hub import DataSet
from hagd_jax.errors import CheckpointError, InputError, MissingDependencyError
from tests.corpus.corpus_models import counted, plain_rows, tiny_model, word_tokenizer

MODEL = tiny_model(word_tokenizer())


class Streamed:
    """What `datasets.IterableDataset` does, from a list."""

    def __init__(self, texts, column="text", named=True):
        self.texts, self.column = texts, column
        self.column_names = [column] if named else None
        self.at = self.start = 0

    def __iter__(self):
        # Also there, a state that was loaded counts at the next iteration.
        for i in range(self.start, len(self.texts)):
            self.at = i + 1
            yield {self.column: self.texts[i]}

    def state_dict(self):
        return {"examples_iterable": {"at": self.at}}

    def load_state_dict(self, state):
        self.start = state["examples_iterable"]["at"]


@pytest.fixture
def hub(monkeypatch):
    """A module `datasets` with one data set, and what it was asked for."""
    module = types.ModuleType("datasets")
    module.asked, module.texts, module.options = [], [], {}

    def load_dataset(path, name=None, *, split, streaming):
        assert streaming
        module.asked.append((path, name, split))
        return Streamed(module.texts, **module.options)

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def documents(count, seed=0, longest=30):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 40, rng.integers(1, longest)).tolist() for _ in range(count)]


def as_text(docs):
    return [" ".join(map(str, document)) for document in docs]


def first(batches, count):
    return [next(batches) for _ in range(count)]


def flat(lists):
    return [item for one in lists for item in one]


def rows(batches):
    return np.concatenate([b.tokens for b in batches]), np.concatenate([b.weight for b in batches])


@pytest.mark.parametrize("length", [2, 8, 13])
def test_rows_are_those_of_packed_text_over_and_over(hub, length):
    docs = documents(20)
    # Texts without tokens leave no trace.
    hub.texts = [*as_text(docs[:7]), "", None, *as_text(docs[7:])]
    corpus = open_corpus("hf:a/b", MODEL, CorpusConfig(length=length, held_out=0))
    tokens, weight = plain_rows(docs, length)
    found = rows(first(corpus.batches(1), 2 * len(tokens)))
    np.testing.assert_array_equal(found[0], tokens * 2)
    np.testing.assert_array_equal(found[1], weight * 2)


def test_text_that_fills_its_rows_exactly(hub):
    hub.texts = as_text([[1, 2, 3], [4, 5, 6]])  # seven tokens with the separator
    corpus = open_corpus("hf:a/b", MODEL, CorpusConfig(length=8, held_out=0))
    stream = corpus.batches(2)
    tokens, weight = next(stream)
    assert tokens[:, 1:].tolist() == [[1, 2, 3, 41, 4, 5, 6]] * 2
    assert weight.tolist() == [[0, 1, 1, 1, 0, 1, 1, 1]] * 2
    again = corpus.batches(2)
    again.restore(stream.state())
    np.testing.assert_array_equal(next(again).tokens, tokens)


def test_parts_share_no_document(hub):
    docs = [[i, i] for i in range(40)]
    hub.texts = as_text(docs)
    corpus = open_corpus("hf:a/b", MODEL, CorpusConfig(length=16, held_out=0.3, seed=1))
    held = [i for i in range(40) if draw(i, 1) < 0.3]
    assert 5 < len(held) < 20
    for part in ("train", "held_out"):
        ours = [d for i, d in enumerate(docs) if (i in held) == (part == "held_out")]
        tokens, _ = plain_rows(ours, 16)
        batch = next(corpus.batches(len(tokens), part=part))
        np.testing.assert_array_equal(batch.tokens, tokens)
        assert sorted(flat(counted(batch))) == sorted(flat(ours))


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any),
    st.integers(2, 9),
    st.integers(1, 4),
    st.integers(0, 15),
    st.sampled_from([0.0, 0.4]),
)
def test_restored_streams_go_on_as_if_uninterrupted(lengths, length, batch_size, stop, held_out):
    from hagd_jax.corpus.layout import Layout
    from hagd_jax.corpus.stream import Stream

    texts = as_text([[i] * n for i, n in enumerate(lengths)])
    tokenizer = word_tokenizer()
    kept = [i for i, n in enumerate(lengths) if n and draw(i, 0) >= held_out]
    if not kept:
        return
    stream = Stream(
        lambda: Streamed(texts),
        lambda example: tokenizer.encode(example["text"]),
        lambda document: document in kept,
        Layout.of(tokenizer, CorpusConfig(length=length)),
    ).batch(batch_size)
    whole = iter(stream)
    first(whole, stop)
    state = json.loads(json.dumps(whole.get_state()))
    other = iter(stream)
    first(other, 3)
    other.set_state(state)
    assert json.loads(json.dumps(other.get_state())) == state
    weight = 0.0
    for expected, got in zip(first(whole, 8), first(other, 8), strict=True):
        np.testing.assert_array_equal(expected.tokens, got.tokens)
        np.testing.assert_array_equal(expected.weight, got.weight)
        weight += expected.weight.sum()
    assert weight > 0


def test_iterators_do_not_disturb_each_other(hub):
    hub.texts = as_text(documents(30))
    corpus = open_corpus("hf:a/b", MODEL, CorpusConfig(length=8))
    alone = rows(first(corpus.batches(2), 6))
    one, two = corpus.batches(2), corpus.batches(2, part="held_out")
    mixed = []
    for _ in range(6):
        mixed.append(next(one))
        next(two)
    np.testing.assert_array_equal(rows(mixed)[0], alone[0])


def test_states_stay_small_in_a_long_document(hub):
    hub.texts = [" ".join(["7"] * 20_000)]
    corpus = open_corpus("hf:a/b", MODEL, CorpusConfig(length=8, held_out=0))
    stream = corpus.batches(64)
    first(stream, 20)
    assert len(json.dumps(stream.state())) < 400


@pytest.mark.parametrize("count", [2, 3])
def test_shares_in_order_are_the_global_batch(hub, count):
    hub.texts = as_text(documents(30))
    corpus = open_corpus("hf:a/b", MODEL, CorpusConfig(length=8))
    whole = first(corpus.batches(6), 5)
    parts = [corpus.batches(6, share=(i, count)) for i in range(count)]
    for expected in whole:
        got = rows([next(part) for part in parts])
        np.testing.assert_array_equal(got[0], expected.tokens)
        np.testing.assert_array_equal(got[1], expected.weight)
        assert expected.weight.any()


def test_how_data_sets_are_named(hub):
    assert DataSet.parse("o/n.x") == ("o/n.x", None, "train")
    assert DataSet.parse("n:c@s[:5%]") == ("n", "c", "s[:5%]")
    assert DataSet.parse("o/n@test") == ("o/n", None, "test")
    hub.texts = as_text(documents(3))
    corpus = open_corpus("hf:o/n:c@s", MODEL)
    assert corpus.name == "hf:o/n:c@s"
    assert set(hub.asked) == {("o/n", "c", "s")}
    for wrong in ("", "a/b/c", "a b", "/abs", "o/n:"):
        with pytest.raises(InputError, match=r"data set: got .*; expected owner/name"):
            open_corpus(f"hf:{wrong}", MODEL)


@pytest.mark.parametrize("named", [True, False])
def test_a_column_that_is_not_there(hub, named):
    hub.texts, hub.options = ["1 2"], {"column": "body", "named": named}
    with pytest.raises(InputError, match=r"data set a/b: got columns body; expected .* 'text'"):
        open_corpus("hf:a/b", MODEL)
    config = CorpusConfig(column="body", length=4, held_out=0)
    assert next(open_corpus("hf:a/b", MODEL, config).batches(1)).tokens.tolist() == [[40, 1, 2, 41]]


@pytest.mark.parametrize("texts", [[], ["", None], ["1 2 3"]])
def test_a_part_without_text_is_an_error_and_no_endless_loop(hub, texts):
    hub.texts = texts
    corpus = open_corpus("hf:a/b", MODEL, CorpusConfig(held_out=0.01))
    stream = corpus.batches(1, part="held_out")
    with pytest.raises(InputError, match=f"got no text in this part of {len(texts)} documents"):
        next(stream)


def test_states_of_something_else_are_refused(hub):
    hub.texts = as_text(documents(9))
    stream = open_corpus("hf:a/b", MODEL).batches(2)
    next(stream)
    state = stream.state()
    for config in (CorpusConfig(length=16), CorpusConfig(seed=1), CorpusConfig(held_out=0.1)):
        with pytest.raises(CheckpointError, match="data position, corpus"):
            open_corpus("hf:a/b", MODEL, config).batches(2).restore(state)
    for position in (None, {}, {**state["position"], "given": "x"}):
        with pytest.raises(CheckpointError, match="data position: got"):
            stream.restore(state | {"position": position})
    assert stream.state() == state


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "hagd-jax\[data\]"'):
        open_corpus("hf:a/b", MODEL)


@pytest.mark.parametrize("error", [ConnectionError("no network"), ValueError("Bad split: x")])
def test_data_sets_that_cannot_be_opened(hub, error):
    def fail(*_, **__):
        raise error

    hub.load_dataset = fail
    with pytest.raises(InputError, match=f"data set a/b: got {type(error).__name__}: {error}"):
        open_corpus("hf:a/b", MODEL)
    with pytest.raises(InputError, match="without a tokenizer"):
        open_corpus("hf:a/b", tiny_model())
