"""Whole files or none, and places that cannot be written."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.errors import CheckpointError
from hagd_jax.files import finite, require_writable, write_atomic


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    file = tmp_path / "new" / "a.txt"
    write_atomic(file, "one")
    write_atomic(file, "zwei — ü")
    assert file.read_text(encoding="utf-8") == "zwei — ü"
    assert os.listdir(file.parent) == ["a.txt"]


def test_a_file_in_the_way_and_a_full_disk_are_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("precious")
    for check in (require_writable, lambda folder: write_atomic(folder / "a.txt", "x")):
        with pytest.raises(CheckpointError, match=r"Not a directory|File exists"):
            check(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write_atomic(tmp_path / "b.txt", "x")
    assert os.listdir(tmp_path) == ["file"]


def test_looking_whether_a_place_can_be_written_leaves_no_trace(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_read_only_folder_is_refused(tmp_path):
    # As root everything can be written, so somebody else looks.
    code = (
        "import os, sys; from pathlib import Path; from hagd_jax.files import require_writable\n"
        "os.setuid(65534); require_writable(Path(sys.argv[1]) / 'run')"
    )
    tmp_path.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "CheckpointError" in done.stderr, done.stderr
    assert "ermission denied" in done.stderr


@given(
    st.recursive(
        st.floats() | st.integers() | st.text() | st.none() | st.booleans(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_what_is_finite_is_kept_and_the_rest_becomes_null(value):
    made = json.loads(json.dumps(finite(value), allow_nan=False))
    assert finite(made) == made
    assert not isinstance(value, list) or len(made) == len(value)
