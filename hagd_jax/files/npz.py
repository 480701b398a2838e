"""Read external NumPy archives, and check each array's header before allocating it."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hagd_jax.brief import quoted, said
from hagd_jax.errors import CheckpointError, HagdError
from hagd_jax.files.reading import GIB, named, read_bytes

# https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html; a header is the repr
# of a dict, in the only form that `np.savez` writes for plain arrays.
_HEADER = re.compile(
    r"\{'descr': '([<|=]?[biufc?]\d{0,2})', 'fortran_order': (False|True), "
    r"'shape': \(((?:\d{1,18}, ?)*\d{0,18})\), \} *\n"
)
_BROKEN = (
    zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, EOFError,
    OSError, ValueError, LookupError, OverflowError,
)  # fmt: skip


def read_npz(
    path: str | Path, most: int = GIB, error: type[HagdError] = CheckpointError
) -> dict[str, np.ndarray]:
    """Read all arrays of a `.npz` file, without unpickling anything.

    Args:
        path: The file.
        most: Largest size of the file, and of its arrays, in bytes; the sizes in the archive's own
            headers are checked before anything is unpacked.
        error: The class of error to raise.

    Returns:
        Name → array.

    Raises:
        HagdError: Of the given class, if the file cannot be read, is damaged, or is too large.
    """
    return parse_npz(read_bytes(path, most, error), named(path), most, error)


def parse_npz(
    data: bytes, where: str, most: int = GIB, error: type[HagdError] = CheckpointError
) -> dict[str, np.ndarray]:
    """Read all arrays from the bytes of a `.npz` file, see `read_npz`.

    Args:
        data: The bytes.
        where: Name of the bytes, for the message.
        most: Largest total size of the arrays, in bytes.
        error: The class of error to raise.

    Returns:
        Name → array.

    Raises:
        HagdError: Of the given class, if the bytes are damaged, or the arrays are too large.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> np.savez(file, a=np.arange(3))
        >>> parse_npz(file.getvalue(), "a.npz")
        {'a': array([0, 1, 2])}
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > most:
                raise error(where, got=f"{total:,} bytes unpacked", expected=f"at most {most:,}")
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(set(names)) < len(names):
                raise error(where, got="an array twice", expected="each name once")
            return {
                name: _array(archive.read(member), f"{where}: {quoted(name)}", error)
                for name, member in zip(names, members, strict=True)
            }
    except _BROKEN as problem:
        if isinstance(problem, HagdError):
            raise
        raise error(where, got=said(problem), expected="a whole .npz file") from problem


def _array(data: bytes, where: str, error: type[HagdError]) -> np.ndarray:
    """Parse one member of an archive; its array must have exactly the member's bytes."""
    if data[:6] != b"\x93NUMPY" or len(data) < 10 or data[6] not in (1, 2, 3):
        raise error(where, got="no NumPy array", expected="an array that `np.savez` wrote")
    start, form = (10, "<H") if data[6] == 1 else (12, "<I")
    (length,) = struct.unpack_from(form, data, 8)
    found = _HEADER.fullmatch(data[start : start + min(length, 10_000)].decode("latin1"))
    if found is None:
        raise error(where, got="a header of another kind", expected="an array of numbers")
    dtype = np.dtype(found[1])
    shape = tuple(int(size) for size in found[3].replace(" ", "").split(",") if size)
    body = len(data) - start - length
    if len(shape) > 32 or math.prod(shape) * dtype.itemsize != body:
        got = f"{body:,} bytes for shape {quoted(shape)} of {dtype}"
        raise error(where, got=got, expected="as many as the shape needs")
    order: Any = "F" if found[2] == "True" else "C"
    return np.frombuffer(data, dtype, offset=start + length).reshape(shape, order=order).copy(order)
