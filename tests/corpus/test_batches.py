import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.corpus import Batch, CorpusConfig, corpus_of_tokens
from hagd_jax.errors import CheckpointError, ConfigError, InputError
from tests.corpus.corpus_models import tiny_model

# Row i holds i in base 6: a row can be told from its first two tokens.
N = 23
ROWS = np.stack([np.arange(N) // 6, np.arange(N) % 6, np.ones(N, int)], axis=1)
CORPUS = corpus_of_tokens("t", ROWS, tiny_model(), CorpusConfig(held_out=0.2))
TRAIN = 18


def ids(batch):
    return (batch.tokens[:, 0] * 6 + batch.tokens[:, 1]).tolist()


def first(batches, count):
    return [next(batches) for _ in range(count)]


def test_parts_have_nothing_in_common_and_leave_nothing_out():
    train, held_out = ids(CORPUS.train[:]), ids(CORPUS.held_out[:])
    assert (len(train), len(held_out)) == (TRAIN, 5)
    assert sorted(train + held_out) == list(range(N))


@settings(max_examples=20)
@given(st.integers(1, TRAIN), st.integers(0, 2**32 - 1), st.sampled_from(["train", "held_out"]))
def test_every_row_comes_once_an_epoch(batch_size, seed, part):
    rows = getattr(CORPUS, part)
    batch_size = min(batch_size, len(rows))
    epochs = 3
    stream = CORPUS.batches(batch_size, seed=seed, part=part)
    count = -(-epochs * len(rows) // batch_size)
    seen = [i for batch in first(stream, count) for i in ids(batch)]
    for epoch in range(epochs):
        one = seen[epoch * len(rows) : (epoch + 1) * len(rows)]
        assert sorted(one) == sorted(ids(rows[:]))


def test_orders_differ_by_seed_and_epoch_and_are_the_same_again():
    def epochs(seed):
        seen = [i for batch in first(CORPUS.batches(6, seed=seed), 9) for i in ids(batch)]
        return [tuple(seen[start : start + TRAIN]) for start in range(0, len(seen), TRAIN)]

    orders = [order for seed in range(4) for order in epochs(seed)]
    assert len(set(orders)) == len(orders) == 12
    assert epochs(2) == epochs(2)


@settings(max_examples=25)
@given(st.integers(1, 7), st.integers(0, 9), st.integers(0, 3), st.data())
def test_restored_batches_go_on_as_if_uninterrupted(batch_size, stop, seed, data):
    whole = first(CORPUS.batches(batch_size, seed=seed), stop + 6)
    stream = CORPUS.batches(batch_size, seed=seed)
    first(stream, stop)
    state = json.loads(json.dumps(stream.state()))
    # The one restored may be new, or anywhere else.
    other = CORPUS.batches(batch_size, seed=seed)
    first(other, data.draw(st.integers(0, 5)))
    other.restore(state)
    assert other.state() == state
    for expected, got, again in zip(whole[stop:], first(stream, 6), first(other, 6), strict=True):
        assert isinstance(got, Batch)
        for a, b, c in zip(expected, got, again, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)
            assert a.any()


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_shares_in_order_are_the_global_batch(count):
    whole = first(CORPUS.batches(6, seed=5), 8)
    parts = [CORPUS.batches(6, seed=5, share=(i, count)) for i in range(count)]
    for expected in whole:
        got = [next(part) for part in parts]
        assert {len(batch.tokens) for batch in got} == {6 // count}
        for field in ("tokens", "weight"):
            joined = np.concatenate([getattr(batch, field) for batch in got])
            np.testing.assert_array_equal(joined, getattr(expected, field))
    # One state serves all of them, also when another number of processes goes on.
    assert all(part.state() == parts[0].state() for part in parts)
    alone = CORPUS.batches(6, seed=5)
    alone.restore(parts[-1].state())
    assert ids(next(alone)) == [i for part in parts for i in ids(next(part))]


def test_no_thread_is_left_behind():
    before = threading.active_count()
    stream = CORPUS.batches(4)
    first(stream, 3)
    assert threading.active_count() == before


def test_states_of_something_else_are_refused():
    state = CORPUS.batches(4, seed=1).state()
    changed = corpus_of_tokens("t", ROWS[1:], tiny_model(), CorpusConfig(held_out=0.2))
    others = {
        "corpus": changed.batches(4, seed=1),
        "batch_size": CORPUS.batches(3, seed=1),
        "seed": CORPUS.batches(4, seed=2),
        "part": CORPUS.batches(4, seed=1, part="held_out"),
    }
    for field, other in others.items():
        with pytest.raises(CheckpointError, match=f"data position, {field}: got .*; expected"):
            other.restore(state)


@pytest.mark.parametrize("position", [None, 3, [], {}, {"next_index": "x"}, {"next_index": -1}])
def test_broken_positions_are_refused_and_change_nothing(position):
    stream = CORPUS.batches(4)
    first(stream, 2)
    state = stream.state()
    with pytest.raises(CheckpointError, match=r"data position: got .*; expected one from state"):
        stream.restore(state | {"position": position})
    with pytest.raises(CheckpointError, match="expected a dict"):
        stream.restore(None)
    assert stream.state() == state


@pytest.mark.parametrize(
    ("batch_size", "options", "message"),
    [
        (0, {}, "batch_size: got 0"),
        (2.0, {}, r"batch_size: got 2\.0"),
        (TRAIN + 1, {}, "batch_size: got 19; expected at most the 18 sequences"),
        (6, {"part": "held_out"}, "batch_size: got 6; expected at most the 5 sequences"),
        (4, {"seed": -1}, "seed: got -1"),
        (4, {"seed": 2**32}, "seed: got 4294967296"),
        (4, {"share": (0, 3)}, "batch_size: got 4; expected a multiple of 3 processes"),
        (4, {"share": (2, 2)}, "index of share: got 2; expected below the count, 2"),
        (4, {"share": (0, 0)}, "count of share: got 0"),
    ],
)
def test_bad_requests(batch_size, options, message):
    with pytest.raises(ConfigError, match=message):
        CORPUS.batches(batch_size, **options)


def test_unknown_part():
    with pytest.raises(InputError, match="part: got 'test'; expected one of train, held_out"):
        CORPUS.batches(4, part="test")


def test_nothing_held_out():
    corpus = corpus_of_tokens("t", ROWS, tiny_model(), CorpusConfig(held_out=0))
    assert (len(corpus.train), len(corpus.held_out)) == (N, 0)
    with pytest.raises(ConfigError, match="the 0 sequences"):
        corpus.batches(1, part="held_out")
