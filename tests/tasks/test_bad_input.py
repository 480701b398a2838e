"""Whatever is given for prompts, texts, choices, sizes and names: it works, or a typed error says
what was got and what was expected. Never a bare exception."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import HagdError, InputError
from hagd_jax.models import Tokenizer
from hagd_jax.tasks import (
    Choice,
    Prompts,
    Sizes,
    Task,
    Text,
    agreement,
    batches,
    benchmarks,
    check_prompts,
    correct,
    find,
    ioi,
    lexicon,
    logit_difference,
    make_choices,
    make_prompts,
    modular,
    parity,
    read_logits,
    relations,
    single_tokens,
    task,
    text_task,
    word_arithmetic,
    word_token,
)

WORDS = Tokenizer.words(["a", "b", "c", "yes", "no"])
TEXT = Text("a b", "a c", "yes", "no", "a {word}")
GOOD = {"clean": [[1, 2]], "corrupted": [[1, 3]], "answer": [3], "distractor": [4],
        "vocab_size": 5}  # fmt: skip
JUNK = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 7), st.sampled_from([2**40, 2**70, -(2**70)]),
        st.floats(), st.text(max_size=3), st.just(np.array([1.5])), st.just(np.zeros((1, 1), int)),
        st.just(np.int64(3)), st.just(b"a"),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(
            st.sampled_from(["test", "select", "tset", 3]), inner, max_size=2),
    ),
    max_leaves=6,
)  # fmt: skip


def prompts(**changes):
    options = GOOD | changes
    rows = [options.pop(name) for name in ("clean", "corrupted", "answer", "distractor")]
    return make_prompts(*rows, **options)


@settings(max_examples=300)
@given(st.data())
def test_prompts_of_anything(data):
    names = [*GOOD, "position", "group", "width"]
    changes = {n: data.draw(JUNK) for n in data.draw(st.sets(st.sampled_from(names), min_size=1))}
    with contextlib.suppress(HagdError):
        made = prompts(**changes)
        assert isinstance(made, Prompts)
        check_prompts(made, options_of(changes))
        assert made.clean.dtype == np.int32


def options_of(changes):
    return changes.get("vocab_size", GOOD["vocab_size"])


@settings(max_examples=200)
@given(st.sampled_from(["clean", "corrupted", "position", "answer", "distractor", "length",
                        "group"]), JUNK)  # fmt: skip
def test_checks_of_anything(field, value):
    made = prompts().replace(**{field: value})
    with contextlib.suppress(HagdError):
        check_prompts(made, 5)


def choice(**changes):
    return Choice(**({"clean": [1, 2], "corrupted": [3, 2], "scored": (1, 2), "unit": 1.0}
                     | changes))  # fmt: skip


@settings(max_examples=300)
@given(st.data())
def test_choices_of_anything(data):
    fields = data.draw(st.sets(st.sampled_from(Choice._fields)))
    one = choice(**{field: data.draw(JUNK) for field in fields})
    rows = data.draw(st.one_of(JUNK, st.just([[one, choice()]])))
    answer = data.draw(st.one_of(JUNK, st.just([0])))
    options = {"width": data.draw(JUNK)} if data.draw(st.booleans()) else {}
    with contextlib.suppress(HagdError):
        made = make_choices(rows, answer, vocab_size=5, **options)
        made.check(5)
        assert (made.unit > 0).all()


@pytest.mark.parametrize("token", [2**31, 2**40, 2**63, 2**64, -(2**40)])
@pytest.mark.parametrize("field", ["clean", "corrupted"])
def test_tokens_that_no_array_holds_are_refused(token, field):
    with pytest.raises(InputError):
        make_choices([[choice(**{field: [1, token]}), choice()]], [0], vocab_size=5)
    rows = {"clean": [[1, 2]], "corrupted": [[3, 2]], field: [[1, token]]}
    with pytest.raises(InputError):
        make_prompts(rows["clean"], rows["corrupted"], [1], [2], vocab_size=5)


@settings(max_examples=300)
@given(st.data())
def test_texts_of_anything(data):
    fields = data.draw(st.sets(st.sampled_from(Text._fields)))
    one = TEXT._replace(**{field: data.draw(JUNK) for field in fields})
    texts = data.draw(st.one_of(JUNK, st.just({"test": [one]}), st.just([one]), st.just(one)))
    candidates = data.draw(st.one_of(st.none(), JUNK))
    with contextlib.suppress(HagdError):
        made = text_task("mine", WORDS, texts, description="", candidates=candidates)
        assert set(made.splits) <= {"discover", "select", "test"}


@settings(max_examples=200)
@given(st.sampled_from(["name", "description", "splits", "texts", "candidates", "notes"]), JUNK)
def test_tasks_of_anything(field, value):
    values = {"name": "mine", "description": "", "splits": {"test": prompts()},
              "texts": {"test": (TEXT,)}} | {field: value}  # fmt: skip
    with contextlib.suppress(HagdError):
        made = Task(**values)
        assert all(isinstance(note, str) for note in made.notes) or field == "notes"


@settings(max_examples=100)
@given(JUNK)
def test_rows_sizes_seeds_and_names_of_anything(value):
    made = prompts()
    for use in (
        lambda: made[value],
        lambda: list(batches(made, value)),
        lambda: Sizes(test=value),
        lambda: modular.task(7, sizes=value),
        lambda: modular.task(7, seed=value),
        lambda: modular.task(7, value),
        lambda: parity(4).task(sizes=value),
        lambda: parity(4).examples(value, 3, np.random.default_rng(0)),
        lambda: parity(4).table("train", value if not isinstance(value, int) else value % 9),
        lambda: lexicon.share(["a"], value),
        lambda: relations.subjects(value, WORDS, "test"),
        lambda: relations.task(value, WORDS),
        lambda: benchmarks.task(value, WORDS),
        lambda: ioi.names(WORDS, value),
        lambda: word_token(WORDS, value),
        lambda: single_tokens(WORDS, value),
        lambda: find(value),
        lambda: task(value, WORDS),
        lambda: correct(np.zeros((1, 2, 5)), made, value),
    ):
        with contextlib.suppress(HagdError):
            use()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([TEXT], r"texts of mine: got list .*; expected a mapping from splits to lists of Text"),
        ((TEXT,), r"texts of mine: got tuple"),
        ({"test": TEXT}, r"test texts of mine: got Text.*; expected a list of Text"),
        ({"test": [tuple(TEXT)]}, r"test text 0 of mine: got tuple .*; expected Text"),
        ({"test": "a b"}, r"test texts of mine: got str"),
        ({"tset": [TEXT]}, r"split: got 'tset'; expected one of discover, select, test"),
        ({"test": []}, r"test texts of mine: got none; expected at least one"),
        ({"test": [TEXT._replace(clean=None)]}, r"clean of test text 0 of mine: got NoneType"),
        ({"test": [TEXT._replace(template=["x"])]}, r"template of test text 0 of mine: got list"),
        ({"test": [TEXT._replace(answer="")]}, r"answer ''"),
    ],
)
def test_what_is_wrong_with_texts_is_said(texts, message):
    with pytest.raises(InputError, match=message):
        text_task("mine", WORDS, texts, description="")


def test_a_split_that_is_not_there_is_named():
    made = text_task("mine", WORDS, {"test": [TEXT]}, description="")
    for use in (
        lambda: made.splits["tset"],
        lambda: made.texts["tset"],
        lambda: made.distinct("tset"),
        lambda: made.clusters("tset"),
    ):
        with pytest.raises(InputError, match=r"got 'tset'; expected one of its splits, \['test'\]"):
            use()
    for use in (
        lambda: lexicon.share(["a"], "tset"),
        lambda: word_arithmetic.pairs("tset"),
        lambda: agreement.nouns(WORDS, "tset"),
    ):
        with pytest.raises(InputError, match="split: got 'tset'; expected one of discover"):
            use()


def test_logits_of_other_prompts_are_refused():
    made = prompts()
    for logits in (np.zeros((3, 2, 5)), np.zeros((1, 5)), np.zeros((1, 2, 5, 1))):
        for use in (read_logits, logit_difference, correct):
            with pytest.raises(InputError, match=r"logits: got shape .*; expected \(1, T, V\)"):
                use(logits, made)
    with pytest.raises(InputError, match="candidates: got 5; expected an integer from 0 to 4"):
        correct(np.zeros((1, 2, 5)), made, (3, 5))


def test_a_single_row_is_a_batch_of_one():
    made = make_prompts([[1], [2]], [[3], [3]], [3, 4], [4, 3], vocab_size=5, group=["x", "y"])
    assert made[1].clean.tolist() == [[2]]
    assert len(made[-1]) == len(made[np.int64(0)]) == 1
    with pytest.raises(InputError, match="rows of prompts: got int 2; expected rows of 2 prompts"):
        made[2]


def test_choices_are_looked_at_one_by_one():
    for change, message in (
        ({"unit": 0.0}, "unit of choice 0 of prompt 0: got 0.0; expected a number above 0"),
        ({"unit": float("nan")}, "unit of choice 0"),
        ({"scored": (2, 2)}, r"scored of choice 0 of prompt 0: got \(2, 2\); expected"),
        ({"scored": (0, 1)}, "scored of choice 0"),
        ({"clean": [1.5, 2]}, "clean of choice 0"),
    ):
        with pytest.raises(InputError, match=message):
            make_choices([[choice(**change), choice()]], [0], vocab_size=5)
    with pytest.raises(InputError, match="answer: got 2; expected an integer from 0 to 1"):
        make_choices([[choice(), choice()]], [2], vocab_size=5)
