"""Benchmarks from files: what they mean, what is left out and why."""

import contextlib
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError, MissingDependencyError
from hagd_jax.models import Tokenizer, abstract
from hagd_jax.tasks import SPLITS, Sizes, benchmarks, modular, task
from hagd_jax.tasks.lexicon import words
from hagd_jax.testbeds.small_training import SmallTrainConfig, decoder_config

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


@pytest.fixture
def write(tmp_path):
    def write(rows):
        path = tmp_path / "rows.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


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
        "2 of 41 rows: not a JSON object",
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
    with pytest.raises(InputError, match=r"0 of its 40 rows.*Left out 40"):
        benchmarks.task(
            "winogrande", tokenizer, write([r | {"sentence": "_ as fell."} for r in long])
        )


FIELDS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text()),
    st.dictionaries(st.text(), st.text()),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
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
