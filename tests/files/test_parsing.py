"""JSON, JSON lines and YAML: what comes out is plain and bounded, all else is a typed error."""

import json
import math
import time
import tracemalloc

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import Bounds, parse_json, read_jsonl, read_yaml

from .mutations import damaged, mutated, outcome

GOOD = {
    "name": "ioi", "nodes": [["head", 0, 1], ["mlp", 1, 0]], "scores": [0.5, -1e-3],
    "config": {"a": {"b": [1, None, True]}, "text": "caf\u00e9 \u2028 \U0001d11e \\ \""},
}  # fmt: skip
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def numbers_and_texts(value):
    if isinstance(value, dict | list):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from numbers_and_texts(item)
    else:
        yield value


@settings(max_examples=80)
@given(plain, st.booleans())
def test_plain_values_come_back(value, escaped):
    assert parse_json(json.dumps(value, ensure_ascii=escaped), "x") == value


@settings(max_examples=150)
@given(mutated(GOOD))
def test_a_mutated_text_is_refused_or_is_what_python_reads_in_it(raw):
    text = raw.decode(errors="replace")
    value, said = outcome(lambda: parse_json(text, "x.json"))
    if said:
        assert said.startswith("x.json: got ")
        return
    assert value == json.loads(text)
    for item in numbers_and_texts(value):
        assert not isinstance(item, float) or math.isfinite(item)
        assert not isinstance(item, int) or -(2**63) <= item < 2**64
        assert not isinstance(item, str) or item.encode() is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "the name 'a' twice"),
        ("[NaN]", "got NaN"),
        ("[-Infinity]", "got -Infinity"),
        ("[1e400]", "got '1e400'; expected finite numbers"),
        ("[" + "9" * 5000 + "]", r"got '9+\.\.\.; expected integers of at most 64 bits"),
        ("18446744073709551616", "64 bits"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        ("[" * 65 + "]" * 65, "65 levels of nesting; expected at most 64"),
        ("[" * 100_000, "100000 levels"),
        ('{"a":' * 100_000, "100000 levels"),
        ("[" + "0," * 100 + "0]", "about 102 values; expected at most 100"),
        ("", "Expecting value"),
        ("[1] 2", "Extra data"),
    ],
)
def test_what_python_takes_and_no_one_means_is_refused(text, said):
    with pytest.raises(InputError, match=f"^f: got .*{said}|^f: {said}"):
        parse_json(text, "f", Bounds(items=100), InputError)


def test_brackets_and_commas_in_texts_count_nothing():
    text = json.dumps(["[" * 200 + '"\\' + "," * 200, "\\", '"'])
    assert parse_json(text, "x", Bounds(items=10, depth=2)) == json.loads(text)
    assert parse_json("[" * 64 + "]" * 64, "x") is not None


@pytest.mark.parametrize("unit", ['\\"', '"', "[", '{"a":', '"a', "\\", "1", "-", "1e", "[1,"])
def test_no_text_takes_more_than_linear_time(unit):
    """A quadratic scan of 400,000 characters would take minutes."""
    took = []
    for count in (50_000, 100_000):
        began = time.perf_counter()
        with pytest.raises(CheckpointError):
            parse_json('["' + unit * count, "x")
        took.append(time.perf_counter() - began)
    assert took[1] < 10 * took[0] + 0.2


def test_lines_end_at_line_feeds_alone(tmp_path):
    rows = [{"a": "one\u2028two\u0085three\x0bfour"}, ["\r"], 5]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "a.jsonl").write_bytes("\n\r\n".join(lines).encode() + b"\n")
    assert list(read_jsonl(tmp_path / "a.jsonl")) == [(1, rows[0]), (3, rows[1]), (5, rows[2])]


def test_a_broken_line_is_named_or_handed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n\xff\n' + b"[" * 200 + b"\n[" + b"0," * 99 + b"0]\n7")
    with pytest.raises(CheckpointError, match=r"a\.jsonl: line 2: got "):
        list(read_jsonl(path))
    said = dict(read_jsonl(path, bounds=Bounds(1000, 64, 90), broken=lambda n, why: (n, str(why))))
    assert said[1] == {"a": 1}
    assert said[6] == 7
    for number, word in [(2, "JSON"), (3, "UTF-8"), (4, "levels"), (5, "values")]:
        assert said[number][0] == number
        assert word in said[number][1]
    with pytest.raises(CheckpointError, match="more than 3 lines"):
        list(read_jsonl(path, rows=3, broken=lambda n, why: why))
    with pytest.raises(CheckpointError, match="line 4: got more than 150 bytes"):
        list(read_jsonl(path, bounds=Bounds(150, 300), broken=lambda n, why: why))


def test_lines_are_streamed(tmp_path):
    """20,000 lines take no more memory than a few; a million take 50 times as long as these."""
    with (tmp_path / "a.jsonl").open("w") as file:
        for number in range(20_000):
            file.write(json.dumps({"text": "x" * 500, "number": number}) + "\n")
    tracemalloc.start()
    began = time.perf_counter()
    assert sum(row["number"] for _, row in read_jsonl(tmp_path / "a.jsonl")) == 199_990_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert time.perf_counter() - began < 5


MAPPING = {"model_kind": "transcoder_set", "k": 4, "share": 0.5, "none": None, "flag": True,
           "transcoders": ["layer_0.safetensors", "caf\u00e9 \U0001d11e"]}  # fmt: skip


@settings(max_examples=60)
@given(damaged(yaml.safe_dump(MAPPING, allow_unicode=True).encode()) | mutated(MAPPING))
def test_a_mutated_yaml_is_refused_or_plain(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_bytes(raw)
    value, said = outcome(lambda: read_yaml(path))
    if said:
        assert "mutated.yaml: got " in said
        return
    assert isinstance(value, dict)
    assert parse_json(json.dumps(value), "x") == value


def test_a_good_mapping_is_read_however_it_is_written(tmp_path):
    texts = [yaml.safe_dump(MAPPING, allow_unicode=x) for x in (True, False)] + [
        json.dumps(MAPPING)
    ]
    for text in texts:
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
        assert read_yaml(tmp_path / "a.yaml") == MAPPING


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1", "an anchor"),
        ("a: *x", "an anchor"),
        ("a: !!python/object:os.system 1", "the tag"),
        ("a: !!set {x}", "the tag"),
        ("a: " + "[" * 3000 + "]" * 3000, "deep nesting"),
        ("- " * 3000 + "a", "deep nesting"),
        ("a: 1\na: 2", "the name 'a' twice"),
        ("a: {b: 1, b: 2}", "the name 'b' twice"),
        ("<<: {a: 1}", "not a text"),
        ("? [a]\n: 1", "not a text"),
        ("1: a", "the name 1"),
        ("a: .nan", "got nan"),
        ("a: 2001-02-03", "got date"),
        ("a: 2001-99-03", "month must be"),
        ("a: " + "9" * 5000, "digits"),
        ("a: 0x" + "f" * 5000, "an integer of 20000 bits"),
        ("a: " + ":".join(["1"] * 5000), "an integer of"),
        ('a: "\\ud800"', "got "),
        ("a: " + "x" * 70_000, "70,003 bytes"),
        ("a: [" + "1," * 11_000 + "]", "more than 10,000 values"),
        ("- a", "got list"),
        ("", "got NoneType"),
        ("a: [", "flow node"),
        ("a: \x07", "special characters"),
    ],
)  # fmt: skip
def test_a_small_yaml_cannot_take_much_time_or_say_odd_things(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=said) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert time.monotonic() - began < 5
    assert len(str(caught.value)) < 600
