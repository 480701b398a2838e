"""What holds for every task in words: aligned, different, balanced, disjoint, reproducible."""

import collections
import itertools

import numpy as np
import pytest
import tokenizers

from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel, Tokenizer
from hagd_jax.tasks import SPLITS, Sizes, agreement, greater_than, pronouns, task, word_arithmetic
from hagd_jax.tasks.lexicon import EVENTS, FEMALE, MALE, NOUNS, NUMBERS, share
from hagd_jax.tasks.relations import RELATIONS
from tests.models.test_decoder import LLAMA

TASKS = ["agreement", "greater_than", "ioi", "pronouns", "word_arithmetic", *sorted(RELATIONS)]
SMALL = Sizes(24, 12, 20)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = LLAMA.replace(vocab_size=tokenizer.vocab_size)
    return LanguageModel({}, config, tokenizer=tokenizer, name="words")


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_aligned_different_and_reproducible(model, name):
    made, again, other = (task(name, model, sizes=SMALL, seed=seed) for seed in (3, 3, 4))
    assert made.texts == again.texts
    assert made.texts != other.texts
    encode = model.tokenizer.encode
    for split in SPLITS:
        p, texts = made.splits[split], made.texts[split]
        assert len(p) == getattr(SMALL, split)
        assert len({(t.clean, t.corrupted) for t in texts}) == len(texts)
        changed = (p.clean != p.corrupted).sum(axis=1)
        assert changed.min() >= 1
        for i, text in enumerate(texts):
            assert p.clean[i, : p.length[i]].tolist() == encode(text.clean)
            assert p.corrupted[i, : p.length[i]].tolist() == encode(text.corrupted)
            assert not text.template.startswith("{")
        widths = {part.clean.shape[1] for part in made.splits.values()}
        assert len(widths) == 1


@pytest.mark.parametrize("name", ["agreement", "greater_than", "ioi", "capitals"])
def test_prompts_begin_with_all_of_the_template_and_go_on_without_its_end(model, name):
    """The tokenizer's own template: two tokens in front, in its order, and one behind."""
    native = tokenizers.Tokenizer.from_str(model.tokenizer.json)
    native.add_special_tokens(["<s>", "<other>", "</s>"])
    ids = {token: native.token_to_id(token) for token in ("<s>", "<other>", "</s>")}
    native.post_processor = tokenizers.processors.TemplateProcessing(
        single="<other> <s> $A </s>", special_tokens=list(ids.items())
    )
    begun = Tokenizer.from_native(native)
    size = model.config.vocab_size + 3
    own = model.replace(tokenizer=begun, config=model.config.replace(vocab_size=size))
    made, plain = task(name, own, sizes=SMALL), task(name, model, sizes=SMALL)
    for split in SPLITS:
        p, bare = made.splits[split], plain.splits[split]
        for i, text in enumerate(made.texts[split]):
            whole = native.encode(text.clean).ids
            assert (whole[0], whole[-1]) == (ids["<other>"], ids["</s>"])
            assert p.clean[i, : p.length[i]].tolist() == whole[:-1]
        np.testing.assert_array_equal(p.position, bare.position + 2)
        np.testing.assert_array_equal(p.answer, bare.answer)


@pytest.mark.parametrize("name", TASKS)
def test_splits_share_no_template_and_use_all_of_theirs(model, name):
    made = task(name, model, sizes=SMALL)
    used = {split: {t.template for t in texts} for split, texts in made.texts.items()}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not used[one] & used[other]
    for texts in made.texts.values():
        counts = collections.Counter(t.template for t in texts)
        assert min(counts.values()) >= len(texts) // len(counts) // 2


@pytest.mark.parametrize("name", TASKS)
def test_more_prompts_than_there_are_is_refused(model, name):
    with pytest.raises(InputError, match="size of the select split"):
        task(name, model, sizes=Sizes(select=10**7))


def test_word_lists_are_without_repeats_and_shared_out():
    for listed in (FEMALE, MALE, EVENTS, NUMBERS, NOUNS):
        assert len(set(listed)) == len(listed)
        parts = [set(share(listed, split)) for split in SPLITS]
        assert sum(map(len, parts)) == len(listed)
    assert not set(FEMALE) & set(MALE)
    assert all(plural == f"{one}s" or plural == f"{one}es" for one, plural in NOUNS)


def test_the_subject_alone_changes_its_number_and_the_verb_follows_it(tokenizer):
    made = agreement.task(tokenizer, sizes=Sizes(96, 12, 24))
    number = {word: n for pair in NOUNS for n, word in enumerate(pair)}
    seen = collections.Counter()
    for split, texts in made.texts.items():
        p = made.splits[split]
        assert ((p.clean != p.corrupted).sum(axis=1) == 1).all()
        for i, text in enumerate(texts):
            found = [word for word in text.clean.split() if word in number]
            head, other = number[found[0]], number[found[-1]]
            seen[split, head, other] += 1
            assert text.answer == (agreement.SINGULAR, agreement.PLURAL)[head]
            words = [tokenizer.decode([token]).strip() for token in p.answer[i]]
            assert words == text.answer.split("|")
    for split in SPLITS:
        counts = [seen[split, head, other] for head in (0, 1) for other in (0, 1)]
        assert max(counts) - min(counts) <= 1 + 0.1 * sum(counts)


