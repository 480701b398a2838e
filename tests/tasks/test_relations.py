"""Facts and forms: what is asked is true, and what stands in for it is, too."""

import itertools

import pytest

from hagd_jax.errors import InputError
from hagd_jax.models import Tokenizer
from hagd_jax.tasks import SPLITS, Sizes, relations
from hagd_jax.tasks.lexicon import share
from hagd_jax.tasks.relations import RELATIONS

from .conftest import RARE


@pytest.mark.parametrize("name", sorted(RELATIONS))
@pytest.mark.parametrize("seed", [0, 12345])
def test_subjects_and_objects_belong_together(tokenizer, name, seed):
    made = relations.task(name, tokenizer, sizes=Sizes(30, 20, 30), seed=seed)
    assert made.candidates is not None
    for split in SPLITS:
        p, texts = made.splits[split], made.texts[split]
        known = set(share(RELATIONS[name].pairs, split))
        assert set(p.distractor.tolist()) <= set(made.candidates)
        for i, text in enumerate(texts):
            before, after = text.template.split("{subject}")
            said = [
                t.removeprefix(before).removesuffix(after) for t in (text.clean, text.corrupted)
            ]
            assert set(zip(said, (text.answer, text.distractor), strict=True)) <= known
            assert tokenizer.decode([p.answer[i]]) == f" {text.answer}"


@pytest.mark.parametrize("name", sorted(RELATIONS))
def test_a_subject_is_listed_once_and_templates_ask_for_it(name):
    _, pairs, templates = RELATIONS[name]
    assert len(pairs) == len({subject for subject, _ in pairs}) >= 50
    for said in templates.values():
        assert len(said) >= 3
        assert all(t.count("{subject}") == 1 and not t.startswith("{") for t in said)


def test_capitals_of_many_pieces_are_left_out(tokenizer):
    made = relations.task("capitals", tokenizer)
    answers = {t.answer for texts in made.texts.values() for t in texts}
    assert not answers & RARE
    assert all(" " not in answer for answer in answers)
    assert len(answers) > 60


def test_countries_and_templates_take_turns(tokenizer):
    texts = relations.task("capitals", tokenizer).texts["discover"]
    usable = sum(map(len, relations.subjects("capitals", tokenizer, "discover")))
    counts = [sum(t.answer == a for t in texts) for a in {t.answer for t in texts}]
    # Some countries are of more tokens than others, so that their prompts would be a group apart.
    assert 0.8 * usable <= len(counts) <= usable
    assert max(counts) - min(counts) <= 1
    said = RELATIONS["capitals"].templates["discover"]
    uses = [sum(t.template == k for t in texts) for k in said]
    assert max(uses) - min(uses) <= 1


def test_too_few_capitals_are_refused():
    with pytest.raises(InputError, match=r"size of the discover split.*at most 0"):
        relations.task("capitals", Tokenizer.words(["France", "Paris"]))


def test_splits_share_no_subjects():
    for relation in RELATIONS.values():
        for one, other in itertools.combinations(SPLITS, 2):
            assert not set(share(relation.pairs, one)) & set(share(relation.pairs, other))
