import dataclasses

import jax
import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.models import Tokenizer
from hagd_jax.pipeline.fused.reading import alike
from hagd_jax.tasks import (
    Choice,
    Sizes,
    Task,
    Text,
    agreement,
    as_read,
    check_prompts,
    greater_than,
    ioi,
    make_choices,
    make_prompts,
    prompt_digests,
    pronouns,
    relations,
    text_task,
    with_spans,
)
from hagd_jax.tasks.spans import slots, span_names, text_spans

SMALL = Sizes(24, 12, 12)


@pytest.fixture
def prompts():
    return make_prompts([[1, 2, 3], [4, 5]], [[1, 6, 3], [7, 5]], [8, 8], [9, 9], vocab_size=10)


def test_indirect_objects_and_subjects_are_where_their_tokens_are(tokenizer, bos_tokenizer):
    for words in (tokenizer, bos_tokenizer):
        task = ioi.task(words, sizes=SMALL)
        assert task.spans == ("io", "s1", "s2", "end", "rest")
        for p in task.splits.values():
            for row, span, answer, subject, n in zip(
                p.clean, p.span, p.answer, p.distractor, p.length, strict=True
            ):
                places = [np.flatnonzero(span[:n] == i).tolist() for i in range(5)]
                assert places[0] == np.flatnonzero(row[:n] == answer).tolist()
                assert sorted(places[1] + places[2]) == np.flatnonzero(row[:n] == subject).tolist()
                assert places[1] < places[2]
                assert places[3] == [n - 1]
                assert (span[n:] == 4).all()


def test_names_differ_from_the_counterfactual_in_their_spans_alone(tokenizer):
    p = ioi.task(tokenizer, sizes=SMALL).splits["test"]
    np.testing.assert_array_equal(p.clean != p.corrupted, p.span < 3)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (agreement, ("subject", "end", "rest")),
        (pronouns, ("name", "end", "rest")),
        (greater_than, ("year", "end", "rest")),
    ],
)
def test_the_first_span_is_what_the_counterfactual_changes(module, names, tokenizer):
    task = module.task(tokenizer, sizes=SMALL)
    assert task.spans == names
    for p in task.splits.values():
        changed = (p.clean != p.corrupted) & (p.span != 1)
        assert (p.span[changed] == 0).all()
        assert changed.any(1).all()
        assert ((p.span == 1).sum(1) == 1).all()


def test_a_word_of_several_tokens_is_a_span_of_several_positions(tokenizer):
    text = Text(
        "So Vanessa and Sylvia", "So Sylvia and Vanessa", "she", "he", "So {one} and {other}"
    )
    rows, _ = text_spans(tokenizer, [text], {"one": "one", "other": "other"})
    ids = np.array(tokenizer.encode(text.clean))
    one, other = (ids[np.array(rows[0]) == i].tolist() for i in range(2))
    assert len(one) > 1
    assert tokenizer.decode(one) == " Vanessa"
    assert tokenizer.decode([*other, ids[-1]]) == " Sylvia"


def test_subjects_of_relations_are_their_words(tokenizer):
    task = relations.task("capitals", tokenizer, sizes=Sizes(8, 4, 4))
    for split, p in task.splits.items():
        for text, row, span in zip(task.texts[split], p.clean, p.span, strict=True):
            first, last = slots(text.template, text.clean)["subject"]
            assert tokenizer.decode(row[span == 0].tolist()) == text.clean[first - 1 : last]


def test_a_token_that_goes_on_behind_a_slot_belongs_to_it(tokenizer):
    text = Text("So Mary left", "So Maud left", "she", "he", "So {start}y left")
    assert text_spans(tokenizer, [text], {"start": "start"})[0] == [[2, 0, 1]]


def test_the_end_is_the_end_whatever_it_is_in():
    words = Tokenizer.words(["a", "b", "c"])
    text = Text("a b c", "a b b", "a", "b", "a {x}")
    assert text_spans(words, [text], {"x": "x"})[0] == [[2, 0, 1]]


def test_slots_that_come_twice_are_the_same_word():
    assert slots("{x} and {x} go", "they and they go") == {"x": (0, 4)}
    with pytest.raises(InputError, match="one of the template"):
        slots("{x} and {x} go", "they and we go")
    assert slots("50 {", "50 {") == {}


