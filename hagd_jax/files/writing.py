"""Write files and folders completely or not at all, and make values fit for JSON."""

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

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, InputError, require_is
from hagd_jax.files import system
from hagd_jax.files.reading import require_name

# What a user can do about an error of the system, by its number.
_MEND: Mapping[int | None, str] = {
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.ENOSPC: "Nothing was changed there: make room, or use another place.",
    errno.EDQUOT: "Nothing was changed there: make room, or use another place.",
    errno.EIO: "Nothing was changed there: check the disk, or use another place.",
}
_OTHERWISE = "Nothing was changed there: use another --out, or make it writable."
# A name has at most 255 bytes; a draft's name keeps 40 characters of at most four bytes each.
_NAMED = 40
# Largest number of characters shown of a path or a message.
_SHOWN = 200


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a partial file.

    Args:
        path: File to write.
        content: The whole content; text is encoded in UTF-8.

    Raises:
        CheckpointError: If the file cannot be written; no partial file is left.
    """
    require_is("content", content, str, bytes)
    with draft_of(path) as draft:
        write_file(draft, content)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a draft, or a file within one; a failure leaves a partial file.

    Args:
        path: File to write.
        content: The whole content; text is encoded in UTF-8.

    Raises:
        OSError: If the file cannot be written.
    """
    with system.create(path) as file:
        system.write(file, content.encode() if isinstance(content, str) else content)
        system.settle(file)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, and remove a partial last line that an earlier write left.

    Args:
        path: The file; created if absent.
        line: The line, without its line break.

    Raises:
        CheckpointError: If the line cannot be written; the file is then unchanged.
    """
    with writing_to(path), system.extend(path) as file:
        end = _end_of_lines(file)
        try:
            system.write(file, f"{line}\n".encode())
        except BaseException:
            # If this fails too, the next call removes the partial line.
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def _end_of_lines(file: BinaryIO) -> int:
    """Cut off a partial last line, and return the size of the file in bytes."""
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
        what: Name of the argument, for the message.

    Returns:
        The path, with `~` expanded.

    Raises:
        InputError: If the value is not a path, or no file system allows such a name.
    """
    require_is(what, path, str, os.PathLike)
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(what, got=quoted(str(path)), expected="an existing user's home") from error
    require_name(what, found)
    return found


def beside(path: Path, end: str = "") -> Path:
    """Return a hidden name beside a file or folder, which is short enough if the file's own is.

    Args:
        path: The file or folder.
        end: End of the name; unique by default.

    Returns:
        The path of that name.
    """
    return path.with_name(f".{path.name[:_NAMED]}.{end or uuid.uuid4().hex}")


@contextlib.contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Yield a draft beside a file, which replaces the file if the block ends without an error.

    The caller creates the draft, so its mode follows the umask.

    Args:
        path: Path of the file; its folder is created.

    Yields:
        The draft's path, at which nothing exists yet.

    Raises:
        CheckpointError: If the file cannot be written; no draft is left.
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
    """Yield a draft folder, which replaces a folder if the block ends without an error.

    A new folder appears in one step, complete. Replacing a folder takes two renames: a process
    killed between them leaves the complete old folder under a hidden name beside it.

    Args:
        folder: Folder to write; its parent is created.

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
    """Move the finished draft into place, and delete the old folder only afterwards."""
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
    """Turn system errors of writing a file or folder into a `CheckpointError`.

    Args:
        path: File or folder that the block writes.

    Raises:
        CheckpointError: If it cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> CheckpointError:
    """Return the error of a file or folder that cannot be written.

    Args:
        path: The file or folder.
        error: The error of the system or a library.

    Returns:
        The typed error, with what the user can do about it.
    """
    name, number = str(path), getattr(error, "errno", None)
    said = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
    # TensorStore, which writes checkpoints, gives the system's error number within a long text.
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
    """Check that a folder can be written, before results for it are computed; create nothing.

    Args:
        folder: Folder for the results; it need not exist.

    Raises:
        CheckpointError: If it cannot be written.
    """
    folder = as_path(folder, "folder")
    with writing_to(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass


def finite(value: Any) -> Any:
    """Replace NaN and infinity by None, since JSON has neither.

    Args:
        value: Nested dicts, lists and numbers.

    Returns:
        The same value, with None for non-finite numbers.

    Example:
        >>> finite({"a": (1.0, float("nan"))})
        {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
