"""Agreement in the rows of the feature-circuits project: invented sentences in their layout."""

import itertools

import pytest

from hagd_jax.errors import InputError
from hagd_jax.models import Tokenizer
from hagd_jax.tasks import SPLITS, Sizes, benchmarks

NOUNS = {"baker": "bakers", "pilot": "pilots", "fox": "foxes", "goose": "geese", "monk": "monks",
         "robot": "robots", "otter": "otters", "judge": "judges", "thief": "thieves",
         "tailor": "tailors"}  # fmt: skip
VERBS = {" sings": " sing", " was": " were"}
LEMMA = {form: one for one, many in NOUNS.items() for form in (one, many)}
SIZES = Sizes(8, 3, 8)


def row(one, other, verbs, number):
    forms = ((one, NOUNS[one]), verbs)
    prefix = [f"Behind the {other} the {noun}" for noun in forms[0]]
    return {
        "clean_prefix": prefix[number], "patch_prefix": prefix[1 - number],
        "clean_answer": verbs[number], "patch_answer": verbs[1 - number],
        "case": ("singular", "plural")[number],
    }  # fmt: skip


def rows():
    return [
        row(one, other, verbs, number)
        for one, other in itertools.permutations(NOUNS, 2)
        for verbs in VERBS.items() for number in (0, 1)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    verbs = [verb.strip() for pair in VERBS.items() for verb in pair]
    return Tokenizer.words([*LEMMA, *verbs, "Behind", "the"])


def test_rows_of_one_prompt_are_one_prompt_with_several_verbs(write, tokenizer):
    made = benchmarks.task("sva", tokenizer, write(rows()), sizes=SIZES)
    nouns = {}
    for split in SPLITS:
        prompts, texts = made.splits[split], made.texts[split]
        assert len(prompts) == made.distinct(split) == getattr(SIZES, split)
        for i, text in enumerate(texts):
            clean, corrupted = (tokenizer.decode(getattr(prompts, side)[i].tolist())
                                for side in ("clean", "corrupted"))  # fmt: skip
            assert (clean, corrupted) == (text.clean, text.corrupted)
            _, _, other, _, subject = clean.split()
            # The counterfactual turns the number of the subject alone.
            assert corrupted.split()[:4] == clean.split()[:4]
            assert corrupted != clean
            assert LEMMA[corrupted.split()[4]] == LEMMA[subject]
            right = set(VERBS.values() if subject in NOUNS.values() else VERBS)
            assert {f" {tokenizer.decode([t])}" for t in prompts.answer[i]} == right
            assert set(text.answer.split("|")) == {verb.strip() for verb in right}
            for noun in (other, subject):
                nouns.setdefault(split, set()).add(LEMMA[noun])
        assert len(set(made.clusters(split))) == len({LEMMA[t.clean.split()[4]] for t in texts})
        assert len(set(prompts.group.tolist())) == 1
    for one, other in itertools.combinations(SPLITS, 2):
        assert not nouns[one] & nouns[other]
    assert [note for note in made.notes if "its words are in several splits" in note]


def test_what_does_not_fit_is_counted(write, tokenizer):
    odd = [
        row("baker", "fox", (" sings", " sing"), 0) | {"patch_prefix": "Behind the fox"},
        row("baker", "fox", (" sings", " sing"), 0) | {"clean_prefix": "Behind the unicorn"},
        row("baker", "fox", (" sings", " sing sing"), 0),
    ]
    made = benchmarks.task("sva", tokenizer, write([*rows(), *odd]), sizes=SIZES)
    for reason in (
        "left out 1 of 363 rows: the counterfactual has another number of tokens",
        "left out 1 of 363 rows: a text that the tokenizer cannot express",
        "left out 1 of 363 rows: an answer of several tokens",
    ):
        assert reason in made.notes
    fitting = r"at most \d+ of its 360 rows.*--sizes.discover \d+ --sizes.select \d+ --sizes.test"
    with pytest.raises(InputError, match=f"size of the discover split of sva: got 64.*{fitting}"):
        benchmarks.task("sva", tokenizer, write(rows()))


def test_a_verb_is_right_or_wrong(write, tokenizer):
    prefixes = {"clean_prefix": "the fox", "patch_prefix": "the foxes"}
    both = [row("baker", "fox", (" sings", " sing"), number) | prefixes for number in (0, 1)]
    with pytest.raises(InputError, match="a verb that is right in one row and wrong in another"):
        benchmarks.task("sva", tokenizer, write(both))
