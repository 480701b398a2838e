"""Splits are apart in more than names: templates, words, prompts; and large enough groups."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel, Tokenizer
from hagd_jax.tasks import (
    ALGORITHMS,
    SPLITS,
    Sizes,
    Text,
    dyck,
    induction,
    modular,
    names,
    parity,
    sorting,
    task,
    text_task,
)
from hagd_jax.tasks import overlap as measure
from hagd_jax.tasks.duplicates import DISTANCE, SHARED, basic_form, distances
from hagd_jax.tasks.lexicon import PAST_TENSES
from hagd_jax.tasks.registry import BENCHMARKS
from hagd_jax.tasks.relations import RELATIONS
from tests.models.test_decoder import LLAMA

TASKS = ["agreement", "greater_than", "ioi", "pronouns", "word_arithmetic", *sorted(RELATIONS)]
# The words that name a behaviour; all others are of one split alone.
TOPICS = {"capitals": {"capital"}, "languages": {"languag"}}


@pytest.fixture(scope="module")
def made(tokenizer):
    config = LLAMA.replace(vocab_size=tokenizer.vocab_size)
    model = LanguageModel({}, config, tokenizer=tokenizer, name="words")
    return {name: task(name, model) for name in TASKS}


@pytest.mark.parametrize("name", TASKS)
def test_templates_and_words_of_splits_are_apart(made, name):
    found = measure(made[name])
    assert found.problems() == ()
    assert len(found.nearest) == 9
    assert min(pair.distance for pair in found.nearest) >= DISTANCE
    assert len(found.splits) == 3
    for pair in found.splits:
        assert pair.prompts == 0
        assert pair.fillers == ()
        assert set(pair.words) <= TOPICS.get(name, set())
        assert pair.words_share <= SHARED


@pytest.mark.parametrize("name", TASKS)
def test_every_group_has_eight_different_prompts_by_default(made, name):
    for split in SPLITS:
        prompts, texts = made[name].splits[split], made[name].texts[split]
        templates = {text.template for text in texts}
        expected = getattr(Sizes(), split) or 8 * max(8, len(templates))
        assert len(prompts) == expected
        assert len({text.clean for text in texts}) == len(texts)
        groups = collections.Counter(prompts.group.tolist())
        assert min(groups.values()) >= 8
        assert len(groups) == len(templates) >= 4


@pytest.mark.parametrize("algorithm", [parity(8), sorting(3, 7), induction(9, 6), dyck(8, 2),
                                       modular.algorithm(13), modular.algorithm(13, "multiply")],
                         ids=lambda a: a.name)  # fmt: skip
def test_prompts_of_symbols_are_compared_as_prompts(algorithm):
    made = algorithm.task(sizes=Sizes(12, 6, 12))
    found = measure(made)
    assert found.problems() == ()
    assert not found.nearest
    sharing = dict.fromkeys(SPLITS, made.texts["test"])
    same = type(made)("same", "", dict.fromkeys(SPLITS, made.splits["test"]), sharing)
    assert len(measure(same).problems()) == 3


def test_every_task_on_offer_is_compared():
    """Only benchmarks are not: their rows are from the files of others."""
    symbols = {*ALGORITHMS, "modular_addition", "modular_multiplication"}
    assert {*TASKS, *symbols, *BENCHMARKS} == set(names())


def user_task(discover, test):
    """Prompts of one word's difference each."""
    rows = {
        split: [Text(clean, clean, "yes", "no", template) for clean, template in own]
        for split, own in {"discover": discover, "test": test}.items()
    }
    words = {w for own in rows.values() for text in own for w in text.clean.split()}
    tokenizer = Tokenizer.words([*sorted(words), "yes", "no"])
    return text_task("mine", tokenizer, rows, description="")


def test_one_word_changed_is_found():
    one = "While {A} and {B} were waiting at the {place}, {S} offered a {object} to"
    other = "While {A} and {B} were cleaning the {place}, {S} offered a {object} to"
    people = ("Mary", "John"), ("Anna", "Tom")
    things = ("park", "ring"), ("gym", "pen")
    filled = [
        (t.format(A=a, B=b, S=b, place=place, object=thing), t)
        for t, (a, b), (place, thing) in zip((one, other), people, things, strict=True)
    ]
    found = measure(user_task([filled[0]], [filled[1]]))
    near = found.nearest[0]
    assert near.distance == pytest.approx(2 / 14)  # "waiting at" became "cleaning"
    assert near.templates == (one, other)
    assert found.splits[0].words == ("offer", "wer") or "offer" in found.splits[0].words
    assert found.splits[0].fillers == ()
    assert len(found.problems()) == 2
    assert found.problems(distance=0.1, shared=1.0) == ()


def test_prompts_without_a_template_are_their_own():
    rows = [("Mary went to the market early", ""), ("Nobody knows what happened then", "a label")]
    apart = measure(user_task(rows[:1], rows[1:]))
    assert apart.problems() == ()
    assert {near.templates[0] for near in apart.nearest} == {rows[0][0]}
    near = measure(user_task(rows[:1], [("Anna went to the market early", "")]))
    assert near.nearest[0].distance == pytest.approx(1 / 6)
    assert "1 prompts" in measure(user_task(rows, rows[:1])).problems()[0]


def test_fillers_that_two_splits_share_are_found():
    template = "{name} found the {thing} again"
    fill = lambda name, thing: (template.format(name=name, thing=thing), template)  # noqa: E731
    found = measure(
        user_task(
            [fill("Mary", "keys"), fill("Sue", "letter")],
            [fill("Mary", "key"), fill("Tom", "gifts")],
        )
    )
    assert found.splits[0].fillers == ("key", "mary")
    assert found.splits[0].fillers_share == 0.5
    assert any(said.startswith("slots of discover and test share 50%") for said in found.problems())


def test_verbs_are_compared_in_any_form():
    for present, past in PAST_TENSES:
        assert basic_form(past) == basic_form(present)
    for forms in (("hand", "handed", "hands", "handing"), ("like", "liked", "likes", "liking")):
        assert len({basic_form(word) for word in forms}) == 1
    assert basic_form("glass") == "glass"


def plain(one, other):
    """Levenshtein's distance by its definition."""
    table = [[max(i, j) for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i, j in itertools.product(range(1, len(one) + 1), range(1, len(other) + 1)):
        changed = table[i - 1][j - 1] + (one[i - 1] != other[j - 1])
        table[i][j] = min(changed, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1] / max(len(one), len(other), 1)


WORDS = st.lists(st.sampled_from("abcd"), max_size=7)


@settings(max_examples=80)
@given(WORDS, st.lists(WORDS, max_size=4))
def test_distances_are_those_of_the_definition(one, others):
    np.testing.assert_allclose(distances(one, others), [plain(one, other) for other in others])


@pytest.mark.parametrize("most", [0, 1.5, True, "3", None])
def test_how_many_are_listed_is_a_number(most):
    with pytest.raises(InputError, match="most"):
        measure(user_task([("a b", "")], [("b a", "")]), most=most)