def test_pronouns_follow_the_name_and_genders_take_turns(tokenizer):
    made = pronouns.task(tokenizer, sizes=SMALL)
    gender = {name: n for n, names in enumerate((FEMALE, MALE)) for name in names}
    for split, texts in made.texts.items():
        for text in texts:
            before, after = text.template.split("{name}")
            name, other = (t.removeprefix(before).removesuffix(after) for t in text[:2])
            assert gender[name] != gender[other]
            assert text.answer == pronouns.PRONOUNS[gender[name]]
            assert {name, other} <= {*share(FEMALE, split), *share(MALE, split)}
        assert sum(text.answer == "he" for text in texts) == len(texts) / 2


def test_sums_are_right_and_one_number_changes(tokenizer):
    made = word_arithmetic.task(tokenizer, sizes=SMALL)
    numbers = {word: n for n, word in enumerate(NUMBERS)}
    pairs = {}
    for split, texts in made.texts.items():
        signs = dict(word_arithmetic.TEMPLATES[split])
        pairs[split] = set()
        for text in texts:
            a, b = (numbers[w.strip(",")] for w in text.clean.split() if w.strip(",") in numbers)
            if text.template.index("{a}") > text.template.index("{b}"):
                a, b = b, a
            assert numbers[text.answer] == a + signs[text.template] * b
            pairs[split].add(frozenset((a, b)))
            words = zip(text.clean.split(), text.corrupted.split(), strict=True)
            assert sum(one != other for one, other in words) == 1
    for one, other in itertools.combinations(SPLITS, 2):
        assert not pairs[one] & pairs[other]
    everything = [pair for split in SPLITS for pair in word_arithmetic.pairs(split)]
    assert sorted(everything) == list(itertools.product(range(1, 13), repeat=2))


@pytest.mark.parametrize("digits", [1, 2])
def test_later_years_are_right_and_earlier_ones_wrong(digits):
    tokenizer = digit_tokenizer(digits)
    made = greater_than.task(tokenizer, sizes=Sizes(24, 8, 12))
    decode = lambda ids: [int(tokenizer.decode([t])) for t in ids if t >= 0]  # noqa: E731
    for split, texts in made.texts.items():
        p = made.splits[split]
        for i, text in enumerate(texts):
            year = int(text.answer.split()[1])
            assert f"{year:02d}" in text.clean
            limit = year if digits == 2 else year // 10
            later, earlier = decode(p.answer[i]), decode(p.distractor[i])
            assert sorted(later) == list(range(limit + 1, 10**digits))
            assert sorted(earlier) == list(range(limit + (digits == 2)))
            assert later
            assert earlier
        assert not set(greater_than.CENTURIES[split]) & {
            c for other in SPLITS if other != split for c in greater_than.CENTURIES[other]
        }


def digit_tokenizer(digits):
    """Byte-level tokens, with words whole and numbers in pieces of so many digits."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)}
    merges = []
    if digits == 2:
        for number in range(100):
            vocabulary[f"{number:02d}"] = len(vocabulary)
            merges.append((f"{number // 10}", f"{number % 10}"))
    native = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    pieces = tokenizers.Regex(rf"\d{{{digits}}}|\d|\D+")
    native.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    native.decoder = decoders.ByteLevel()
    return Tokenizer(native.to_str())


def test_a_tokenizer_that_joins_digits_is_refused():
    years = [*range(170, 180), *range(1700, 1800)]
    with pytest.raises(InputError, match="two digits or of one"):
        greater_than.following(Tokenizer.words(["in", "17", *map(str, years)]), "in 17")


def test_a_few_answers_at_once_are_scored_like_numpy(model):
    from hagd_jax.tasks import correct, logit_difference

    made = task("agreement", model, sizes=SMALL)
    p = made.splits["test"]
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(*p.clean.shape, model.config.vocab_size)).astype(np.float32)
    at = logits[np.arange(len(p)), p.position].astype(np.float64)
    sums = [
        np.log(np.exp(np.take_along_axis(at, ids, 1)).sum(1)) for ids in (p.answer, p.distractor)
    ]
    found = logit_difference(logits, p)
    np.testing.assert_allclose(found, sums[0] - sums[1], atol=1e-5)
    np.testing.assert_array_equal(correct(logits, p), sums[0] > sums[1])
    assert np.abs(found).min() > 0
    everyone = tuple(range(model.config.vocab_size))
    logits[np.arange(len(p)), p.position, p.answer[:, 1]] = 9
    assert correct(logits, p, everyone).all()
    logits[0, p.position[0], p.distractor[0, 0]] = 10
    assert np.asarray(correct(logits, p, everyone)).tolist() == [False, *[True] * (len(p) - 1)]
