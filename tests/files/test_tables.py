"""CSV tables are read as Python's csv writes them, or refused in a line that names the place."""

import contextlib
import csv
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import read_csv

NAMES = st.lists(st.text(st.characters(codec="utf-8"), max_size=4), min_size=2, max_size=4,
                 unique=True)  # fmt: skip


@given(NAMES, st.data())
def test_what_csv_writes_is_read_again(tmp_path_factory, names, data):
    values = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
    rows = data.draw(st.lists(st.lists(values, min_size=len(names), max_size=len(names))))
    file = io.StringIO(newline="")
    csv.writer(file).writerows([names, *rows])
    path = tmp_path_factory.getbasetemp() / "table.csv"
    path.write_bytes(file.getvalue().encode())
    if names[0].startswith("\ufeff"):
        return  # a byte order mark
    found = list(read_csv(path))
    assert [list(row.values()) for _, row in found] == rows
    assert all(list(row) == names for _, row in found)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_table_or_refused(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(raw)
    with contextlib.suppress(InputError):
        for _, row in read_csv(path, error=InputError):
            assert all(isinstance(value, str) for pair in row.items() for value in pair)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t\.csv: got an empty file; expected CSV with a line of column names"),
        ("a,b\n1,2\n1,2,3\n", r"t\.csv: line 3: got 3 values; expected 2, one for each column"),
        ("a,a\n1,2\n", r"t\.csv: line 1: got the column 'a' twice; expected each name once"),
        (",".join(map(str, range(101))), r"line 1: got 101 columns; expected at most 100"),
        ('a,b\n"1,2\n', r"line 2: got unexpected end of data; expected a line of CSV"),
        ('a,b\n"1"x,2\n', r"t\.csv: line 2: got .*; expected a line of CSV"),
        ("a,b\n" + "x" * 200_000 + ",2\n", r"line 2: got field larger than field limit"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=message):
        list(read_csv(path))


def test_bounds_hold_before_anything_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n\n2\n3\n")
    assert [number for number, _ in read_csv(path)] == [2, 4, 5]
    with pytest.raises(CheckpointError, match="got more than 2 rows; expected fewer"):
        list(read_csv(path, rows=2))
    with pytest.raises(CheckpointError, match="got 9 bytes; expected at most 8"):
        list(read_csv(path, size=8))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe: got a pipe; expected a regular file"):
        list(read_csv(tmp_path / "pipe"))
