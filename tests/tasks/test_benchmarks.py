"""Benchmarks from files: what they mean, what is left out and why."""

import contextlib
import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError, MissingDependencyError
from hagd_jax.models import Tokenizer, abstract
from hagd_jax.tasks import SPLITS, Sizes, benchmarks, modular, task
from hagd_jax.tasks.benchmarks import hellaswag
from hagd_jax.tasks.lexicon import words
from hagd_jax.testbeds.small_training import SmallTrainConfig, decoder_config

from .conftest import byte_bpe

THINGS = ("cup", "plate", "ball", "box", "stone", "vase")
WORDS = [*THINGS, *words("The A broke the as _ fell. fell while we watched end. man: runs")]
WORDS += words("He She sings. eats. jumps. sleeps. walks in park Running again Then he fast. slow.")
WORDS += ["[step]"]
SIZES = Sizes(6, 2, 6)


def gap(one, other, number, **changes):
    sentence = f"The {one} broke the {other} as _ fell."
    row = {"qID": f"{number}-1", "sentence": sentence, "option1": one, "option2": other}
    return row | {"answer": "1"} | changes


def ending(number, **changes):
    row = {
        "ind": number,
        "activity_label": "Running",
        "ctx_a": f"The {THINGS[number % 6]} {THINGS[number // 6 % 6]} in the park",
        "ctx_b": "he" if number < 36 else "he walks",
        "endings": ["sings.", "eats. again", "jumps. [step]", "sleeps."],
        "label": number % 4,
        "source_id": f"s{number}",
    }
    return row | changes


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.words(list(dict.fromkeys([*WORDS, "Running:", "He"])))


def gaps():
    pairs = itertools.permutations(THINGS, 2)
    return [gap(a, b, i) for i, (a, b) in enumerate(pairs)]


def test_winogrande_exchanges_the_referents(write, tokenizer):
    made = benchmarks.task("winogrande", tokenizer, write(gaps()), sizes=SIZES)
    seen = set()
    for split in SPLITS:
        prompts, texts = made.splits[split], made.texts[split]
        assert prompts.clean.shape[:2] == (getattr(SIZES, split), 2)
        for i, text in enumerate(texts):
            right, wrong = text.answer, text.distractor
            assert text.clean == f"The {right} broke the {wrong} as {right} fell."
            assert text.corrupted == f"The {wrong} broke the {right} as {right} fell."
            row = prompts.clean[i, 1, : prompts.length[i, 1]].tolist()
            assert tokenizer.decode(row) == f"The {right} broke the {wrong} as {wrong} fell."
            scored = prompts.position[i, 0]
            said = [prompts.clean[i, 0, t + 1] for t in scored if t >= 0]
            assert tokenizer.decode(said) == "fell."
            assert prompts.unit[i, 0] == len("fell.")
        found = {text.clean for text in texts}
        assert not seen & found
        seen |= found
    assert not made.notes


def test_hellaswag_takes_the_context_of_another(write, tokenizer):
    rows = [ending(i) for i in range(60)]
    made = benchmarks.task("hellaswag", tokenizer, write(rows), sizes=SIZES)
    prompts, texts = made.splits["test"], made.texts["test"]
    assert prompts.clean.shape[1] == 4
    assert texts[0].clean.startswith("Running: The")
    assert len(texts[0].distractor.split("|")) == 3
    assert "[step]" not in " ".join(text.clean + text.distractor for text in texts)
    for i in range(len(prompts)):
        start = prompts.position[i, 0, 0] + 1
        same = prompts.clean[i] == prompts.corrupted[i]
        assert same[:, start:].all()
        assert same[:, 0].all()
    assert (prompts.clean != prompts.corrupted).any()
    rights = np.array(["sings.", "eats. again", "jumps.", "sleeps."])
    assert [text.answer for text in texts] == rights[prompts.answer].tolist()
    # The same file, the same splits, whatever the sizes.
    more = benchmarks.task("hellaswag", tokenizer, write(rows), sizes=Sizes(7, 4, 8), seed=1)
    splits = {text.clean: split for split in SPLITS for text in made.texts[split]}
    for split, text in ((s, t) for s in SPLITS for t in more.texts[s]):
        assert splits.get(text.clean, split) == split


