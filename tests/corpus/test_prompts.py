import numpy as np
import pytest

from hagd_jax.corpus import CorpusConfig, open_corpus
from hagd_jax.errors import InputError
from hagd_jax.tasks import Sizes, Task, Text, make_prompts, task
from tests.corpus.corpus_models import counted, tiny_model
from tests.tasks.conftest import byte_bpe, corpus


@pytest.fixture(scope="module")
def model():
    from hagd_jax.models import Tokenizer

    native = byte_bpe(corpus(), special=["<s>", "</s>"])
    tokenizer = Tokenizer(native.to_str(), bos_id=0, eos_id=1, add_bos=True)
    return tiny_model(tokenizer, vocab_size=tokenizer.vocab_size)


def test_prompts_and_counterfactuals_are_rows(model):
    config = CorpusConfig(prompts=40, held_out=0.1, seed=3)
    found = open_corpus("task:ioi", model, config)
    prompts = task("ioi", model, sizes=Sizes(discover=40), seed=3).splits["discover"]
    expected = {
        tuple(row[1:n].tolist())  # behind the beginning token, which weighs nothing
        for rows in (prompts.clean, prompts.corrupted)
        for row, n in zip(rows, prompts.length, strict=True)
    }
    train, held_out = ([tuple(row) for row in counted(p[:])] for p in (found.train, found.held_out))
    assert set(train) | set(held_out) == expected
    assert len(train) + len(held_out) == len(expected)
    assert not set(train) & set(held_out)
    assert len(held_out) == round(0.1 * len(expected)) > 4
    tokens, weight = found.train[:]
    assert tokens.shape[1] == prompts.length.max() < config.length
    assert (tokens[:, 0] == 0).all()
    assert (weight[:, 0] == 0).all()
    assert next(found.batches(4)).tokens.shape == (4, tokens.shape[1])
    assert found.name == "task:ioi"


def test_a_task_of_ones_own():
    clean, corrupted = [[1, 2], [3], [4, 5]], [[6, 7], [8], [1, 2]]  # one comes twice
    splits = {"discover": make_prompts(clean, corrupted, [1, 2, 3], [2, 3, 4], vocab_size=42)}
    texts = {"discover": (Text("a", "b", "c", "d", "t"),) * 3}
    own = Task("own", "Mine.", splits, texts)
    found = open_corpus(own, tiny_model(), CorpusConfig(held_out=0))
    assert counted(found.train[:]) == [[1, 2], [3], [4, 5], [6, 7], [8]]
    np.testing.assert_array_equal(found.train[1].tokens, [3, 0])
    with pytest.raises(InputError, match=r"got .*; expected 0 to 6"):
        open_corpus(own, tiny_model(vocab_size=7), CorpusConfig(held_out=0))
    with pytest.raises(InputError, match=r"task 'none': got .*; expected 'discover'"):
        open_corpus(Task("none", "", {}, {}), tiny_model())


def test_tasks_that_do_not_exist(model):
    with pytest.raises(InputError, match=r"task: got 'iio'; .*Did you mean ioi"):
        open_corpus("task:iio", model)
    with pytest.raises(InputError, match="without a tokenizer"):
        open_corpus("task:ioi", tiny_model())
    with pytest.raises(InputError, match="size of the discover split of ioi"):
        open_corpus("task:ioi", model, CorpusConfig(prompts=10**9))
