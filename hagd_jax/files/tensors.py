"""Write safetensors files a block at a time, and read them whole.

The library's own writer needs all tensors in memory at once, and makes files that only their owner
can read. This writer holds one block in memory, and its files follow the umask.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp  # Registers bfloat16 with NumPy; safetensors cannot return it otherwise.
import numpy as np
from safetensors import SafetensorError, safe_open

from hagd_jax.brief import one_line, said
from hagd_jax.errors import (
    CheckpointError,
    DamagedError,
    InputError,
    require_index,
    require_is,
    require_list,
    shown,
)
from hagd_jax.files import system
from hagd_jax.files.digests import DIGEST, arrays_digest, as_bytes, require_digest
from hagd_jax.files.headers import safetensors_header
from hagd_jax.files.writing import as_path, draft_of

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
    """Padded rows are rows of a tensor, each followed by zeros.

    Attributes:
        values: (rows, ...) values of the rows.
        gap: Number of zero bytes after each row, stored as a hole in the file.
    """

    values: np.ndarray
    gap: int = 0

    __repr__ = one_line


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Tensor describes a tensor to write: its name, shape, dtype, and how to make its blocks.

    Attributes:
        name: Name in the file.
        shape: Shape of the tensor.
        dtype: Dtype of the tensor, one of `CODES`.
        blocks: Yields the rows in order; called when they are written.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[PaddedRows]]

    __repr__ = one_line

    @property
    def nbytes(self) -> int:
        """Return the size of the tensor in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def whole_tensor(
    name: str, shape: Sequence[int], dtype: Any, value: Callable[[], np.ndarray]
) -> Tensor:
    """Describe a tensor that is written in a single block.

    Args:
        name: Name in the file.
        shape: Shape of the tensor.
        dtype: Dtype of the tensor.
        value: Returns the array; called when it is written.

    Returns:
        The tensor.
    """
    require_is("name", name, str)
    if not callable(value):
        raise InputError("value", got=shown(value), expected="a function that makes the array")
    sizes = [require_index("shape", size) for size in require_list("shape", shape, "sizes")]
    require_is("dtype", dtype, str, type, np.dtype)
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise InputError("dtype", got=shown(dtype), expected="a dtype") from error

    def blocks() -> Iterator[PaddedRows]:
        yield PaddedRows(value())

    return Tensor(name, tuple(sizes), kind, blocks)


def write_safetensors(
    path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file: length of the header (8 bytes), header in JSON, then the tensors.

    Args:
        path: File to write; should be a draft, since a failure leaves a partial file.
        tensors: Tensors to write.
        metadata: Texts for the header. The default names PyTorch's layout, since transformers
            refuses files that do not name a framework.

    Raises:
        OSError: If the disk is full, or the file cannot be written.
    """
    path = as_path(path)
    _require_metadata(metadata)
    for tensor in require_list("tensors", tensors, "tensors to write"):
        require_is("tensors", tensor, Tensor)
        if tensor.dtype not in CODES:
            known = ", ".join(map(str, CODES))
            raise InputError(f"tensor {tensor.name}", got=tensor.dtype, expected=f"one of {known}")
    texts = {"format": "pt"} if metadata is None else metadata
    header: dict[str, Any] = {"__metadata__": dict(sorted(texts.items()))}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        code = CODES[tensor.dtype]
        header[tensor.name] = {
            "dtype": code, "shape": tensor.shape, "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with system.create(path) as file:
        system.write(file, struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            for rows in tensor.blocks():
                if not rows.gap:
                    system.write(file, as_bytes(rows.values))
                    continue
                for row in rows.values:
                    system.write(file, as_bytes(row))
                    file.seek(rows.gap, 1)
        # The file may end with a hole, which only truncation to full length creates.
        file.truncate(8 + len(text) + end)
        system.settle(file)


def save_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays and their digest to a safetensors file, completely or not at all.

    Args:
        path: File to write; replaced if it exists.
        arrays: Name → array, of a dtype in `CODES`.
        metadata: Texts for the header.

    Raises:
        CheckpointError: If the file cannot be written; no partial file is left.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_arrays(Path(folder, "a.safetensors"), {"a": np.arange(3)}, {"what": "a count"})
        ...     read_arrays(Path(folder, "a.safetensors"))
        ({'a': array([0, 1, 2])}, {'what': 'a count'})
    """
    require_is("arrays", arrays, Mapping)
    for name, array in arrays.items():
        require_is("name of an array", name, str)
        require_is(f"array {name}", array, np.ndarray, np.generic, jax.Array)
    _require_metadata(metadata)
    # Wide dtypes come first, so that each tensor is aligned to its own width.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    tensors = [
        whole_tensor(n, arrays[n].shape, arrays[n].dtype, lambda n=n: arrays[n]) for n in order
    ]
    texts = dict(metadata or {})
    with draft_of(path) as draft:
        write_safetensors(draft, tensors, texts | {DIGEST: arrays_digest(arrays, texts)})


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read all arrays of a safetensors file, and check their digest.

    Args:
        path: The file.

    Returns:
        Name → array, and the texts of the header.

    Raises:
        DamagedError: If the file is not in the format, or its content has changed since.
        CheckpointError: If the file cannot be read.
    """
    path = as_path(path)
    names, about = safetensors_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        kind = CheckpointError if isinstance(error, OSError) else DamagedError
        raise kind(str(path), got=said(error), expected="a whole safetensors file") from error
    texts = dict(about)
    told = texts.pop(DIGEST, None)
    require_digest(path, told, None if told is None else arrays_digest(arrays, texts))
    return arrays, texts


def _require_metadata(metadata: Any) -> None:
    """Raise an `InputError` unless the header's metadata maps texts to texts."""
    if metadata is None:
        return
    require_is("metadata", metadata, Mapping)
    for name, text in metadata.items():
        require_is("name in metadata", name, str)
        require_is(f"metadata {name}", text, str)
