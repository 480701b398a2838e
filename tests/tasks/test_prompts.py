import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.models import DecoderConfig, forward, init
from hagd_jax.tasks import (
    Sizes,
    Task,
    Text,
    batches,
    check_prompts,
    correct,
    logit_difference,
    make_prompts,
    read_logits,
)

VOCAB = 11


def rows(lengths, seed=0):
    rng = np.random.default_rng(seed)
    clean = [rng.integers(0, VOCAB, n).tolist() for n in lengths]
    corrupted = [rng.integers(0, VOCAB, n).tolist() for n in lengths]
    answer = rng.integers(0, VOCAB, len(lengths))
    return clean, corrupted, answer, (answer + rng.integers(1, VOCAB, len(lengths))) % VOCAB


def prompts(lengths=(3, 5, 1, 4), seed=0, **options):
    return make_prompts(*rows(lengths, seed), vocab_size=VOCAB, **options)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_rows_are_kept_and_padded_on_the_right(lengths, seed):
    clean, corrupted, answer, distractor = rows(lengths, seed)
    made = make_prompts(clean, corrupted, answer, distractor, vocab_size=VOCAB)
    assert made.clean.shape == made.corrupted.shape == (len(lengths), max(lengths))
    assert made.length.tolist() == lengths
    assert made.position.tolist() == [n - 1 for n in lengths]
    for i, n in enumerate(lengths):
        assert made.clean[i, :n].tolist() == clean[i]
        assert made.corrupted[i, :n].tolist() == corrupted[i]
        assert set(made.clean[i, n:].tolist()) | set(made.corrupted[i, n:].tolist()) <= {0}
    assert all(leaf.dtype == np.int32 for leaf in jax.tree.leaves(made))


def test_scores_equal_loops_in_numpy():
    made = prompts()
    logits = np.random.default_rng(1).normal(size=(4, 5, VOCAB)).astype(np.float32)
    at = np.stack([logits[i, made.position[i]] for i in range(4)])
    np.testing.assert_array_equal(read_logits(logits, made)[:, 0], at)
    expected = [at[i, made.answer[i]] - at[i, made.distractor[i]] for i in range(4)]
    np.testing.assert_array_equal(logit_difference(logits, made), expected)
    np.testing.assert_array_equal(jax.jit(logit_difference)(logits, made), expected)
    assert np.all(np.asarray(expected) != 0)
    np.testing.assert_array_equal(correct(logits, made), np.asarray(expected) > 0)


@pytest.mark.parametrize("seed", range(5))
def test_correct_among_candidates_is_an_argmax(seed):
    made = prompts(lengths=[2] * 40, seed=seed)
    candidates = tuple(range(VOCAB))
    logits = np.random.default_rng(seed).normal(size=(40, 2, VOCAB))
    # Push the answers up, so that about half of them win.
    logits[np.arange(40), 1, made.answer] += 1.5
    expected = logits[:, 1].argmax(axis=-1) == made.answer
    assert 0 < expected.sum() < 40
    np.testing.assert_array_equal(correct(logits, made, candidates), expected)
    rule = jax.jit(correct, static_argnames="candidates")
    np.testing.assert_array_equal(rule(logits, made, candidates=candidates), expected)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_tie_and_a_nan_are_not_correct(value):
    made = prompts()
    logits = jnp.full((4, 5, VOCAB), value)
    assert not correct(logits, made).any()
    assert not correct(logits, made, tuple(range(VOCAB))).any()


def test_padding_does_not_disturb_a_causal_model():
    config = DecoderConfig(vocab_size=VOCAB, n_layers=1, d_model=8, n_heads=2, d_mlp=16)
    model = init(config, jax.random.key(0))
    made = prompts(lengths=(3, 5))
    padded = read_logits(forward(model, made.clean).logits, made)[:, 0]
    alone = forward(model, made.clean[:1, :3]).logits[0, -1]
    assert np.abs(alone).max() > 0.1
    np.testing.assert_allclose(padded[0], alone, atol=1e-6)


@pytest.mark.parametrize(("size", "expected"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_batches_go_through_all_rows_in_order(size, expected):
    made = prompts(lengths=[2] * 5)
    parts = list(batches(made, size))
    assert [len(part) for part in parts] == expected
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    chex.assert_trees_all_equal(joined, made)


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_a_batch_needs_rows(size):
    with pytest.raises(InputError, match="batch size"):
        batches(prompts(), size)


@pytest.mark.parametrize(
    ("clean", "corrupted", "answer", "options", "message"),
    [
        ([], [], [], {}, "prompts: got none"),
        ([[]], [[]], [1], {}, "prompt 0: got no tokens"),
        ([[1], [1, 2]], [[1], [1]], [1, 1], {}, "prompt 1: got 2 clean and 1 corrupted"),
        ([[1]], [[1], [2]], [1], {}, "corrupted: got 2 prompts"),
        ([[1, 11]], [[1, 1]], [1], {}, "clean of prompt 0: got 11; expected 0 to 10"),
        ([[1]], [[-1]], [1], {}, "corrupted of prompt 0: got -1"),
        ([[1]], [[1]], [12], {}, "answer of prompt 0: got 12"),
        ([[1]], [[1]], [0], {}, "token 0 as answer and as distractor"),
        ([[1]], [[1]], [1], {"position": [1]}, "position of prompt 0: got 1; expected 0 to 0"),
        ([[1]], [[1]], [1], {"position": [-1]}, "position of prompt 0: got -1"),
        ([[1]], [[1]], [1, 2], {}, "answer: got shape"),
        ([[1, 2]], [[1, 1]], [1], {"width": 1}, "width: got 1; expected at least 2"),
    ],
)
def test_bad_prompts_are_refused(clean, corrupted, answer, options, message):
    with pytest.raises(InputError, match=message):
        make_prompts(clean, corrupted, answer, [0] * len(clean), vocab_size=VOCAB, **options)


def test_prompts_made_by_hand_are_checked():
    made = prompts()
    check_prompts(made, VOCAB)
    for change, message in [
        ({"clean": made.clean.astype(np.float32)}, "dtype"),
        ({"corrupted": made.corrupted[:, :2]}, "shapes"),
        ({"length": made.length * 0}, "length"),
        ({"answer": made.answer + VOCAB}, "answer"),
    ]:
        with pytest.raises(InputError, match=message):
            check_prompts(made.replace(**change), VOCAB)


def test_a_task_needs_its_texts_and_its_candidates():
    made = prompts(lengths=(2,))
    text = Text("a", "b", "c", "d", "a")
    with pytest.raises(InputError, match="got 2 texts"):
        Task("mine", "", {"test": made}, {"test": (text, text)})
    with pytest.raises(InputError, match="members of the task's candidates"):
        Task("mine", "", {"test": made}, {"test": (text,)}, candidates=(VOCAB + 1,))


@pytest.mark.parametrize("size", [0, -3, 1.0, True])
def test_sizes_are_positive(size):
    with pytest.raises(InputError, match="discover split"):
        Sizes(discover=size)
