"""Folders that are written whole or not at all, and safetensors files written a block at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import struct
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hagd_jax.errors import CheckpointError
from hagd_jax.models.safetensors_source import DTYPES

_CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a tensor, each followed by zeros.

    Attributes:
        values: (rows, ...) what is written.
        gap: Bytes of zeros after each row, left out as a hole in the file.
    """

    values: np.ndarray
    gap: int = 0


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor to write.

    Attributes:
        name: In the file.
        shape: Its shape.
        dtype: Its dtype.
        blocks: Its rows in order, made when they are written.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[Rows]]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


def whole(name: str, leaf: Any, layer: int) -> Tensor:
    """One layer of a stacked parameter, as a tensor.

    Args:
        name: In the file.
        leaf: (L, ...) the parameter.
        layer: Which one.

    Returns:
        The tensor, written in a single block.
    """

    def blocks() -> Iterator[Rows]:
        yield Rows(np.asarray(leaf[layer]))

    return Tensor(name, tuple(leaf.shape[1:]), np.dtype(leaf.dtype), blocks)


def write_safetensors(path: Path, tensors: Sequence[Tensor]) -> None:
    """The format: length of the header (8 bytes), header in JSON, then the tensors one by one.

    The library's own writer wants all tensors in memory at once.

    Args:
        path: Where to.
        tensors: What to write.

    Raises:
        OSError: If the disk is full, or the place cannot be written to.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        code = _CODES[tensor.dtype]
        header[tensor.name] = {
            "dtype": code, "shape": tensor.shape, "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            for rows in tensor.blocks():
                data = np.ascontiguousarray(rows.values).view(np.uint8)
                if not rows.gap:
                    file.write(data.data)
                    continue
                for row in data:
                    file.write(row.data)
                    file.seek(rows.gap, 1)
        # The last bytes may be a hole.
        file.truncate(8 + len(text) + end)


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A draft beside a folder, which takes its place if all goes well, and is gone if not.

    A new folder appears at once and whole. Replacing one takes two renames: a process killed
    between them leaves the old one, whole, under a hidden name beside it.

    Args:
        folder: Where to. Its parent is created.

    Yields:
        The draft.

    Raises:
        CheckpointError: If the system refuses to write, e.g. on a full disk.
    """
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        yield draft
        _swap(draft, folder)
    except OSError as error:
        raise CheckpointError(
            str(folder),
            got=error.strerror or str(error),
            expected="a place that can be written to, with room enough",
            mend="Nothing was changed there.",
        ) from error
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
