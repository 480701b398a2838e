"""Safetensors files: written a block at a time, read whole.

The library's own writer wants all tensors in memory at once, and makes files that only their owner
can read; this one holds one block, and files follow the umask.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp  # Registers bfloat16 with NumPy; safetensors cannot return it otherwise.
import numpy as np
from safetensors import SafetensorError, safe_open

from hagd_jax.brief import one_line
from hagd_jax.errors import CheckpointError
from hagd_jax.files.writing import draft_of

# https://github.com/huggingface/safetensors#format
CODES: Mapping[np.dtype[Any], str] = {
    np.dtype(jnp.bfloat16): "BF16",
    np.dtype(np.bool_): "BOOL",
    **{np.dtype(f"f{n}"): f"F{8 * n}" for n in (2, 4, 8)},
    **{np.dtype(f"i{n}"): f"I{8 * n}" for n in (1, 2, 4, 8)},
    **{np.dtype(f"u{n}"): f"U{8 * n}" for n in (1, 2, 4, 8)},
}


@dataclasses.dataclass(frozen=True)
class PaddedRows:
    """Rows of a tensor, each followed by zeros.

    Attributes:
        values: (rows, ...) what is written.
        gap: Bytes of zeros after each row, left out as a hole in the file.
    """

    values: np.ndarray
    gap: int = 0

    __repr__ = one_line


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor to write.

    Attributes:
        name: In the file.
        shape: Its shape.
        dtype: Its dtype, one of `CODES`.
        blocks: Its rows in order, made when they are written.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[PaddedRows]]

    __repr__ = one_line

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


def whole_tensor(
    name: str, shape: Sequence[int], dtype: Any, value: Callable[[], np.ndarray]
) -> Tensor:
    """Describe a tensor that is written in a single block.

    Args:
        name: In the file.
        shape: Its shape.
        dtype: Its dtype.
        value: Makes it, when it is written.

    Returns:
        The tensor.
    """

    def blocks() -> Iterator[PaddedRows]:
        yield PaddedRows(value())

    return Tensor(name, tuple(shape), np.dtype(dtype), blocks)


def write_safetensors(
    path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the format: length of the header (8 bytes), header in JSON, the tensors one by one.

    Args:
        path: Where to; a draft, since a failure leaves a part.
        tensors: What to write.
        metadata: Texts for the header. By default what transformers asks for: it refuses files
            that do not say which framework their layout is of.

    Raises:
        OSError: If the disk is full, or the place cannot be written to.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} if metadata is None else metadata}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        code = CODES[tensor.dtype]
        header[tensor.name] = {
            "dtype": code, "shape": tensor.shape, "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            for rows in tensor.blocks():
                if not rows.gap:
                    file.write(_bytes(rows.values))
                    continue
                for row in rows.values:
                    file.write(_bytes(row))
                    file.seek(rows.gap, 1)
        # The last bytes may be a hole.
        file.truncate(8 + len(text) + end)


def save_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays to one safetensors file, whole or not at all.

    Args:
        path: Where to; replaced if it exists.
        arrays: Name → array, of a dtype in `CODES`.
        metadata: Texts for the header.

    Raises:
        CheckpointError: If it cannot be written; then nothing of it is left.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_arrays(Path(folder, "a.safetensors"), {"a": np.arange(3)}, {"what": "a count"})
        ...     read_arrays(Path(folder, "a.safetensors"))
        ({'a': array([0, 1, 2])}, {'what': 'a count'})
    """
    # Wide numbers first: then each lies at a multiple of its own width.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    tensors = [
        whole_tensor(n, arrays[n].shape, arrays[n].dtype, lambda n=n: arrays[n]) for n in order
    ]
    with draft_of(path) as draft:
        write_safetensors(draft, tensors, metadata or {})


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read all of a safetensors file.

    Args:
        path: The file.

    Returns:
        Name → array, and the texts of its header.

    Raises:
        CheckpointError: If there is no such file, or it is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            str(path), got=str(error), expected="a whole safetensors file"
        ) from error


def _bytes(values: np.ndarray) -> memoryview:
    """The bytes of an array, row-major."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