def test_prompts_without_spans_have_the_structure_and_digests_that_they_had(prompts):
    assert prompts.span is None
    assert prompts.spans == ()
    assert len(jax.tree.leaves(prompts)) == 6
    split = with_spans(prompts, [[0, 1, 2], [2, 2]], ("a", "b", "c"))
    assert prompt_digests(split) == prompt_digests(prompts)
    assert as_read(split).spans == split.spans
    check_prompts(split, 10)
    chosen = split[[1]]
    assert chosen.span.tolist() == [[2, 2, 2]]
    assert chosen.spans == split.spans


def test_texts_without_spans_make_a_task_without(tokenizer):
    text = Text("The cat", "The dog", "is", "are", "The {noun}")
    assert text_task("plain", tokenizer, {"test": [text]}, description="").spans == ()


@pytest.mark.parametrize(
    ("span", "names", "says"),
    [
        ([[0, 0, 0], [0, 0]], (), "names of spans: got 0 names"),
        ([[0, 0, 0], [0, 0]], ("a", "a"), "each name once"),
        ([[0, 0, 0], [0, 0]], ("a", ""), "name of a span: got ''"),
        ([[0, 0, 0], [0, 0]], ("a", "at,end"), "name of a span"),
        ([[0, 0, 0], [0, 0]], 3, "names of spans"),
        ([[0, 0, 0]], ("a", "b"), "span: got 1 rows"),
        ([[0, 0], [0, 0]], ("a", "b"), "span of prompt 0: got shape"),
        ([[0, 0, 2], [0, 0]], ("a", "b"), "span: got 2; expected 0 to 1"),
        ([[0, 0, -1], [0, 0]], ("a", "b"), "span: got -1"),
        ([[0, 0, 0.5], [0, 0]], ("a", "b"), "whole numbers"),
        (None, ("a", "b"), "span"),
    ],
)
def test_spans_that_do_not_fit_are_refused(span, names, says, prompts):
    with pytest.raises(InputError, match=says):
        with_spans(prompts, span, names)


def test_prompts_are_checked_with_their_spans(prompts):
    good = with_spans(prompts, [[0, 1, 0], [0, 1]], ("a", "b"))
    for change in (
        {"span": good.span[:, :2]}, {"span": good.span + 1}, {"span": None},
        {"spans": ()}, {"span": good.span * 0.5},
    ):  # fmt: skip
        with pytest.raises(InputError, match="span"):
            check_prompts(dataclasses.replace(good, **change), 10)


def test_spans_of_choices_are_refused():
    rows = [[Choice([1, 2], [1, 4], (1, 2), 1), Choice([1, 3], [1, 5], (1, 2), 1)]]
    with pytest.raises(InputError, match="prompts of one row"):
        with_spans(make_choices(rows, [0], vocab_size=6), [[0, 0]], ("a", "b"))


def test_splits_name_the_same_spans(prompts):
    texts = tuple(Text(word, "d", "e", "f", "t") for word in "bc")
    one = with_spans(prompts, [[0, 1, 0], [0, 1]], ("a", "b"))
    with pytest.raises(InputError, match="spans of mine"):
        Task("mine", "", {"discover": one, "test": prompts}, {"discover": texts, "test": texts})
    assert Task("mine", "", {"test": one}, {"test": texts}).spans == ("a", "b")
    assert span_names(["io", "s-1"]) == ("io", "s-1")


def test_texts_must_name_the_same_spans_in_one_order(tokenizer):
    texts = [Text("The cat", "The dog", "is", "are", "The {noun}"),
             Text("The hat", "The dog", "is", "are", "The {thing}")]  # fmt: skip
    with pytest.raises(InputError, match="slot of a span: got 'noun'"):
        text_spans(tokenizer, texts, {"noun": "noun"})
    with pytest.raises(InputError, match="as in the other texts"):
        text_spans(tokenizer, texts, lambda text: {text.template[5:-1]: text.template[5:-1]})


def test_splits_that_are_padded_to_one_width_keep_their_spans():
    short, long = (
        with_spans(
            make_prompts([row], [row], [8], [9], vocab_size=10), [[0] * len(row)], ("a", "rest")
        )
        for row in ([1, 2], [1, 2, 3])
    )
    for prompts, span in zip(alike([short, long]), ([[0, 0, 1]], [[0, 0, 0]]), strict=True):
        check_prompts(prompts, 10)
        assert prompts.span.tolist() == span
