"""Whole files or none, and places that cannot be written."""

import json
import os
import stat
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from hagd_jax.errors import CheckpointError
from hagd_jax.files import (
    arrays_digest,
    finite,
    read_arrays,
    replacing,
    require_writable,
    save_arrays,
    write_atomic,
)


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


DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", ml_dtypes.bfloat16),
]


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: name[0] != "_"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        min_size=1,
        max_size=5,
    )
)
def test_the_library_reads_the_arrays_that_were_written(tmp_path_factory, wanted):
    file = tmp_path_factory.mktemp("arrays") / "a.safetensors"
    rng = np.random.default_rng(0)
    arrays = {
        name: (rng.normal(size=shape) * 100).astype(dtype)
        for name, (dtype, shape) in wanted.items()
    }
    save_arrays(file, arrays, {"a": "word"})
    with safe_open(file, "numpy") as opened:
        assert opened.metadata() == {"a": "word", "blake2b": arrays_digest(arrays, {"a": "word"})}
        theirs = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    ours, about = read_arrays(file)
    assert about == {"a": "word"}
    for found in (theirs, ours):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a.txt", "x")
        save_arrays(tmp_path / "a.safetensors", {"a": np.ones(2)})
        with replacing(tmp_path / "folder") as draft:
            (draft / "b.txt").write_text("x")
    finally:
        os.umask(before)
    for file in ("a.txt", "a.safetensors", "folder/b.txt"):
        assert stat.S_IMODE((tmp_path / file).stat().st_mode) == 0o666 & ~umask, file
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask
