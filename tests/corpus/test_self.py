import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hagd_jax.corpus import CorpusConfig, open_corpus, sampling
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import forward
from hagd_jax.parallel import make_mesh
from tests.corpus.corpus_models import BOS, EOS, tiny_model, with_weights, word_tokenizer
from tests.models.noise import on_mesh

V = 5


def markov(seed=0):
    """A model whose next token hangs on the last one by a known law, and that law (V, V)."""
    law = np.random.default_rng(seed).dirichlet(np.ones(V), V) / 2 + 1 / (2 * V)
    model = tiny_model(vocab_size=V, d_model=V, n_heads=1, norm="none", positions="none")
    model = with_weights(model)
    params = jax.tree.map(jnp.zeros_like, model.params)
    params["embed"]["embedding"] = jnp.eye(V)
    params["unembed"]["kernel"] = jnp.log(law.astype(np.float32))
    return model.replace(params=params), law


def test_samples_follow_the_models_law():
    model, law = markov()
    tokens = sampling.sample(model, 4000, 6, seed=0)
    starts = np.bincount(tokens[:, 0], minlength=V)
    assert stats.chisquare(starts).pvalue > 1e-3
    # Every position has the same law, so also late ones wait for those before them.
    for column in (1, 3, 5):
        counts = np.zeros((V, V))
        np.add.at(counts, (tokens[:, column - 1], tokens[:, column]), 1)
        expected = law * counts.sum(axis=1, keepdims=True)
        assert expected.min() > 20
        # One test a row of the law; 1e-4 since there are 15 of them and the seed is fixed.
        for row, mean in zip(counts, expected, strict=True):
            assert stats.chisquare(row, mean * row.sum() / mean.sum()).pvalue > 1e-4


def test_samples_equal_a_loop_over_positions():
    # Larger weights, so that a token hangs on all before it.
    model = with_weights(tiny_model())
    model = model.replace(params=jax.tree.map(lambda x: 2 * x, model.params))
    found = sampling.sample(model, 10, 8, seed=7, begin=(BOS,))
    noise = jax.vmap(lambda row: sampling._noise(model, np.uint32(7), row, 8)[0])(jnp.arange(10))
    tokens = np.zeros((10, 8), np.int32)
    tokens[:, 0] = BOS
    for t in range(7):
        logits = np.asarray(forward(model, tokens).logits[:, t], np.float64)
        tokens[:, t + 1] = np.argmax(logits + np.asarray(noise[:, t]), axis=-1)
    np.testing.assert_array_equal(found, tokens)
    assert len(np.unique(found[:, 1:])) > 10


def test_sampling_in_parts_and_on_a_mesh_changes_nothing(monkeypatch):
    model = with_weights(tiny_model())
    calls = []
    whole = sampling.sample(model, 10, 8, 1, (BOS,), lambda *call: calls.append(call))
    assert calls == [("sample", 0, 10), ("sample", 10, 10)]
    monkeypatch.setattr(sampling, "_LOGITS", 4 * 8 * 42)  # four rows at a time
    parts = sampling.sample(model, 10, 8, 1, (BOS,), lambda *call: calls.append(call))
    assert calls[3:] == [("sample", 4, 10), ("sample", 8, 10), ("sample", 10, 10)]
    np.testing.assert_array_equal(whole, parts)
    mesh = make_mesh("data=2,model=2", jax.devices()[:4])
    spread = on_mesh(model, mesh)
    # Ties within rounding do not occur in these few draws.
    np.testing.assert_array_equal(whole, sampling.sample(spread, 10, 8, 1, (BOS,)))
    assert not np.array_equal(whole, sampling.sample(model, 10, 8, 2, (BOS,)))


def test_corpus_of_the_model_itself():
    model = with_weights(tiny_model(word_tokenizer()))
    config = CorpusConfig(length=8, samples=40, held_out=0.1)
    corpus = open_corpus("self", model, config)
    assert (len(corpus.train), len(corpus.held_out)) == (36, 4)
    tokens, weight = corpus.train[:]
    assert (tokens[:, 0] == BOS).all()
    np.testing.assert_array_equal(weight, ~np.isin(tokens, (BOS, EOS)))
    assert corpus.fingerprint == open_corpus("self", model, config).fingerprint
    other = CorpusConfig(length=8, samples=40, held_out=0.1, seed=1)
    assert corpus.fingerprint != open_corpus("self", model, other).fingerprint


def test_without_special_tokens_the_first_token_is_drawn():
    corpus = open_corpus("self", with_weights(tiny_model()), CorpusConfig(length=8, samples=40))
    tokens, weight = corpus.train[:]
    assert len(np.unique(tokens[:, 0])) > 10
    assert weight.all()


def test_models_that_cannot_be_sampled():
    with pytest.raises(ConfigError, match=r"length: got 129; .* max_positions = 128"):
        open_corpus("self", tiny_model(), CorpusConfig(length=129))
    with pytest.raises(InputError, match="got one that reads both ways; expected a causal"):
        open_corpus("self", tiny_model(causal=False), CorpusConfig(length=8))
