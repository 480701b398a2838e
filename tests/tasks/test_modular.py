import dataclasses
import itertools

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import LanguageModel, Tokenizer, abstract, forward
from hagd_jax.parallel import make_mesh
from hagd_jax.tasks import SPLITS, Sizes, correct, modular
from hagd_jax.testbeds import SmallTrainConfig, train_modular
from hagd_jax.testbeds.small_training import decoder_config

TINY = SmallTrainConfig(d_model=32, n_heads=2, d_mlp=64, batch_size=64, steps=150, check_every=10)


def as_set(pairs):
    return set(map(tuple, np.asarray(pairs).tolist()))


@settings(max_examples=25)
@given(p=st.integers(2, 40))
def test_every_pair_has_one_owner_and_mirrors_stay_together(p):
    parts = {name: as_set(pairs) for name, pairs in modular.shares(p).items()}
    assert set(parts) == {*SPLITS, "train"}
    assert sum(map(len, parts.values())) == p * p
    assert set.union(*parts.values()) == set(itertools.product(range(p), repeat=2))
    for pairs in parts.values():
        assert {(b, a) for a, b in pairs} == pairs
    assert all(parts[split] for split in SPLITS)


def test_three_quarters_are_for_training():
    assert len(modular.shares(53)["train"]) / 53**2 == pytest.approx(0.75, abs=0.01)


@settings(max_examples=20)
@given(p=st.integers(2, 30), seed=st.integers(0, 1000))
def test_prompts_add_and_counterfactuals_have_other_sums(p, seed):
    made = modular.task(p, seed=seed)
    tokenizer = Tokenizer.words(modular.vocabulary(p))
    assert made.candidates == tuple(range(p))
    for split in SPLITS:
        prompts, texts = made.splits[split], made.texts[split]
        assert as_set(prompts.clean[:, :2]) <= as_set(modular.shares(p)[split])
        assert len(as_set(prompts.clean)) == len(prompts)
        assert (prompts.clean[:, 2] == p).all()
        assert (prompts.position == 2).all()
        for i, text in enumerate(texts):
            a, b, _ = prompts.clean[i].tolist()
            c, d, _ = prompts.corrupted[i].tolist()
            assert prompts.answer[i] == (a + b) % p != (c + d) % p == prompts.distractor[i]
            assert tokenizer.encode(text.clean) == prompts.clean[i].tolist()
            assert tokenizer.encode(text.corrupted) == prompts.corrupted[i].tolist()
            assert tokenizer.encode(text.answer) == [prompts.answer[i]]


def test_counterfactuals_stay_in_their_split():
    for split, prompts in modular.task(53).splits.items():
        assert as_set(prompts.corrupted[:, :2]) <= as_set(modular.shares(53)[split])


def test_sizes_are_upper_bounds():
    assert {s: len(p) for s, p in modular.task(53).splits.items()} == {
        "discover": 64,
        "select": 32,
        "test": 64,
    }
    pairs = modular.shares(7)
    everything = modular.task(7, sizes=Sizes(100, 100, 100)).splits
    assert all(len(everything[split]) == len(pairs[split]) for split in SPLITS)


def test_the_seed_decides_the_draw():
    one, same, other = (modular.task(53, seed=s).texts for s in (5, 5, 6))
    assert one == same
    assert one["test"] != other["test"]


@pytest.mark.parametrize("p", [1, 0, -3, 5.0, True, "7"])
def test_what_is_no_modulus_is_refused(p):
    for function in (modular.task, modular.shares, modular.vocabulary, train_modular):
        with pytest.raises(InputError, match="p: got"):
            function(p)


def test_a_model_of_another_vocabulary_is_refused():
    model = abstract(decoder_config(modular.algorithm(7), TINY))
    assert modular.modulus(model) == 7
    assert modular.modulus(model.replace(tokenizer=Tokenizer.words(modular.vocabulary(7)))) == 7
    for wrong in (Tokenizer.words(list("abcdefgh")), Tokenizer.words(modular.vocabulary(5))):
        with pytest.raises(InputError, match="train_modular"):
            modular.modulus(model.replace(tokenizer=wrong))


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"batch_size": -1}, {"weight_decay": -1.0}, {"learning_rate": 0.0}]
)
def test_a_bad_training_configuration_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        SmallTrainConfig(**change)


def test_nothing_to_train_on_is_refused():
    with pytest.raises(InputError, match="training examples of modular_addition: got none"):
        train_modular(2)


@dataclasses.dataclass
class Run:
    """One training: the model, and what was reported."""

    model: LanguageModel
    steps: list
    losses: list


def run(**changes) -> Run:
    reports = []
    mesh = changes.pop("mesh", None)
    model = train_modular(
        7,
        config=dataclasses.replace(TINY, **changes),
        mesh=mesh,
        on_step=lambda step, total, metrics: reports.append((step, total, metrics["loss"])),
    )
    assert len({total for _, total, _ in reports}) == 1
    return Run(model, [r[0] for r in reports], [r[2] for r in reports])


@pytest.fixture(scope="module")
def short():
    # Every accuracy reaches the target, so patience ends it.
    return run(target=0.0, patience=2)


def test_training_fits_its_pairs_and_is_deterministic(short):
    full = run()
    assert full.steps == list(range(10, 151, 10))
    assert full.losses[-1] < 0.1 < full.losses[0]
    pairs = modular.shares(7)["train"]
    guess = forward(full.model, modular.tokens(pairs, 7)).logits[:, -1, :7].argmax(axis=-1)
    np.testing.assert_array_equal(guess, pairs.sum(axis=1) % 7)
    assert full.losses[:2] == short.losses


def test_training_stops_after_patience(short):
    assert short.steps == [10, 20]


def test_a_mesh_changes_nothing(short):
    spread = run(steps=20, mesh=make_mesh("data=2,model=2", devices=jax.devices()[:4]))
    assert spread.losses == pytest.approx(short.losses, rel=1e-4)
    one, other = short.model.params, spread.model.params
    assert len(other["blocks"]["mlp"]["in"]["kernel"].sharding.device_set) == 4
    assert np.abs(one["embed"]["embedding"]).max() > 0.01
    chex.assert_trees_all_close(one, other, atol=1e-3)


@pytest.mark.slow
def test_a_model_of_53_adds_pairs_it_has_never_seen():
    model = train_modular(53)
    task = modular.task(53, sizes=Sizes(300, 300, 300))
    right = correct(forward(model, task.splits["test"].clean).logits, task.splits["test"], None)
    assert len(right) > 250
    assert right.mean() >= 0.99
