"""Clean and corrupted prompts in the layouts of the EAP-IG project, with invented sentences."""

import csv
import itertools

import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.models import Tokenizer
from hagd_jax.tasks import SPLITS, Sizes, benchmarks, greater_than

from .conftest import byte_bpe

NAMES = [f"{first}{last}" for first in "BCDFGHKL" for last in ("ana", "ori", "ulu")]
JOBS = [f"{first}{last}" for first in ("pot", "win", "cab", "gar", "tan") for last in ("ler",
        "smith", "wright", "keeper")]  # fmt: skip
SIZES = Sizes(8, 3, 8)


@pytest.fixture(scope="module")
def tokenizer():
    words = [*NAMES, *JOBS, "man", "woman", "he", "she", "Then", "and", "were", "rowing.", "lent",
             "a", "tent", "to", "The", "waved", "because", "others", ",", "Lands", "Towns",
             "capital", "of", "the", "is", "gems", "stones", "birds", "and"]  # fmt: skip
    return Tokenizer.words(list(dict.fromkeys(words)))


@pytest.fixture
def table(tmp_path):
    def table(rows):
        path = tmp_path / "rows.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return table


def ioi(tokenizer, shift=0):
    """With their index, as data frames are saved; ids of another tokenizer are shifted."""
    made = []
    for i, (a, b) in enumerate(itertools.permutations(NAMES, 2)):
        other = next(n for n in NAMES[i % 7 :] if n not in (a, b))
        start = f"Then {a} and {b} were rowing."
        said = [f"{start} {who} lent a tent to" for who in (b, other, a)]
        ids = [tokenizer.encode(name)[0] + shift for name in (a, b)]
        made.append(dict(zip(
            ("", "clean", "corrupted", "corrupted_hard", "correct_idx", "incorrect_idx"),
            (i, *said, *ids), strict=True,
        )))  # fmt: skip
    return made


@pytest.mark.parametrize("shift", [0, 1, 10**6])
def test_names_are_those_of_the_ids_or_of_the_prompt(table, tokenizer, shift):
    made = benchmarks.task("eap", tokenizer, table(ioi(tokenizer, shift)), sizes=SIZES)
    names = {}
    for split in SPLITS:
        prompts, texts = made.splits[split], made.texts[split]
        for i, text in enumerate(texts):
            _, a, _, b, _, _, who, *_ = text.clean.split()
            assert who == b
            assert text.clean.split()[:6] == text.corrupted.split()[:6]
            assert tokenizer.decode([int(prompts.answer[i])]) == text.answer == a
            assert tokenizer.decode([int(prompts.distractor[i])]) == text.distractor == b
            names.setdefault(split, set()).update((a, b, text.corrupted.split()[6]))
        assert len(set(prompts.group.tolist())) == 1
    for one, other in itertools.combinations(SPLITS, 2):
        assert not names[one] & names[other]
    foreign = "answers are words of the prompts: the file's ids are of another tokenizer"
    assert (foreign in made.notes) == (shift > 0)
    assert "splits share 3 words with a meaning: lent, rowing, tent" in made.notes


@pytest.mark.parametrize("shift", [0, 1])
def test_pronouns(table, tokenizer, shift):
    he, she = (tokenizer.encode(word)[0] for word in ("he", "she"))
    rows = [
        {"clean": f"The {job} waved because", "corrupted": f"The {who} waved because",
         "clean_answer_idx": own + shift, "corrupted_answer_idx": other + shift, "label": label}
        for job in JOBS for who, own, other, label in (("man", she, he, 0), ("woman", he, she, 1))
    ]  # fmt: skip
    made = benchmarks.task("eap", tokenizer, table(rows), sizes=Sizes(6, 3, 6))
    jobs = {split: {text.clean.split()[1] for text in made.texts[split]} for split in SPLITS}
    for split in SPLITS:
        for i, text in enumerate(made.texts[split]):
            man = text.corrupted.split()[1] == "man"
            assert (text.answer, text.distractor) == (("she", "he") if man else ("he", "she"))
            assert int(made.splits[split].answer[i]) == (she if man else he)
    assert not jobs["discover"] & jobs["test"]
    assert not jobs["select"] & jobs["test"]


def test_lists_of_words_and_words(table, tokenizer):
    rows = [
        {"clean": f"{a} and others ,", "h1": a, "answers": "['gems', \"stones\", 'unknown']",
         "corrupted": f"{b} and others ,", "answers_idx": "[7, 8]",
         "corrupted_answers": "['birds']"}
        for a, b in zip(NAMES, JOBS, strict=False)
    ]  # fmt: skip
    made = benchmarks.task("eap", tokenizer, table(rows), sizes=Sizes(4, 2, 4))
    for i, text in enumerate(made.texts["test"]):
        right = {tokenizer.decode([int(t)]) for t in made.splits["test"].answer[i]}
        assert right == {"gems", "stones"}
        assert text.answer == "gems|stones|unknown"
    rows = [
        {"clean": f"{a} , the capital of", "country": "Lands", "country_idx": 3,
         "corrupted": f"{b} , the capital of", "corrupted_country": "Towns"}
        for a, b in zip(NAMES, JOBS, strict=False)
    ]  # fmt: skip
    made = benchmarks.task("eap", tokenizer, table(rows), sizes=Sizes(4, 2, 4))
    assert {t.answer for t in made.texts["test"]} == {"Lands"}
    assert tokenizer.decode(made.splits["test"].distractor[:1].tolist()) == "Towns"