def test_rows_that_do_not_fit_are_named(write, tokenizer):
    rows = gaps()
    bad = [
        "{not json",
        "[1, 2]",
        gap("cup", "box", 1, answer=""),
        gap("cup", "box", 1, answer=True),
        gap("cup", "cup", 1),
        gap("cup", "box", 1, option2="table"),
        gap("cup", "box", 1, sentence="The cup and the box"),
        gap("cup", "box", 1, sentence="The cup _ the box _"),
        gap("cup", "box", 1, sentence="The cup fell. the box _"),
        gap("cup", "box", 1, sentence=None),
        gap("cup", "box", 1, option1=["cup"]),
    ]
    made = benchmarks.task("winogrande", tokenizer, write([*rows, *bad]), sizes=SIZES)
    notes = " ".join(made.notes)
    for reason in (
        "1 of 41 rows: not a JSON object",
        "1 of 41 rows: the line is not JSON in Unicode",
        "2 of 41 rows: answer is not a number from 1 to 2",
        "both options are the same",
        "an option is not in the sentence",
        "0 gaps",
        "2 gaps",
        "nothing after the gap",
        "sentence is no text",
        "option1 is no text",
    ):
        assert reason in notes, reason
    # A referent of two tokens in the place of one.
    long = [gap("cup", "box fell.", i) for i in range(40)]
    with pytest.raises(InputError, match=r"0 of its 40 rows.*left out 40"):
        benchmarks.task(
            "winogrande", tokenizer, write([r | {"sentence": "_ as fell."} for r in long])
        )


def test_twins_without_an_official_id_stay_together(write, tokenizer):
    """Twins have the same two options; numbers of rows are no ids of twins."""
    rows = [row | {"qID": f"dev{i:04}"} for i, row in enumerate(gaps())]
    rows += [row | {"qID": f"dev1{i:03}", "sentence": row["sentence"].replace("_ fell", "_ A fell")}
             for i, row in enumerate(gaps())]  # fmt: skip
    made = benchmarks.task("winogrande", tokenizer, write(rows), sizes=SIZES)
    pairs = {
        split: {frozenset((text.answer, text.distractor)) for text in made.texts[split]}
        for split in SPLITS
    }
    assert all(pairs.values())
    for one, other in itertools.combinations(SPLITS, 2):
        assert not pairs[one] & pairs[other]


def test_the_scored_words_of_winogrande_begin_with_a_blank():
    """The harness joins both with one, whatever stands after the gap."""
    row = gap("cup", "box", 1, sentence="The cup and the box, but _'s lid fell.")
    item = benchmarks.READERS["winogrande"](row)
    assert item.ends == (" 's lid fell.",) * 2
    assert item.others[0] == "The box and the cup, but cup 's lid fell."


def test_contexts_that_are_joined_already_are_read_as_those_in_two_parts():
    parts = {"ctx_a": "A man sits.", "ctx_b": "then the man in Red"}
    own = ending(1) | parts
    joined = {k: v for k, v in own.items() if k not in parts} | {"ctx": " ".join(parts.values())}
    read = benchmarks.READERS["hellaswag"]
    assert read(joined).begins == read(own).begins
    assert read(own).begins[0] == "Running: A man sits. Then the man in red"
    for whole in ("All is said. it is over.", "no sentence ends here", "Is it? Yes he"):
        assert read(joined | {"ctx": whole}).begins[0] == f"Running: {whole}"


def test_all_rows_are_scored_also_those_without_a_counterfactual(write, tokenizer):
    """Cut and counted as in the harness: the context alone says where scoring begins."""
    rows = [*gaps(), gap("cup", "box", 99, sentence="The plate fell as _ fell."), "{"]
    found, notes = benchmarks.scored_rows("winogrande", tokenizer, write(rows))
    assert notes == ("left out 1 of 32 rows: the line is not JSON in Unicode",)
    assert len(found) == 31
    last = found[-1]
    for option, choice in zip(("cup", "box"), last.choices, strict=True):
        assert tokenizer.decode(list(choice.clean)) == f"The plate fell as {option} fell."
        first, end = choice.scored
        assert tokenizer.decode(list(choice.clean[first:end])) == "fell."
        assert choice.unit == len("fell.")
    task_notes = benchmarks.task("winogrande", tokenizer, write(rows), sizes=SIZES).notes
    assert any("an option is not in the sentence" in note for note in task_notes)
    with pytest.raises(
        InputError, match=r"got 'sva'; expected one of winogrande, hellaswag, blimp"
    ):
        benchmarks.scored_rows("sva", tokenizer, write(rows))


