"""BLiMP's layout with invented sentences: by one word where that decides, whole where not."""

import itertools

import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.models import Tokenizer
from hagd_jax.tasks import SPLITS, Sizes, benchmarks
from hagd_jax.tasks.metric import read_logits

NOUNS = {f"{a}{b}": f"{a}{b}s" for a in ("lum", "tev", "rop", "gan", "bix") for b in ("er", "op",
         "ik", "um")}  # fmt: skip
VERBS = {"has": "have", "wobbles": "wobble", "glows": "glow"}
SINGULAR = NOUNS | VERBS
SIZES = Sizes(8, 3, 8)


def agreement(noun, verb, number):
    """A row of the one-prefix method: the subject before the verb decides."""
    subject, verbs = ((noun, NOUNS[noun])[number], (verb, VERBS[verb]))
    good, bad = verbs[number], verbs[1 - number]
    return {
        "sentence_good": f"The {subject} {good} now.", "sentence_bad": f"The {subject} {bad} now.",
        "one_prefix_prefix": f"The {subject}", "one_prefix_word_good": good,
        "one_prefix_word_bad": bad, "field": "morphology", "linguistics_term": "agreement",
        "UID": "made_up_agreement", "simple_LM_method": True, "one_prefix_method": True,
        "two_prefix_method": False, "lexically_identical": False, "pairID": "0",
    }  # fmt: skip


def licensor(noun, verb, number):
    """A row of another method: what follows the difference counts, too."""
    row = agreement(noun, verb, number)
    subject = (noun, NOUNS[noun])[number]
    return row | {
        "sentence_good": f"Only the {subject} ever glow", "one_prefix_method": False,
        "sentence_bad": f"Even the {subject} ever glow", "two_prefix_method": True,
    }  # fmt: skip


def rows(make):
    return [make(*each) for each in itertools.product(NOUNS, VERBS, (0, 1))]


@pytest.fixture(scope="module")
def tokenizer():
    words = ["<s>", "The", "now.", "Only", "Even", "the", "ever", *SINGULAR, *SINGULAR.values()]
    return Tokenizer(Tokenizer.words(list(dict.fromkeys(words))).json, bos_id=0)


def test_where_one_word_decides_a_prompt_has_two_answers(write, tokenizer):
    made = benchmarks.task("blimp", tokenizer, write(rows(agreement)), sizes=SIZES)
    nouns = {}
    for split in SPLITS:
        prompts, texts = made.splits[split], made.texts[split]
        assert prompts.clean.shape == (getattr(SIZES, split), 2)
        for i, text in enumerate(texts):
            the, noun = text.clean.split()
            assert tokenizer.decode(prompts.clean[i].tolist()) == text.clean
            assert tokenizer.decode(prompts.corrupted[i].tolist()) == text.corrupted
            # After the counterfactual the distractor is right: its subject has the other number.
            other = text.corrupted.split()[1]
            assert the == "The"
            assert (noun in NOUNS) != (other in NOUNS)
            assert (text.answer in VERBS) == (noun in NOUNS)
            assert (text.distractor in VERBS) == (other in NOUNS)
            assert tokenizer.decode([int(prompts.answer[i])]) == text.answer
            nouns.setdefault(split, set()).update(word.removesuffix("s") for word in (noun, other))
    for one, other in itertools.combinations(SPLITS, 2):
        assert not nouns[one] & nouns[other]
    assert not any("several tokens" in note for note in made.notes)


def test_a_row_without_a_counterpart_is_left_out(write, tokenizer):
    only = [row for row in rows(agreement) if row["one_prefix_word_good"] in VERBS]
    reason = "no row of as many tokens after which its distractor is right"
    with pytest.raises(InputError, match=rf"at most 0 of its 60 rows.*{reason}"):
        benchmarks.task("blimp", tokenizer, write(only), sizes=SIZES)


def test_other_sentences_are_scored_whole(write, tokenizer):
    made = benchmarks.task("blimp", tokenizer, write(rows(licensor)), sizes=SIZES)
    choices, texts = made.splits["test"], made.texts["test"]
    assert choices.clean.shape == (8, 2, 6)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(16, 6, tokenizer.vocab_size)) * 2
    # A causal model says the same of the first words of both sentences: the first token is one.
    logits[1::2, 0] = logits[::2, 0]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for i, text in enumerate(texts):
        said = [tokenizer.decode(row.tolist()).removeprefix("<s> ") for row in choices.clean[i]]
        right = int(choices.answer[i])
        assert (said[right], said[1 - right]) == (text.answer, text.distractor)
        assert text.answer.startswith("Only")
        assert (choices.corrupted[i] == choices.clean[i][::-1]).all()
        sums = [
            sum(logp[2 * i + c, t - 1, choices.clean[i, c, t]] for t in range(1, 6)) for c in (0, 1)
        ]
        at = read_logits(logits, choices)
        np.testing.assert_allclose(choices.metric(at)[i], sums[right] - sums[1 - right], rtol=1e-4)
        assert bool(choices.acc(at)[i]) == (sums[right] > sums[1 - right])
    assert set(choices.answer.tolist()) == {0, 1}
    assert abs(np.asarray(choices.metric(at))).min() > 0


def test_sentences_of_several_lengths_are_left_out_and_the_minority_too(write, tokenizer):
    odd = rows(licensor)[0] | {"sentence_bad": "Even the the lumer ever glow"}
    few = rows(agreement)[:4]
    made = benchmarks.task("blimp", tokenizer, write([*rows(licensor), odd, *few]), sizes=SIZES)
    assert "left out 4 of 125 rows: most rows are scored in another way" in made.notes
    assert "left out 1 of 125 rows: the counterfactual has another number of tokens" in made.notes
    plain = Tokenizer(tokenizer.json)
    with pytest.raises(InputError, match="nothing before the first difference"):
        benchmarks.task("blimp", plain, write(rows(licensor)), sizes=SIZES)


def test_all_rows_are_scored_for_the_accuracy_of_a_model(write, tokenizer):
    found, notes = benchmarks.scored_rows("blimp", tokenizer, write(rows(agreement)))
    assert (len(found), notes) == (120, ())
    for one, row in zip(found, rows(agreement), strict=True):
        for choice, field in zip(one.choices, ("sentence_good", "sentence_bad"), strict=True):
            assert tokenizer.decode(list(choice.clean)) == f"<s> {row[field]}"
            assert choice.scored == (1, len(choice.clean))
        assert one.answer == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentence_good": 5}, r"rows\.jsonl: line 2: sentence_good: got 5; expected a text"),
        ({"sentence_bad": None}, "line 2: sentence_bad: got None"),
        ({"sentence_bad": rows(agreement)[1]["sentence_good"]},
         "line 2: sentence_bad: got .*; expected another sentence"),
        ({"UID": []}, "line 2: UID: got"),
        ({"one_prefix_method": "yes"}, "line 2: one_prefix_method: got 'yes'; expected true or"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(write, tokenizer, change, message):
    some = rows(agreement)
    some[1] = some[1] | change
    with pytest.raises(InputError, match=message):
        benchmarks.task("blimp", tokenizer, write(some), sizes=SIZES)
