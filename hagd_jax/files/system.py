"""Wrap the system calls for writing files.

Everything that this package writes goes through these functions, so that a full disk can be
handled, or simulated in tests, in one place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


def make_folder(path: Path) -> None:
    """Create a folder and its parents; the folder may exist."""
    path.mkdir(parents=True, exist_ok=True)


def create(path: Path) -> BinaryIO:
    """Open a new file for writing; its mode follows the umask."""
    return path.open("wb")


def extend(path: Path) -> BinaryIO:
    """Open a file for reading and appending; it is created if absent."""
    return path.open("a+b", buffering=0)


def write(file: BinaryIO, content: bytes | memoryview) -> None:
    """Write all bytes, however many calls that takes."""
    left = memoryview(content)
    while len(left):
        left = left[file.write(left) :]


def settle(file: BinaryIO) -> None:
    """Flush a file to the disk; some disks report errors only then."""
    file.flush()
    os.fsync(file.fileno())


def replace(draft: Path, path: Path) -> None:
    """Replace a file by a draft in one atomic step."""
    os.replace(draft, path)


def move(old: Path, new: Path) -> None:
    """Rename a folder."""
    old.rename(new)