FIELDS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text()),
    st.dictionaries(st.text(), st.text()),
)  # fmt: skip


@settings(max_examples=300)
@given(st.sampled_from(["winogrande", "hellaswag"]), st.data())
def test_any_value_in_any_field_is_read_or_skipped(name, data):
    row = gap("cup", "box", 1) if name == "winogrande" else ending(3)
    for field in data.draw(st.sets(st.sampled_from(sorted(row)), min_size=1)):
        row[field] = data.draw(FIELDS)
    with contextlib.suppress(benchmarks.Skipped):
        item = benchmarks.READERS[name](row)
        assert len(item.begins) == len(item.ends) == len(item.options) >= 2
        assert 0 <= item.answer < len(item.options)
        assert all(item.ends)


def test_by_name(write, tokenizer, tmp_path):
    small = decoder_config(modular.algorithm(7), SmallTrainConfig(d_model=8, n_heads=1, d_mlp=8))
    speaker = abstract(small).replace(tokenizer=tokenizer)
    made = task(f"WinoGrande:{write(gaps())}", speaker, sizes=SIZES)
    assert made.name == "winogrande"
    np.testing.assert_array_equal(
        made.splits["test"].clean,
        benchmarks.task("winogrande", tokenizer, write(gaps()), sizes=SIZES).splits["test"].clean,
    )
    with pytest.raises(InputError, match=r"absent\.jsonl"):
        task(f"hellaswag:{tmp_path / 'absent.jsonl'}", speaker)
    with pytest.raises(InputError, match="at most 0 of its 1 rows"):
        task(f"winogrande:{write(['{}'])}", speaker)


def test_without_a_file_the_hub_is_asked(monkeypatch, tokenizer):
    import sys
    import types

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"winogrande:dev\.jsonl"):
        benchmarks.task("winogrande", tokenizer)
    asked = []

    def load_dataset(path, config, split):
        asked.append((path, config, split))
        return gaps()

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    made = benchmarks.task("winogrande", tokenizer, sizes=SIZES)
    assert asked == [("allenai/winogrande", "winogrande_xl", "validation")]
    assert len(made.splits["test"]) == 6


