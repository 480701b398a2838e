"""Files and folders that are either whole or absent, and JSON that any reader accepts."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, InputError, require_is
from hagd_jax.files.reading import require_name


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
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def as_path(path: Any, what: str = "path") -> Path:
    """Read an argument as a path.

    Args:
        path: A string or a path.
        what: The argument, for the message.

    Returns:
        The path, with `~` expanded.

    Raises:
        InputError: If it is something else, or no file system has such a name.
    """
    require_is(what, path, str, os.PathLike)
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(what, got=quoted(str(path)), expected="a user that there is") from error
    require_name(what, found)
    return found


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
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            os.replace(draft, path)
        finally:
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
    folder = as_path(folder, "folder")
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        with writing_to(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft.mkdir()
            yield draft
            _swap(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, folder: Path) -> None:
    """Put the finished draft in place; the old folder goes only once the new one is there."""
    if not folder.exists():
        draft.rename(folder)
        return
    old = draft.with_name(f"{draft.name}.old")
    folder.rename(old)
    try:
        draft.rename(folder)
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
        raise CheckpointError(
            str(path),
            got=str(error),
            expected="a place that can be written, on a disk that is not full",
            mend="Nothing was changed there: use another --out, or make room.",
        ) from error


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
