"""The signed top set against sorting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.models import DecoderConfig
from hagd_jax.search import top_nodes
from hagd_jax.tasks import Seen, look
from hagd_jax.units import Edges, Nodes, Scores, Space

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


@pytest.mark.parametrize("size", [-1, TOTAL + 1, 1.0, True, None])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(InputError, match=f"0 to {TOTAL}"):
        top_nodes(Nodes.from_flat(SPACE, np.zeros(TOTAL)), size)


def test_scores_that_are_not_numbers_are_refused():
    scores = Nodes.from_flat(SPACE, np.array([np.nan, np.inf] + [0.0] * (TOTAL - 2)))
    with pytest.raises(InputError, match="2 that are not finite"):
        top_nodes(scores, 1)


def test_other_things_than_scores_of_nodes_are_refused():
    edges = Edges.existing(DecoderConfig(vocab_size=9, n_layers=1, d_model=4, n_heads=1, d_mlp=4))
    for bad in (edges, np.zeros(TOTAL), None, Scores(edges, Seen.nothing())):
        with pytest.raises(InputError, match="expected `Nodes`"):
            top_nodes(bad, 1)


def test_the_selection_has_seen_what_the_scores_have():
    values, seen = Nodes.from_flat(SPACE, np.arange(TOTAL)), look(ablation="mean")
    assert top_nodes(Scores(values, seen), 3).seen == seen
    assert top_nodes(values, 3).seen == Seen.unknown()