@pytest.fixture(scope="module")
def digits():
    """One token a digit."""
    return Tokenizer(byte_bpe(["The fair ran from the year to the year x"]).to_str())


@pytest.mark.parametrize("column", ["label", "correct_idx"])
def test_years_are_asked_as_in_the_task_of_that_name(table, digits, column):
    rows = [
        {"clean": f"The {job} ran from the year {c}{y} to the year {c}",
         "corrupted": f"The {job} ran from the year {c}01 to the year {c}", column: y}
        for job in JOBS[:12] for c, y in ((13, 27), (16, 58), (15, 97))
    ]  # fmt: skip
    made = benchmarks.task("eap", digits, table(rows), sizes=Sizes(6, 3, 6))
    assert "left out 12 of 36 rows: no token for a later year, or none for an earlier one" in (
        made.notes
    )
    for split in SPLITS:
        prompts = made.splits[split]
        for i, text in enumerate(made.texts[split]):
            year = int(text.answer.removeprefix("after "))
            for side, fits in (("answer", lambda d, y=year: d > y // 10),
                               ("distractor", lambda d, y=year: d < y // 10)):  # fmt: skip
                found = {digits.decode([int(t)]) for t in getattr(prompts, side)[i] if t >= 0}
                assert found == {str(d) for d in range(10) if fits(d)}
            assert prompts.clean[i].tolist() != prompts.corrupted[i].tolist()


def test_sides_of_a_year():
    tokens = {n: n + 100 for n in range(100)}
    later, earlier = greater_than.sides(2, tokens, 32)
    np.testing.assert_array_equal(later, np.arange(133, 200))
    np.testing.assert_array_equal(earlier, np.arange(100, 133))


GOOD = {"clean": "Then Bana and Bori were rowing. Bori lent a tent to",
        "corrupted": "Then Bana and Bori were rowing. Culu lent a tent to",
        "correct_idx": 0, "incorrect_idx": 1}  # fmt: skip
YEAR = {"clean": "from 1327 to 13", "corrupted": "from 1301 to 13", "label": 27}
KIND = {"clean": "gems and others ,", "corrupted": "birds and others ,", "answers": "['gems']",
        "corrupted_answers": "['birds']"}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD | {"correct_idx": "x"},
         r"rows\.csv: line 2: correct_idx: got 'x'; expected a whole number from 0"),
        (GOOD | {"incorrect_idx": -1}, r"line 2: incorrect_idx: got '-1'"),
        (GOOD | {"correct_idx": 10**30}, r"line 2: correct_idx: got '1000"),
        (GOOD | {"correct_idx": "²"}, r"line 2: correct_idx: got '²'"),
        (GOOD | {"clean": " "}, r"line 2: clean: got ' '; expected a text"),
        (GOOD | {"corrupted": GOOD["clean"]}, "line 2: corrupted: got .*; expected another text"),
        (YEAR | {"label": 28}, "line 2: label: got '28'; expected the last two digits of the last"),
        (YEAR | {"label": ""}, "line 2: label: got ''"),
        (YEAR | {"clean": "no year"}, "line 2: label: got '27'"),
        (KIND | {"answers": "gems"}, r"line 2: answers: got 'gems'; expected a list of words"),
        (KIND | {"answers": "[__import__('os')]"}, "line 2: answers: got"),
        (KIND | {"corrupted_answers": "[]"}, r"line 2: corrupted_answers: got '\[\]'"),
        ({"clean": "a", "corrupted": "b"},
         r"rows\.csv: columns: got clean, corrupted; expected clean, corrupted and one of: "
         "correct_idx, incorrect_idx; clean_answer_idx"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(table, tokenizer, row, message):
    with pytest.raises(InputError, match=message):
        benchmarks.task("eap", tokenizer, table([row]))


def test_prompts_whose_names_are_not_found_are_counted(table, tokenizer):
    rows = ioi(tokenizer, 10**6)
    rows[0] |= {"clean": rows[0]["clean"].replace(" and ", " a "),
                "corrupted": rows[0]["corrupted"].replace(" and ", " a ")}  # fmt: skip
    made = benchmarks.task("eap", tokenizer, table(rows), sizes=SIZES)
    assert f"left out 1 of {len(rows)} rows: its names are not found in the prompt" in made.notes
