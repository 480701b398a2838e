"""The system calls that writing is made of.

Everything that this package writes goes through them, so that a full disk can be met, or feigned,
in one place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


def make_folder(path: Path) -> None:
    """Make a folder and those above it; it may exist."""
    path.mkdir(parents=True, exist_ok=True)


def create(path: Path) -> BinaryIO:
    """Open a new file; its mode is what the umask allows."""
    return path.open("wb")


def extend(path: Path) -> BinaryIO:
    """Open a file at its end, to read and to write; it is made if absent."""
    return path.open("a+b", buffering=0)


def write(file: BinaryIO, content: bytes | memoryview) -> None:
    """Write all of some bytes."""
    left = memoryview(content)
    while len(left):
        left = left[file.write(left) :]


def settle(file: BinaryIO) -> None:
    """Wait until the disk holds a file; a disk that fails says so only then."""
    file.flush()
    os.fsync(file.fileno())


def replace(draft: Path, path: Path) -> None:
    """Put a file in the place of another, in one step."""
    os.replace(draft, path)


def move(old: Path, new: Path) -> None:
    """Rename a folder."""
    old.rename(new)
