"""No key is in two splits, most rows remain, and the order of rows decides nothing."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.tasks import SPLITS
from hagd_jax.tasks.benchmarks.division import common, content, divide, own_words, shared_words

ROWS = st.lists(st.frozensets(st.sampled_from("abcdefghijkl"), min_size=1, max_size=3), max_size=40)


@given(ROWS)
def test_no_key_is_in_two_splits(rows):
    splits = divide(rows)
    where = {}
    for row, split in zip(rows, splits, strict=True):
        for key in row if split else ():
            assert where.setdefault(key, split) == split
    # The same rows in another order have the same splits.
    turned = divide(rows[::-1])[::-1]
    assert turned == splits


def test_a_row_is_only_left_out_if_its_keys_are_in_several_splits():
    rng = np.random.default_rng(0)
    names = [f"w{i}" for i in range(60)]
    rows = [frozenset(rng.choice(names, 2, replace=False)) for _ in range(150)]
    splits = divide(rows)
    places = {key: split for row, split in zip(rows, splits, strict=True) if split for key in row}
    for row, split in zip(rows, splits, strict=True):
        if split is None:
            assert len({places.get(key) for key in row}) > 1 or not row <= places.keys()
    # By their hashes alone 36% would remain.
    counts = [splits.count(split) for split in SPLITS]
    assert sum(counts) > 0.45 * len(rows)
    assert min(counts) > 5


def test_no_split_is_emptied_for_the_others():
    names = [f"w{i}" for i in range(9)]
    rows = [frozenset(pair) for pair in itertools.combinations(names, 2)]
    assert min(map(divide(rows).count, SPLITS)) >= 1
    # Both numbers of a noun are one key.
    both = [row | {f"{key}s" for key in row} for row in rows]
    assert divide(both) == divide(rows)


def test_single_keys_are_dealt_in_the_shares_of_the_splits():
    rows = [frozenset([f"subject {i}"]) for i in range(50)]
    assert sorted(map(divide(rows).count, SPLITS)) == [10, 20, 20]
    assert divide(rows).count("select") == 10
    assert divide([]) == []


def test_words_of_templates_are_no_keys():
    people = [f"{first}{last}" for first in "BCDFGH" for last in ("ana", "ori", "ulu", "iku")]
    texts = [f"{one} decided to thank {two}" for one, two in itertools.permutations(people, 2)]
    keys = own_words([([], [text]) for text in texts])
    assert common([content(text) for text in texts]) == {"decid", "thank"}
    assert set().union(*keys) == {name.lower() for name in people}
    assert all(len(own) == 2 for own in keys)
    said = shared_words({"discover": texts[:1], "test": texts[-1:]})
    assert said == ("splits share 2 words with a meaning: decided, thank",)
    assert shared_words({"discover": ["the"], "test": ["a the"]}) == ()
