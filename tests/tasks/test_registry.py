import pytest

from hagd_jax.errors import InputError
from hagd_jax.models import abstract
from hagd_jax.tasks import Sizes, find, modular, names, task
from hagd_jax.testbeds.small_training import SmallTrainConfig, decoder_config


@pytest.fixture(scope="module")
def model():
    return abstract(
        decoder_config(modular.algorithm(7), SmallTrainConfig(d_model=8, n_heads=1, d_mlp=8))
    )


def test_tasks_by_name(model, tokenizer):
    small = Sizes(8, 4, 8)
    assert task("modular_addition", model, sizes=small).texts == modular.task(7, sizes=small).texts
    speaker = model.replace(tokenizer=tokenizer)
    for name in ("ioi", "capitals"):
        assert name in names()
        made = task(name, speaker, sizes=small, seed=1)
        assert made.name == name
        assert {split: len(p) for split, p in made.splits.items()} == {
            "discover": 8,
            "select": 4,
            "test": 8,
        }
    assert task("ioi", speaker).texts["test"] != task("ioi", speaker, seed=1).texts["test"]


@pytest.mark.parametrize(
    ("asked", "close"), [("oi", "ioi"), ("capitols", "capitals"), ("modular-adition", "modular_")]
)
def test_an_unknown_name_is_refused_with_close_ones(model, asked, close):
    with pytest.raises(InputError, match=f"Did you mean {close}"):
        task(asked, model)


@pytest.mark.parametrize(
    ("asked", "meant"), [("IOI", "ioi"), ("modular-addition", "modular_addition")]
)
def test_case_and_hyphens_do_not_matter(asked, meant):
    assert find(asked) == meant


def test_an_unknown_name_without_close_ones(model):
    with pytest.raises(InputError, match="expected one of agreement, capitals"):
        task("zzzzzz", model)


def test_a_model_without_a_tokenizer_is_refused(model):
    with pytest.raises(InputError, match="without a tokenizer"):
        task("ioi", model)
