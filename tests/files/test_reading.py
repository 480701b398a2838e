"""Bytes and text from outside: what is no plain file is refused before it can block."""

import os
import socket
import time

import pytest

from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import as_path, is_file, named, opened, read_bytes, read_json, read_text


@pytest.fixture(params=["pipe", "socket", "folder", "device"])
def special(request, tmp_path, monkeypatch):
    """A path that is there and is no file; sockets must have a short name."""
    monkeypatch.chdir(tmp_path)
    if request.param == "pipe":
        os.mkfifo("odd")
    elif request.param == "folder":
        os.mkdir("odd")
    elif request.param == "device":
        os.symlink("/dev/zero", "odd")
    else:
        made = socket.socket(socket.AF_UNIX)
        made.bind("odd")
        made.close()
    return tmp_path / "odd", request.param


def test_what_is_no_file_is_refused_at_once(special):
    path, kind = special
    began = time.monotonic()
    for read in (read_bytes, read_text, read_json):
        with pytest.raises(CheckpointError, match=f"odd: got a {kind}; expected a regular file"):
            read(path)
    assert not is_file(path)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "\ud800", "p/" * 3000 + "x"])
def test_impossible_names_are_typed_errors_in_one_line(name):
    with pytest.raises(CheckpointError) as caught:
        read_bytes(name)
    with pytest.raises(InputError, match="names of at most 255 bytes"):
        as_path(name)
    assert not is_file(name)
    assert str(caught.value).isprintable()
    assert len(named(name)) <= 1000


def test_size_is_bounded_before_reading(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(2**40)  # a hole: nothing of it could be held
    with pytest.raises(CheckpointError, match=r"got 1,099,511,627,776 bytes; expected at most 9"):
        read_bytes(tmp_path / "a", most=9)
    (tmp_path / "b").write_bytes(b"123456789")
    assert read_bytes(tmp_path / "b", most=9) == b"123456789"


def test_a_file_that_does_not_say_its_size_is_bounded_too():
    with pytest.raises(CheckpointError, match="expected at most 10"):
        read_bytes("/proc/self/status", most=10)


def test_text_is_strict_utf8(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffcaf\u00e9\r\n\u2028".encode())
    assert read_text(tmp_path / "a") == "caf\u00e9\r\n\u2028"
    for raw in (b"\xff", "\u00e9".encode("latin1"), "\ud800".encode("utf-8", "surrogatepass")):
        (tmp_path / "a").write_bytes(raw)
        with pytest.raises(InputError, match=r"a: got .* at byte 0; expected text in UTF-8"):
            read_text(tmp_path / "a", error=InputError)


def test_what_the_system_says_while_reading_is_typed(tmp_path):
    (tmp_path / "a").write_text("x")
    with (
        pytest.raises(CheckpointError, match=r"got the error .Input/output error.;"),
        opened(tmp_path / "a"),
    ):
        raise OSError(5, "Input/output error")
    with pytest.raises(CheckpointError, match="no such file"):
        read_text(tmp_path / "none")
