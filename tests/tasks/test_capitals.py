import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.models import Tokenizer
from hagd_jax.tasks import SPLITS, Sizes, capitals
from hagd_jax.tasks.lexicon import CAPITALS, share

from .conftest import RARE


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_prompts_are_aligned_and_answered(tokenizer, seed):
    known = dict(CAPITALS)
    made = capitals.task(tokenizer, sizes=Sizes(30, 20, 30), seed=seed)
    assert made.candidates is not None
    for split in SPLITS:
        p, texts = made.splits[split], made.texts[split]
        assert (p.clean != p.corrupted).any(axis=1).all()
        assert set(p.distractor.tolist()) <= set(made.candidates)
        for i, text in enumerate(texts):
            assert p.corrupted[i, : p.length[i]].tolist() == tokenizer.encode(text.corrupted)
            before, after = text.template.split("{country}")
            country = text.clean.removeprefix(before).removesuffix(after)
            other = text.corrupted.removeprefix(before).removesuffix(after)
            assert known[country] == text.answer
            assert known[other] == text.distractor
            assert (country, text.answer) in share(CAPITALS, split)
            assert (other, text.distractor) in share(CAPITALS, split)
            assert tokenizer.decode([p.answer[i]]) == f" {text.answer}"


def test_splits_share_no_countries_and_no_templates():
    for one, other in itertools.combinations(SPLITS, 2):
        assert not set(share(CAPITALS, one)) & set(share(CAPITALS, other))
        assert not set(capitals.TEMPLATES[one]) & set(capitals.TEMPLATES[other])
    assert len(CAPITALS) == len({c for c, _ in CAPITALS}) == len({c for _, c in CAPITALS}) >= 80
    for templates in capitals.TEMPLATES.values():
        assert len(templates) >= 3
        assert all(t.count("{country}") == 1 and not t.startswith("{") for t in templates)


def test_capitals_of_many_pieces_are_left_out(tokenizer):
    made = capitals.task(tokenizer)
    answers = {t.answer for texts in made.texts.values() for t in texts}
    assert not answers & RARE
    assert all(" " not in answer for answer in answers)
    assert len(answers) > 60


def test_countries_and_templates_take_turns(tokenizer):
    texts = capitals.task(tokenizer).texts["discover"]
    usable = sum(map(len, capitals.countries(tokenizer, "discover")))
    counts = [sum(t.answer == a for t in texts) for a in {t.answer for t in texts}]
    assert len(counts) == min(usable, len(texts))
    assert max(counts) - min(counts) <= 1
    uses = [sum(t.template == k for t in texts) for k in capitals.TEMPLATES["discover"]]
    assert min(uses) >= len(texts) // len(uses) // 2
    assert len({(t.clean, t.corrupted) for t in texts}) == len(texts)


def test_the_seed_decides_the_draw(tokenizer):
    one, same, other = (capitals.task(tokenizer, seed=s) for s in (3, 3, 4))
    assert one.texts == same.texts
    assert one.texts != other.texts


def test_too_few_capitals_are_refused():
    with pytest.raises(InputError, match=r"size of the discover split.*at most 0"):
        capitals.task(Tokenizer.words(["France", "Paris"]))
