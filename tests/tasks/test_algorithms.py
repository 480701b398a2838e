"""Algorithms against their definitions, and that what is asked was never trained on."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import abstract, forward
from hagd_jax.tasks import SPLITS, Sizes, dyck, induction, modular, parity, sorting, task
from hagd_jax.tasks.algorithm import TRAIN, first_places, part_of
from hagd_jax.testbeds.small_training import SmallTrainConfig, decoder_config, train_small

RULES = {
    "parity": parity(8),
    "sorting": sorting(4, 9),
    "induction": induction(12, 6),
    "induction of all letters": induction(8, 8),
    "dyck": dyck(8, 3),
    "multiplication": modular.algorithm(11, "multiply"),
}


def answer(name, words):
    """What follows, from the words alone."""
    if name == "parity":
        return str(words.count("1") % 2)
    if name == "sorting":
        place = words.index("=")
        return sorted(words[:place], key=int)[len(words) - place - 1]
    if name.startswith("induction"):
        return words[words.index(words[-1]) + 1]
    if name == "dyck":
        text = "".join(words)
        while "()" in text or "[]" in text:
            text = text.replace("()", "").replace("[]", "")
        return {"(": ")", "[": "]"}[text[-1]]
    return str(int(words[0]) * int(words[1]) % 11)


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("seed", [0, 7])
def test_answers_are_right_and_counterfactuals_have_others(name, seed):
    made = RULES[name].task(sizes=Sizes(30, 15, 20), seed=seed)
    for split in SPLITS:
        p, texts = made.splits[split], made.texts[split]
        assert len(p) >= 5
        assert len({text.clean for text in texts}) == len(texts)
        for i, text in enumerate(texts):
            assert text.answer == answer(name, text.clean.split()) != text.distractor
            assert text.distractor == answer(name, text.corrupted.split())
            words = [RULES[name].words[t] for t in p.clean[i, : p.length[i]]]
            assert " ".join(words) == text.clean
            assert p.position[i] == p.length[i] - 1


@pytest.mark.parametrize("name", sorted(RULES))
def test_no_prompt_begins_like_a_training_example(name):
    rule = RULES[name]
    rng = np.random.default_rng(0)
    seen = rule.sequences(rule.examples(TRAIN, 3000, rng))[0]
    found = rule.task(sizes=Sizes(40, 20, 40))
    for prompts in found.splits.values():
        for row, length in zip(prompts.clean, prompts.length, strict=True):
            asked = row[: max(length, rule.asked + 1)]
            assert not (seen[:, : len(asked)] == asked).all(1).any()


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 1000), min_size=3, max_size=3), min_size=1, max_size=30))
def test_an_input_has_one_owner_whatever_stands_beside_it(rows):
    together = part_of(np.array(rows))
    alone = [part_of(np.array([row]))[0] for row in rows]
    assert together.tolist() == alone
    assert set(alone) <= {TRAIN, *SPLITS}


def test_three_quarters_are_for_training_and_all_splits_have_some():
    parts = part_of(np.array(list(itertools.product(range(2), repeat=12))))
    shares = {part: (parts == part).mean() for part in (TRAIN, *SPLITS)}
    expected = {TRAIN: 0.75, "discover": 0.1, "select": 0.05, "test": 0.1}
    # 4,096 draws: three standard errors.
    assert all(abs(shares[part] - expected[part]) < 0.021 for part in expected)


def test_brackets_are_nested_and_no_deeper_than_asked():
    rule = dyck(12, 3)
    rows = rule.inputs(np.random.default_rng(0), 200)
    depths = np.cumsum(np.where(rows < 2, 1, -1), 1)
    assert depths.min() == 0
    assert depths.max() == 3
    both = rule.changed(np.random.default_rng(1), rows)
    assert ((both < 2) == (rows < 2)).all()
    assert set((both != rows).sum(1)) == {1, 2}
    rule.sequences(both)  # would pop the wrong bracket, or none


@pytest.mark.parametrize("name", ["parity", "sorting", "induction", "dyck", "multiplication"])
def test_a_model_tells_its_algorithm(name):
    rule = RULES[name]
    model = abstract(decoder_config(rule, SmallTrainConfig(d_model=8, n_heads=1, d_mlp=8)))
    if name == "multiplication":
        assert task(rule.name, model).texts == modular.task(11, "multiply").texts
        return
    assert task(rule.name, model).texts == rule.task().texts
    wrong = model.replace(config=model.config.replace(vocab_size=3, max_positions=7))
    with pytest.raises(InputError, match="train_small"):
        task(rule.name, wrong)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [(parity, (2,)), (sorting, (1, 5)), (induction, (3, 3)), (dyck, (8, 1)), (parity, (4.5,))],
)
def test_impossible_sizes_are_refused(make, arguments):
    with pytest.raises(ConfigError, match="a whole number"):
        make(*arguments)


def test_a_small_model_learns_what_it_is_shown():
    rule = parity(4)
    config = SmallTrainConfig(
        d_model=32, n_heads=2, d_mlp=64, batch_size=64, steps=300, check_every=50
    )
    reports = []
    model = train_small(rule, config=config, on_step=lambda *report: reports.append(report))
    inputs = rule.examples(TRAIN, 100, np.random.default_rng(0))
    tokens, answers = rule.sequences(inputs)
    assert (np.asarray(forward(model, tokens).logits).argmax(-1) == answers).mean() > 0.99
    assert reports[-1][2]["loss"] < reports[0][2]["loss"]
    assert model.name == "parity-4"


@given(
    st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[st.integers(-1, 3)] * n), min_size=1))
)
def test_different_rows_are_those_that_numpy_finds(rows):
    rows = np.array(rows)
    for scale in (1, 2**40):  # too large to be read as one number
        _, first = np.unique(rows * scale, axis=0, return_index=True)
        assert sorted(first_places(rows * scale)) == sorted(first)
