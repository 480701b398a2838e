"""Rows broken in any field: they are used as they are, or an error names file, line and field."""

import csv
import io
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import InputError
from hagd_jax.models import Tokenizer
from hagd_jax.tasks import SPLITS, Sizes, Task, benchmarks

NOUNS = [f"{a}{b}" for a in ("lum", "tev", "rop", "gan") for b in ("er", "op", "ik")]
WORDS = [*NOUNS, *(f"{noun}s" for noun in NOUNS), "The", "glow", "glows", "now.", "of", "is", "by",
         "Then", "and", "met.", "left", "to"]  # fmt: skip
TOKENIZER = Tokenizer.words(WORDS)
SIZES = Sizes(2, 1, 2)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(allow_nan=False,
    allow_infinity=False), st.text(max_size=6), st.lists(st.text(max_size=2), max_size=2),
    st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2),
    st.sampled_from(["The {}", "_", "\ud800"[:0], "x" * 3000, "The lumer", "glows", " glow"]),
)  # fmt: skip


def agreeing(noun, number):
    forms = (noun, f"{noun}s")
    return forms[number], forms[1 - number], ("glows", "glow")[number], ("glow", "glows")[number]


def row_of(name, noun, number, other):
    subject, changed, right, wrong = agreeing(noun, number)
    return {
        "sva": {"clean_prefix": f"The {subject}", "patch_prefix": f"The {changed}",
                "clean_answer": f" {right}", "patch_answer": f" {wrong}", "case": "x"},
        "blimp": {"sentence_good": f"The {subject} {right} now.", "UID": "u",
                  "sentence_bad": f"The {subject} {wrong} now.", "one_prefix_method": True},
        "eap": {"clean": f"Then {noun} and {other} met. {other} left to",
                "corrupted": f"Then {noun} and {other} met. {noun}s left to",
                "correct_idx": WORDS.index(noun), "incorrect_idx": WORDS.index(other)},
    }[name]  # fmt: skip


def rows(name):
    pairs = zip(NOUNS, NOUNS[1:] + NOUNS[:1], strict=True)
    return [row_of(name, a, n, b) for (a, b), n in itertools.product(pairs, (0, 1))]


def written(name, own, folder):
    path = folder / f"rows.{name}"
    if name == "eap":
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, list(rows(name)[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(own)
        path.write_bytes(file.getvalue().encode())
    else:
        path.write_text("\n".join(map(json.dumps, own)))
    return path


@pytest.mark.parametrize("name", ["sva", "blimp", "eap"])
def test_whole_files_make_tasks(name, tmp_path):
    made = benchmarks.task(name, TOKENIZER, written(name, rows(name), tmp_path), sizes=SIZES)
    assert [len(made.splits[split]) for split in SPLITS] == [2, 1, 2]
    assert (made.splits["test"].clean != made.splits["test"].corrupted).any()


@settings(max_examples=100)
@given(st.sampled_from(["sva", "blimp", "eap"]), st.data())
def test_any_value_in_any_field_is_used_or_named(tmp_path_factory, name, data):
    own = rows(name)
    place = data.draw(st.integers(0, len(own) - 1))
    fields = data.draw(st.sets(st.sampled_from(sorted(own[place])), min_size=1))
    dropped = data.draw(st.booleans()) and name != "eap"
    for field in fields:
        if dropped:
            del own[place][field]
        else:
            own[place][field] = data.draw(VALUES)
    path = written(name, own, tmp_path_factory.getbasetemp())
    try:
        made = benchmarks.task(name, TOKENIZER, path, sizes=SIZES)
    except InputError as error:
        said = str(error)
        line = place + (2 if name == "eap" else 1)
        assert any(f"rows.{name}: line {line}: {field}: " in said for field in fields) or (
            f" split of {name}: got " in said
        ), said
    else:
        assert isinstance(made, Task)
        for split in SPLITS:
            made.splits[split].check(TOKENIZER.vocab_size)


@settings(max_examples=60)
@given(st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3), max_leaves=5), st.data())
def test_any_value_in_a_relation_is_used_or_named(tmp_path_factory, value, data):
    whole = {
        "name": "r", "prompt_templates": ["The {} of", "The {} is"],
        "prompt_templates_zs": ["by {} is"],
        "samples": [{"subject": a, "object": b} for a, b in itertools.pairwise(NOUNS)],
    }  # fmt: skip
    field = data.draw(st.sampled_from([*whole, "subject", "object", "sample"]))
    if field in whole:
        whole[field] = value
    elif field == "sample":
        whole["samples"][1] = value
    else:
        whole["samples"][1][field] = value
    path = tmp_path_factory.getbasetemp() / "relation.json"
    path.write_text(json.dumps(whole))
    try:
        assert benchmarks.task("lre", TOKENIZER, path, sizes=SIZES).splits["test"].clean.any()
    except InputError as error:
        said = str(error)
        named = field if field in whole else "samples[1]"
        assert f"relation.json: {named}" in said or "split of lre: got " in said, said


@settings(max_examples=60)
@given(st.sampled_from(["sva", "blimp", "lre", "eap"]), st.binary(max_size=80))
def test_any_bytes_are_refused_in_a_line(tmp_path_factory, name, raw):
    path = tmp_path_factory.getbasetemp() / "raw"
    path.write_bytes(raw)
    with pytest.raises(InputError):
        benchmarks.task(name, TOKENIZER, path, sizes=SIZES)


@pytest.mark.parametrize("name", ["sva", "blimp", "lre", "eap"])
def test_lines_that_are_no_rows_are_named(name, tmp_path):
    path = tmp_path / "rows"
    path.write_text({"lre": "5"}.get(name, "\n5\n" if name != "eap" else "clean,corrupted\n5\n"))
    place = {"lre": "rows: got", "eap": "rows: line 2: got 1 values"}.get(name, "rows: line 2: got")
    with pytest.raises(InputError, match=place):
        benchmarks.task(name, TOKENIZER, path, sizes=SIZES)