def cleaned(text):
    """As lm-evaluation-harness cleans HellaSwag's texts, by its own regular expression."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


PIECES = st.sampled_from(["[", "]", "a", "Ü", " ", "  ", "\n", " [title]", "[step]", "。"])


@settings(max_examples=200)
@given(st.lists(PIECES, max_size=14).map("".join))
def test_texts_are_cleaned_as_by_the_harness(text):
    assert hellaswag.cleaned(text) == cleaned(text)


def test_cleaning_takes_linear_time():
    """A quadratic regular expression took minutes on this."""
    for text in ("[" * 200_000, "[]" * 100_000, "[x\n" * 60_000 + "]"):
        assert len(hellaswag.cleaned(text)) <= len(text)


ENDINGS = ("goes on to its 5° in Zürich.", "ends", "it is five in Zurich now [step] and so on",
           "über äöü ßßß ñ")  # fmt: skip


def test_hellaswag_is_scored_as_by_the_harness(write):
    """`acc` and `acc_norm` of random logits, by its formulas in float64; bytes would differ."""
    texts = ["A: the people number s", *ENDINGS, "0 1 2 3 4 5 6 7 8 9"]
    tokenizer = Tokenizer(byte_bpe(texts).to_str())
    rows = [
        {
            "activity_label": "A",
            "ctx_a": f"the people {i}",
            "ctx_b": "number",
            "endings": ENDINGS[i % 4 :] + ENDINGS[: i % 4],
            "label": i % 4,
            "source_id": f"s{i}",
        }
        for i in range(60)
    ]
    made = benchmarks.task("hellaswag", tokenizer, write(rows), sizes=Sizes(4, 2, 12))
    choices, texts = made.splits["test"], made.texts["test"]
    assert texts[0].clean.startswith("A: the people ")
    assert " Number " in texts[0].clean
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(*choices.inputs().shape, tokenizer.vocab_size)) * 0.5
    at = np.take_along_axis(logits, np.asarray(choices.reads)[..., None], axis=1)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    sums, lengths, sizes = [], [], []
    for i in range(len(choices)):
        words = [tokenizer.decode(row[:n].tolist())
                 for row, n in zip(choices.clean[i], choices.length[i], strict=True)]  # fmt: skip
        context = words[0][: words[0].index("Number") + len("Number")]
        for c, text in enumerate(words):
            ending = text[len(context) + 1 :]
            begin = len(tokenizer.encode(context))
            ids = choices.clean[i, c, : choices.length[i, c]]
            row = logp[4 * i + c]
            sums.append(sum(row[t - 1, ids[t]] for t in range(begin, len(ids))))
            lengths.append(float(len(ending)))
            sizes.append(float(len(f" {ending}".encode())))
    lls, completion_len, in_bytes = (np.reshape(x, (-1, 4)) for x in (sums, lengths, sizes))
    np.testing.assert_allclose(choices.unit, completion_len)
    np.testing.assert_allclose(choices.log_likelihoods(at), lls, rtol=1e-4)
    gold = choices.answer
    acc, acc_norm = (lls.argmax(1) == gold, (lls / completion_len).argmax(1) == gold)
    np.testing.assert_array_equal(choices.acc(at), acc)
    np.testing.assert_array_equal(choices.acc_norm(at), acc_norm)
    np.testing.assert_array_equal(choices.correct(at), acc_norm)
    # The three count differently here, so that one in the place of another is seen.
    assert (acc != acc_norm).any()
    assert ((lls / in_bytes).argmax(1) != (lls / completion_len).argmax(1)).any()
    broken = np.full_like(at, np.nan)
    assert not np.asarray(choices.acc(broken)).any()


def test_a_row_that_comes_twice_counts_once(write, tokenizer):
    rows = gaps()
    once = benchmarks.task("winogrande", tokenizer, write(rows), sizes=SIZES)
    twice = benchmarks.task("winogrande", tokenizer, write([*rows, *rows]), sizes=SIZES)
    assert twice.notes == ("left out 30 of 60 rows: the same prompt as another row",)
    assert not once.notes
    for split in SPLITS:
        assert twice.distinct(split) == len(twice.splits[split])


def test_rows_of_one_source_are_one_cluster(write, tokenizer):
    rows = [row | {"qID": f"twin{i // 2}-{i % 2}"} for i, row in enumerate(gaps())]
    made = benchmarks.task("winogrande", tokenizer, write(rows), sizes=SIZES)
    by_text = {row["sentence"].split(" as ")[0]: row["qID"].split("-")[0] for row in rows}
    together = 0
    for split in SPLITS:
        twins = [by_text[text.clean.split(" as ")[0]] for text in made.texts[split]]
        clusters = made.clusters(split)
        pairs = set(zip(clusters.tolist(), twins, strict=True))
        assert len(pairs) == len(set(twins)) == len(set(clusters.tolist()))
        together += len(twins) - len(pairs)
    assert together >= 1


def test_half_a_surrogate_pair_leaves_out_its_row_alone(write, tokenizer):
    rows = [*gaps(), gap("cup", "box", "\ud800"), gap("cup", "box", 99, option1="\udfff")]
    made = benchmarks.task("winogrande", tokenizer, write(rows), sizes=SIZES)
    assert any("rows: the line is not JSON in Unicode" in note for note in made.notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lambada",), "benchmark: got 'lambada'; expected one of winogrande, hellaswag"),
        ((["winogrande"],), "benchmark"),
        (("winogrande", None), "tokenizer"),
        (("winogrande", "tok", 5), "source"),
    ],
)
def test_benchmarks_that_do_not_exist_are_refused(arguments, message, tokenizer):
    name, words, *source = (*arguments, tokenizer)[: max(len(arguments), 2)]
    words = tokenizer if words == "tok" else words
    with pytest.raises(InputError, match=message):
        benchmarks.task(name, words, *source)
