"""Read external bytes and text: only regular files, up to a size limit, in strict UTF-8.

A path from a file or a user may name a pipe without a writer, an endless device, or an impossible
name. Each is refused before it can block the process or fill the memory.
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
    """Open a regular file for reading, and turn system errors into typed errors.

    Args:
        path: The file.
        most: Largest size in bytes; unbounded if None.
        error: The class of error to raise.

    Yields:
        The file, in binary.

    Raises:
        HagdError: Of the given class, if the file does not exist, is not regular, is too large, has
            an impossible name, or cannot be read inside the block.

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
        said = f"the error {problem.strerror or type(problem).__name__!r}"
        got = "no such file" if isinstance(problem, FileNotFoundError) else said
        raise error(where, got=got, expected="a file that can be read") from problem


def read_bytes(
    path: str | Path, most: int = GIB, error: type[HagdError] = CheckpointError
) -> bytes:
    """Read all of a regular file.

    Args:
        path: The file.
        most: Largest size in bytes.
        error: The class of error to raise.

    Returns:
        The bytes of the file.

    Raises:
        HagdError: Of the given class, see `opened`.
    """
    with opened(path, most, error) as file:
        # Read the reported size first, since `read` allocates what it is asked for.
        data = file.read(os.fstat(file.fileno()).st_size)
        # Some files, such as those in /proc, do not report their size.
        while more := file.read(MIB):
            data += more
            if len(data) > most:
                raise _too_large(named(path), len(data), most, error)
    return data


def read_text(path: str | Path, most: int = GIB, error: type[HagdError] = CheckpointError) -> str:
    """Read all of a UTF-8 text file, without a leading byte order mark.

    Args:
        path: The file.
        most: Largest size in bytes.
        error: The class of error to raise.

    Returns:
        The text of the file, with its original line ends.

    Raises:
        HagdError: Of the given class, see `opened`; or if the file is not UTF-8.
    """
    return decoded(read_bytes(path, most, error), named(path), error)


def decoded(data: bytes, where: str, error: type[HagdError] = CheckpointError) -> str:
    r"""Decode UTF-8 strictly.

    Args:
        data: The bytes.
        where: Name of the bytes, for the message.
        error: The class of error to raise.

    Returns:
        The text, without a byte order mark.

    Raises:
        HagdError: Of the given class, naming the first invalid byte.

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
    """Return whether a path is a regular file; impossible names are not errors.

    Args:
        path: The file.

    Returns:
        True for a regular file; False also for an empty, impossible or too long name.

    Example:
        >>> is_file("x" * 5000)
        False
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def require_name(what: str, path: Path) -> None:
    """Raise an error for a path that no file system allows, at which even `exists` can fail.

    Args:
        what: Name of the argument, for the message.
        path: The path.

    Raises:
        InputError: If the path contains a zero byte or a lone surrogate, or is too long.

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
    """Return a path for a message: unchanged if it is printable and short, else quoted."""
    text = os.fspath(path)
    return text if len(text) <= 1000 and text.isprintable() else quoted(text)


def _descriptor(path: str | Path, where: str, error: type[HagdError]) -> int:
    """Open a regular file; O_NONBLOCK keeps a pipe from waiting for its writer."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
        # Check before opening as well, since opening a device can have side effects.
        if kind not in _KINDS:
            number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            kind = stat.S_IFMT(os.fstat(number).st_mode)
            if kind == stat.S_IFREG:
                return number
            os.close(number)
    except ValueError as problem:
        # The name contains a NUL or a lone surrogate.
        raise error(where, got="an impossible name", expected="a possible file name") from problem
    raise error(where, got=_KINDS.get(kind, "something else"), expected="a regular file")


def _too_large(where: str, size: int, most: int, error: type[HagdError]) -> HagdError:
    return error(where, got=f"{size:,} bytes", expected=f"at most {most:,}")
