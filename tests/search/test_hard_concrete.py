"""Masks: their distribution, their expected size, and the gradient that leaves the size alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.search import Tree
from hagd_jax.search.hard_concrete import open_probability, sample
from hagd_jax.search.tree import draw, expected_size, gathered, ranks, shifted


def some_tree():
    """Two levels above twelve nodes."""
    coarse = np.repeat([0, 1], 6)
    fine = np.repeat([0, 1, 2, 3], 3)
    return Tree.of([coarse, fine])


def some_logits(tree, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(0, 2, n), jnp.float32) for n in (*tree.counts, 12)]


def test_the_chance_of_being_open_is_that_of_many_draws():
    """Half a million draws of each: 0.003 is four standard errors."""
    logits = jnp.array([-3.0, -0.5, 0.0, 2.0])
    u = jax.random.uniform(jax.random.key(0), (500_000, 1))
    z = sample(logits, u)
    np.testing.assert_allclose((z > 0).mean(0), open_probability(logits), atol=3e-3)
    assert ((z == 0).mean(0) > 0.01).all()
    assert ((z == 1).mean(0) > 0.01).all()
    assert z.min() == 0
    assert z.max() == 1


def test_draws_agree_with_the_formula_in_float64():
    u, alpha = np.float64(0.3), np.float64(0.7)
    soft = 1 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + alpha) / (2 / 3)))
    expected = min(max(soft * 1.2 - 0.1, 0), 1)
    assert 0 < expected < 1
    np.testing.assert_allclose(sample(jnp.float32(alpha), jnp.float32(u)), expected, atol=1e-6)
    assert np.isfinite(sample(jnp.zeros(2), jnp.array([0.0, 1.0]))).all()


@settings(max_examples=30)
@given(st.integers(0, 50), st.floats(0.05, 0.95), st.booleans())
def test_the_expected_size_is_the_one_asked_for(seed, share, flat):
    tree = Tree(()) if flat else some_tree()
    logits = some_logits(some_tree(), seed)[-1:] if flat else some_logits(tree, seed)
    opened = jnp.ones(len(logits), bool)
    moved = shifted(tree, logits, opened, jnp.float32(12 * share))
    found = expected_size(tree, moved, opened, jnp.float32(0))
    np.testing.assert_allclose(found, 12 * share, rtol=1e-3)
    # All logits moved by the same amount, so the order stays.
    steps = [np.asarray(a - b) for a, b in zip(logits, moved, strict=True)]
    assert np.ptp(np.concatenate(steps)) < 1e-4


def test_no_gradient_makes_the_mask_larger():
    """Of any loss of the shifted logits, the derivative of the expected size along it is 0."""
    tree, opened = some_tree(), jnp.ones(3, bool)
    logits, size = some_logits(tree), jnp.float32(5)

    def total(own):
        moved = shifted(tree, own, opened, size)
        return expected_size(tree, moved, opened, jnp.float32(0))

    flat = jnp.concatenate(jax.tree.leaves(jax.grad(total)(logits)))
    assert jnp.abs(flat).max() < 1e-4

    # And it is the derivative of the shift: against finite differences.
    def first(x):
        own = [*logits[:2], logits[2].at[0].set(x)]
        return shifted(tree, own, opened, size)[2][5]

    x = logits[2][0]
    numeric = (first(x + 0.05) - first(x - 0.05)) / 0.1
    assert abs(numeric) > 1e-3
    np.testing.assert_allclose(jax.grad(first)(x), numeric, rtol=0.05)


def test_a_node_is_open_if_all_above_it_are():
    tree = some_tree()
    logits = [jnp.array([50.0, -50.0]), jnp.full(4, 50.0).at[0].set(-50), jnp.full(12, 50.0)]
    opened = jnp.ones(3, bool)
    masks = draw(tree, logits, opened, jax.random.key(0), 5)
    np.testing.assert_array_equal(masks, np.tile(np.repeat([0, 1, 0, 0], 3), (5, 1)))
    # Levels that have not joined are open.
    early = draw(tree, logits, jnp.array([True, False, False]), jax.random.key(0), 5)
    np.testing.assert_array_equal(early, np.tile(np.repeat([1, 0], 6), (5, 1)))
    assert [level.shape for level in gathered(tree, logits)] == [(12,)] * 3
    order = ranks(tree, logits, jnp.float32(3))
    assert set(np.argsort(-order)[:3].tolist()) == {3, 4, 5}


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([[0, 0, 1], [0, 1]], "as many in each"),
        ([[0, 0, 1], [0, 1, 1]], "levels that nest"),
        ([[0, -1]], "0 or more"),
        ([[0.5, 1.0]], "0 or more"),
        ([[]], "as many in each"),
    ],
)
def test_what_is_no_tree_is_refused(levels, words):
    with pytest.raises(InputError, match=words):
        Tree.of([np.array(level) for level in levels])
