"""The signed top set against sorting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.search import top_nodes
from hagd_jax.units import Nodes, Space

SPACE = Space(layers=2, heads=2, features=3)
TOTAL = SPACE.nodes


@given(
    st.lists(st.floats(-5, 5).map(lambda x: round(x, 1)), min_size=TOTAL, max_size=TOTAL),
    st.integers(0, TOTAL),
)
def test_keeps_exactly_the_highest(values, size):
    kept = top_nodes(Nodes.from_flat(SPACE, np.array(values)), size).flat()
    assert kept.sum() == size
    assert sorted(np.array(values)[kept]) == sorted(values)[TOTAL - size :]


def test_the_sign_decides_and_not_the_magnitude():
    scores = np.zeros(TOTAL)
    scores[3], scores[7] = -9, 1
    assert np.flatnonzero(top_nodes(Nodes.from_flat(SPACE, scores), 1).flat()) == [7]


@pytest.mark.parametrize("size", [-1, TOTAL + 1])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(InputError, match=f"0 to {TOTAL}"):
        top_nodes(Nodes.from_flat(SPACE, np.zeros(TOTAL)), size)


def test_scores_that_are_not_numbers_are_refused():
    scores = Nodes.from_flat(SPACE, np.array([np.nan, np.inf] + [0.0] * (TOTAL - 2)))
    with pytest.raises(InputError, match="2 that are not finite"):
        top_nodes(scores, 1)
