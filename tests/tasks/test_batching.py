"""Batches as wide as their prompts."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import ConfigError
from hagd_jax.models import DecoderConfig, init
from hagd_jax.tasks import make_prompts
from hagd_jax.tasks.batching import narrow_batches


@pytest.fixture(scope="module")
def model():
    config = DecoderConfig(
        vocab_size=50, n_layers=1, d_model=4, n_heads=1, d_mlp=4, max_positions=40
    )
    return init(config, jax.random.key(0))


def prompts_of(lengths):
    """Rows that say which prompt they are of; no token is the padding's."""
    rows = [[1 + i] * n for i, n in enumerate(lengths)]
    return make_prompts(rows, rows, [0] * len(rows), [1] * len(rows), vocab_size=50)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    size=st.integers(1, 9),
    widths=st.integers(1, 5),
)
@settings(deadline=None, max_examples=30)
def test_every_prompt_once_and_no_token_lost(model, lengths, size, widths):
    prompts, seen, wide = prompts_of(lengths), [], set()
    beside = {"which": np.arange(len(lengths))}
    rows = min(size, len(lengths))
    for which, batch, own in narrow_batches(model, prompts, beside, size, widths):
        seen += which.tolist()
        wide.add(batch.clean.shape[1])
        assert batch.clean.shape[0] == rows
        expected = np.asarray(prompts.clean)[which, : batch.clean.shape[1]]
        np.testing.assert_array_equal(batch.clean[: len(which)], expected)
        np.testing.assert_array_equal(own["which"][: len(which)], which)
        # Room for all tokens, and not for a whole step more.
        longest = max(lengths[i] for i in which)
        assert longest <= batch.clean.shape[1] < longest + -(-max(lengths) // widths)
    assert sorted(seen) == list(range(len(lengths)))
    assert len(wide) <= widths
    if widths == 1:
        assert seen == sorted(seen)


def test_a_batch_of_no_rows_is_refused(model):
    with pytest.raises(ConfigError, match="batch_size"):
        list(narrow_batches(model, prompts_of([2, 3]), {}, 0))
