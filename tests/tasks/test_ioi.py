import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.models import Tokenizer
from hagd_jax.tasks import SPLITS, Sizes, ioi
from hagd_jax.tasks.lexicon import NAMES, share

from .conftest import RARE

SMALL = Sizes(24, 12, 24)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_clean_and_corrupted_differ_in_the_names_alone(tokenizer, seed):
    made = ioi.task(tokenizer, sizes=SMALL, seed=seed)
    for split in SPLITS:
        p, texts = made.splits[split], made.texts[split]
        assert ((p.clean != p.corrupted).sum(axis=1) == 3).all()
        for i, text in enumerate(texts):
            n = p.length[i]
            assert p.clean[i, :n].tolist() == tokenizer.encode(text.clean)
            assert p.corrupted[i, :n].tolist() == tokenizer.encode(text.corrupted)
            clean, corrupted = p.clean[i, :n].tolist(), p.corrupted[i, :n].tolist()
            assert clean.count(p.answer[i]) == 1
            assert clean.count(p.distractor[i]) == 2
            assert p.answer[i] not in corrupted
            assert p.distractor[i] not in corrupted
            swapped = {b for a, b in zip(clean, corrupted, strict=True) if a != b}
            assert len(swapped) == 3
            assert tokenizer.decode([p.answer[i]]) == f" {text.answer}"


def test_splits_share_no_words_and_no_templates():
    for one, other in itertools.combinations(SPLITS, 2):
        assert not set(share(NAMES, one)) & set(share(NAMES, other))
        for field in ("templates", "places", "objects"):
            assert not set(getattr(ioi.SCENES[one], field)) & set(getattr(ioi.SCENES[other], field))
    assert sorted(n for s in SPLITS for n in share(NAMES, s)) == sorted(set(NAMES))
    assert len(NAMES) >= 150
    assert all(len(scenes.templates) >= 3 for scenes in ioi.SCENES.values())


def test_no_template_starts_with_a_name_and_each_names_everybody():
    for template in (t for scenes in ioi.SCENES.values() for t in scenes.templates):
        assert not template.startswith("{")
        assert template.endswith(" to")
        assert [template.count(slot) for slot in ("{A}", "{B}", "{S}")] == [1, 1, 1]
        assert template.index("{A}") < template.index("{B}") < template.index("{S}")


def test_objects_take_the_article_a():
    assert all(o[0] not in "aeiou" for scenes in ioi.SCENES.values() for o in scenes.objects)


def test_prompts_use_their_split_and_are_different(tokenizer):
    made = ioi.task(tokenizer, sizes=Sizes(64, 32, 64))
    for split, texts in made.texts.items():
        names = set(ioi.names(tokenizer, split))
        assert not names & RARE
        for text in texts:
            assert text.template in ioi.SCENES[split].templates
            assert {text.answer, text.distractor} <= names
        assert len({text.clean for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("discover", "test", "templates"),
    [(30, 60, (8, 4, 8)), (64, 72, (8, 4, 9)), (100, 128, (12, 4, 16)), (300, 200, (32, 4, 16))],
)
def test_templates_and_orders_are_balanced(tokenizer, discover, test, templates):
    """More prompts have more templates, each of them eight prompts or more."""
    texts = ioi.task(tokenizer, sizes=Sizes(discover, 36, test)).texts
    for split, expected in zip(SPLITS, templates, strict=True):
        first = [t.clean.index(t.answer) < t.clean.index(t.distractor) for t in texts[split]]
        counts = collections.Counter(
            (t.template, f) for t, f in zip(texts[split], first, strict=True)
        )
        assert len(counts) == 2 * expected
        assert split != "discover" or discover < 64 or sum(counts.values()) >= 8 * expected
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_seed_decides_the_draw(tokenizer):
    one, same, other = (ioi.task(tokenizer, sizes=SMALL, seed=s) for s in (3, 3, 4))
    assert one.texts == same.texts
    np.testing.assert_array_equal(one.splits["test"].clean, same.splits["test"].clean)
    assert one.texts["test"] != other.texts["test"]


def test_a_beginning_token_moves_everything_by_one(tokenizer, bos_tokenizer):
    plain = ioi.task(tokenizer, sizes=SMALL)
    begun = ioi.task(bos_tokenizer, sizes=SMALL)
    assert begun.texts == plain.texts
    assert (begun.splits["test"].clean[:, 0] == 0).all()
    assert (begun.splits["test"].length == plain.splits["test"].length + 1).all()


def test_too_few_names_are_refused():
    with pytest.raises(InputError, match=r"names of one token for the discover split.*got 2 of"):
        ioi.task(Tokenizer.words([*share(NAMES, "discover")[:2], "went"]))


def test_more_prompts_than_there_are_is_refused(tokenizer):
    with pytest.raises(InputError, match="size of the select split"):
        ioi.task(tokenizer, sizes=Sizes(select=10**7))
