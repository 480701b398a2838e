"""Bytes and text from outside: regular files only, no larger than a stated bound, strict UTF-8.

A path that a file or a user names may be anything: a pipe that never says a word, a device without
an end, a name that no file system holds. Each is refused before it can block or fill the memory.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, HagdError, InputError

KIB, MIB, GIB = 2**10, 2**20, 2**30
AGAIN = "Was the download or copy cut short? Fetch the file again."
_KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder",
}  # fmt: skip


@contextlib.contextmanager
def opened(
    path: str | Path, most: int | None = None, error: type[HagdError] = CheckpointError
) -> Iterator[BinaryIO]:
    """Open a regular file for reading, and turn what the system says into a typed error.

    Args:
        path: The file.
        most: Its largest size in bytes; any size if None.
        error: The class of error to raise.

    Yields:
        The file, in binary.

    Raises:
        HagdError: Of the given class, if there is no such file, it is no regular file, it is too
            large, its name is impossible, or reading inside the block fails.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as made, opened(made.name) as file:
        ...     file.read()
        b''
    """
    where = named(path)
    try:
        with os.fdopen(_descriptor(path, where, error), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if most is not None and size > most:
                raise _too_large(where, size, most, error)
            yield file
    except OSError as problem:
        said = problem.strerror or type(problem).__name__
        raise error(where, got=said, expected="a file that can be read") from problem


def read_bytes(
    path: str | Path, most: int = GIB, error: type[HagdError] = CheckpointError
) -> bytes:
    """Read all of a regular file.

    Args:
        path: The file.
        most: Its largest size in bytes.
        error: The class of error to raise.

    Returns:
        Its bytes.

    Raises:
        HagdError: Of the given class, see `opened`.
    """
    with opened(path, most, error) as file:
        # No more than the file says at first, since room is made for what is asked for.
        data = file.read(os.fstat(file.fileno()).st_size)
        # Some files, such as those in /proc, do not say how large they are.
        while more := file.read(MIB):
            data += more
            if len(data) > most:
                raise _too_large(named(path), len(data), most, error)
    return data


def read_text(path: str | Path, most: int = GIB, error: type[HagdError] = CheckpointError) -> str:
    """Read all of a text file, which must be UTF-8; a byte order mark in front is left out.

    Args:
        path: The file.
        most: Its largest size in bytes.
        error: The class of error to raise.

    Returns:
        Its text; line ends stay as they are.

    Raises:
        HagdError: Of the given class, see `opened`; or if it is not UTF-8.
    """
    return decoded(read_bytes(path, most, error), named(path), error)


def decoded(data: bytes, where: str, error: type[HagdError] = CheckpointError) -> str:
    r"""Decode UTF-8 strictly.

    Args:
        data: The bytes.
        where: What they are, for the message.
        error: The class of error to raise.

    Returns:
        The text, without a byte order mark.

    Raises:
        HagdError: Of the given class, naming the first byte that does not fit.

    Example:
        >>> decoded(b"caf\xc3\xa9", "menu.txt")
        'café'
    """
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as problem:
        got = f"{problem.reason} at byte {problem.start}"
        raise error(where, got=got, expected="text in UTF-8") from problem


def is_file(path: str | Path) -> bool:
    """Say whether there is a regular file, whatever the name.

    Args:
        path: The file.

    Returns:
        False also where the name is too long for a file, or none.

    Example:
        >>> is_file("x" * 5000)
        False
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def require_name(what: str, path: Path) -> None:
    """Refuse a path that no file system has, at which other questions than opening raise too.

    Args:
        what: The argument, for the message.
        path: The path.

    Raises:
        InputError: If it has a zero byte or half of a surrogate pair in it, or is too long.

    Example:
        >>> require_name("model", Path("models/small"))
    """
    try:
        text = os.fsencode(path)
    except ValueError:
        text = b"\0"
    if b"\0" in text or len(text) > 4000 or any(len(part) > 255 for part in text.split(b"/")):
        raise InputError(
            what, got=quoted(str(path)), expected="a path with names of at most 255 bytes"
        )


def named(path: str | Path) -> str:
    """A path as a message shows it: as it is where that can be printed, quoted where it cannot."""
    text = os.fspath(path)
    return text if len(text) <= 1000 and text.isprintable() else quoted(text)


def _descriptor(path: str | Path, where: str, error: type[HagdError]) -> int:
    """A descriptor of a regular file; without O_NONBLOCK, opening a pipe waits for its writer."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
        # Asked before opening too: opening a device may do something.
        if kind not in _KINDS:
            number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            kind = stat.S_IFMT(os.fstat(number).st_mode)
            if kind == stat.S_IFREG:
                return number
            os.close(number)
    except ValueError as problem:
        # A NUL in it, or half of a surrogate pair.
        raise error(where, got="an impossible name", expected="the name of a file") from problem
    raise error(where, got=_KINDS.get(kind, "something else"), expected="a regular file")


def _too_large(where: str, size: int, most: int, error: type[HagdError]) -> HagdError:
    return error(where, got=f"{size:,} bytes", expected=f"at most {most:,}")
