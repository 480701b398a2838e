"""Files and folders that are either whole or absent, and JSON that any reader accepts."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from hagd_jax.errors import CheckpointError, require_is
from hagd_jax.files import system

# What a user can do about what the system says.
_MEND: Mapping[int | None, str] = {
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.ENOSPC: "Nothing was changed there: make room, or use another place.",
    errno.EDQUOT: "Nothing was changed there: make room, or use another place.",
    errno.EIO: "Nothing was changed there: check the disk, or use another place.",
}
_OTHERWISE = "Nothing was changed there: use another --out, or make it writable."
# A name may have 255 bytes; a draft's has 40 characters of the file's, of at most four bytes.
_NAMED = 40
# Characters of a path or a message that are shown.
_SHOWN = 200


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    Args:
        path: Where to.
        content: All of it; text becomes UTF-8.

    Raises:
        CheckpointError: If it cannot be written; then nothing of it is left.
    """
    require_is("content", content, str, bytes)
    with draft_of(path) as draft:
        write_file(draft, content)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file within a draft; a failure leaves a part of it.

    Args:
        path: Where to.
        content: All of it; text becomes UTF-8.

    Raises:
        OSError: If it cannot be written.
    """
    with system.create(path) as file:
        system.write(file, content.encode() if isinstance(content, str) else content)
        system.settle(file)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file of lines; what an earlier, cut off write left of one is removed.

    Args:
        path: The file; made if absent.
        line: Without its end.

    Raises:
        CheckpointError: If it cannot be written; then the file is as it was.
    """
    with writing_to(path), system.extend(path) as file:
        end = _end_of_lines(file)
        try:
            system.write(file, f"{line}\n".encode())
        except BaseException:
            # Should this fail as well, the next line that is added removes it.
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def _end_of_lines(file: BinaryIO) -> int:
    """Where the last whole line ends; what follows it is cut off."""
    end = size = file.seek(0, os.SEEK_END)
    while end:
        start = max(end - 4096, 0)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        file.truncate(end)
    return end


def as_path(path: Any, what: str = "path") -> Path:
    """Read an argument as a path.

    Args:
        path: A string or a path.
        what: The argument, for the message.

    Returns:
        The path, with `~` expanded.

    Raises:
        InputError: If it is something else.
    """
    require_is(what, path, str, os.PathLike)
    return Path(path).expanduser()


def beside(path: Path, end: str = "") -> Path:
    """A hidden name beside a file or folder, which is not too long if the file's own is not.

    Args:
        path: The file or folder.
        end: What the name ends with; something unique by default.
    """
    return path.with_name(f".{path.name[:_NAMED]}.{end or uuid.uuid4().hex}")


@contextlib.contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Give a draft beside a file, which takes its place when the block ends without an error.

    The draft is made by whoever writes it, so its mode is what the umask allows.

    Args:
        path: Where the file will be. Its folder is created.

    Yields:
        The draft's path; nothing is there yet.

    Raises:
        CheckpointError: If it cannot be written; then nothing of it is left.
    """
    path = as_path(path)
    with writing_to(path):
        draft = beside(path)
        system.make_folder(path.parent)
        try:
            yield draft
            system.replace(draft, path)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a draft beside a folder, which takes its place if all goes well, and is gone if not.

    A new folder appears at once and whole. Replacing one takes two renames: a process killed
    between them leaves the old one, whole, under a hidden name beside it.

    Args:
        folder: Where to. Its parent is created.

    Yields:
        The draft, an empty folder.

    Raises:
        CheckpointError: If the system refuses to write, e.g. on a full disk.
    """
    folder = as_path(folder)
    with writing_to(folder):
        draft = beside(folder)
        try:
            system.make_folder(folder.parent)
            system.make_folder(draft)
            yield draft
            _swap(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, folder: Path) -> None:
    """Put the finished draft in place; the old folder goes only once the new one is there."""
    if not folder.exists():
        system.move(draft, folder)
        return
    old = draft.with_name(f"{draft.name}.old")
    system.move(folder, old)
    try:
        system.move(draft, folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn what the system says about a file or folder into a `CheckpointError`.

    Args:
        path: What is written inside the block.

    Raises:
        CheckpointError: If it cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> CheckpointError:
    """The error of a place that cannot be written.

    Args:
        path: The place.
        error: What the system says.

    Returns:
        The error, in one sentence and what to do about it.
    """
    name, number = str(path), getattr(error, "errno", None)
    said = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
    # TensorStore, which writes checkpoints, gives the system's number within a long text.
    if number is None and (told := re.search(r"os_error_code='(\d+)'", str(error))):
        number = int(told[1])
        said = os.strerror(number)
    return CheckpointError(
        name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...",
        got=said[:_SHOWN],
        expected="a place that can be written, on a disk that is not full",
        mend=_MEND.get(number, _OTHERWISE),
    )


def require_writable(folder: Path) -> None:
    """Make sure that results will find a place, before they are computed; leaves no trace.

    Args:
        folder: Where they will be written; it need not exist.

    Raises:
        CheckpointError: If they cannot be.
    """
    folder = as_path(folder, "folder")
    with writing_to(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass


def finite(value: Any) -> Any:
    """Make a value fit for JSON, which knows no NaN and no infinity: they become null.

    Args:
        value: Nested dicts, lists and numbers.

    Returns:
        The same, with None for what is not finite.

    Example:
        >>> finite({"a": (1.0, float("nan"))})
        {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
