"""A prompt that comes twice is one prompt; near-copies are clusters; small tasks say so."""

import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.models import Tokenizer
from hagd_jax.tasks import Sizes, Task, Text, induction, make_prompts, modular, text_task
from hagd_jax.tasks.spread import Candidate, spread

WORDS = Tokenizer.words([*"abcdefgh", "yes", "no"])


def text(clean, template="{x}", corrupted="a"):
    return Text(clean, corrupted, "yes", "no", template)


def test_texts_that_come_twice_are_left_out():
    rows = [text("b"), text("c"), text("b"), text("b", "other")]
    made = text_task("mine", WORDS, {"test": rows, "select": [text("c")]}, description="")
    assert [row.clean for row in made.texts["test"]] == ["b", "c"]
    assert len(made.splits["test"]) == made.distinct("test") == 2
    assert made.notes[:2] == (
        "left out 2 of 4 prompts of test: they come twice",
        "1 prompts are in both test and select",
    )


def test_rows_of_tokens_that_come_twice_are_counted():
    prompts = make_prompts([[1], [2], [1], [1]], [[3]] * 4, [8] * 4, [9] * 4, vocab_size=10)
    rows = tuple(text(word) for word in "bcbb")
    made = Task("mine", "", {"test": prompts}, {"test": rows})
    assert made.distinct("test") == 2
    assert made.notes == ("2 of 4 prompts of test are copies of others",)
    # Notes are written once, also where a task is made from another.
    assert Task("mine", "", made.splits, made.texts, notes=made.notes).notes == made.notes


def test_clusters_are_templates_or_prompts_if_there_is_one_template():
    prompts = make_prompts([[1], [2], [1], [4]], [[3]] * 4, [8] * 4, [9] * 4, vocab_size=10)
    alike = Task("one", "", {"test": prompts}, {"test": tuple(text(word) for word in "bcbe")})
    assert alike.clusters("test").tolist() == [0, 1, 0, 2]
    rows = tuple(text(word, template) for word, template in zip("bcbe", "xyxy", strict=True))
    assert Task("two", "", {"test": prompts}, {"test": rows}).clusters("test").tolist() == [
        0, 1, 0, 1,
    ]  # fmt: skip


def test_small_tasks_say_that_they_are_small():
    made = modular.task(7)
    assert len(made.splits["test"]) < 64
    assert len(made.notes) == 3
    assert made.notes[2].startswith(f"test has {len(made.splits['test'])} prompts, not 64")
    assert not modular.task(53).notes


def test_an_algorithm_asks_nothing_twice():
    """Inputs of induction that differ behind the position that is asked are one prompt."""
    made = induction(5, 4).task(sizes=Sizes(60, 20, 60), seed=1)
    for split in made.splits:
        assert made.distinct(split) == len(made.splits[split])


SUBJECTS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8)


@settings(max_examples=60)
@given(st.lists(SUBJECTS, min_size=1, max_size=3), st.integers(1, 20))
def test_spread_prompts_are_different_and_even(pools, size):
    candidates = {
        f"t{i}": [Candidate(text(f"{subject} {'abc'[i]}", f"t{i}"), (subject,)) for subject in own]
        for i, own in enumerate(pools)
    }
    there = sum(len(set(own)) for own in pools)
    if size > there:
        with pytest.raises(InputError, match=rf"size of the test split of mine: .*at most {there}"):
            spread("mine", WORDS, "test", size, candidates)
        return
    found = spread("mine", WORDS, "test", size, candidates)
    assert len(found) == len({row.clean for row in found}) == size
    uses = collections.Counter(row.template for row in found)
    for i, own in enumerate(pools):
        # A template has its share, or all that it has.
        assert uses[f"t{i}"] in (len(set(own)), *range(size // len(pools), size + 1))


def test_prompts_of_a_template_have_one_length_while_there_are_enough():
    long = [Candidate(text(f"a b {x}", "t"), (x,)) for x in "abc"]
    short = [Candidate(text(f"a {x}", "t"), (x,)) for x in "abcdefgh"]
    mixed = [one for pair in zip(long, short, strict=False) for one in pair] + short[3:]
    lengths = lambda size: {  # noqa: E731
        len(row.clean.split()) for row in spread("mine", WORDS, "test", size, {"t": mixed})
    }
    assert lengths(8) == {2}
    assert lengths(9) == {2, 3}
    assert len(mixed) == 11
