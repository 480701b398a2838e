"""Files that are either whole or absent, and JSON that any reader accepts."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hagd_jax.errors import CheckpointError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    Args:
        path: Where to.
        content: All of it; text becomes UTF-8.

    Raises:
        CheckpointError: If it cannot be written; then nothing of it is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


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
            mend="Use another --out, or make room.",
        ) from error


def require_writable(folder: Path) -> None:
    """Make sure that results will find a place, before they are computed; leaves no trace.

    Args:
        folder: Where they will be written; it need not exist.

    Raises:
        CheckpointError: If they cannot be.
    """
    with writing_to(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass


def finite(value: Any) -> Any:
    """A value for JSON, which knows no NaN and no infinity: they become null.

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
