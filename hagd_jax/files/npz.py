"""Read external NumPy archives, and check each array's header before allocating it."""

from __future__ import annotations

import dataclasses
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from hagd_jax.brief import one_line, quoted, said
from hagd_jax.errors import CheckpointError, HagdError
from hagd_jax.files.reading import AGAIN, GIB, named, opened, read_bytes

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
# A local header of a member: 30 bytes, of which the last four are two lengths, then two texts
# of these lengths (APPNOTE.TXT 4.3.7). Its array begins behind it.
_LOCAL = 30
_HEADER_BYTES = 12 + 10_000


@dataclasses.dataclass(frozen=True)
class NpzEntry:
    """An entry records where one array of an archive lies.

    Attributes:
        file: The archive.
        member: Name of the member, `<array>.npy`.
        dtype: Of the array.
        shape: Of the array.
        order: `C`, last axis fastest, or `F`.
        start: First byte of its numbers in the file; −1 if the member is compressed.
    """

    file: Path
    member: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: str
    start: int

    __repr__ = one_line

    @property
    def nbytes(self) -> int:
        """Return the size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def sliced(self) -> bool:
        """Tell whether rows can be read without the rest: not if compressed or column-major."""
        return self.start >= 0 and self.order == "C"


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


def npz_entries(
    path: str | Path, most: int = 64 * GIB, error: type[HagdError] = CheckpointError
) -> dict[str, NpzEntry]:
    """Locate the arrays of a `.npz` file without reading their numbers.

    Args:
        path: The file.
        most: Largest size of one array, in bytes.
        error: The class of error to raise.

    Returns:
        Name → where the array lies. Each has the bytes that its shape needs, within the file.

    Raises:
        HagdError: Of the given class, if the file is not in the format, or is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(folder + "/a.npz", a=np.arange(6.0).reshape(3, 2))
        ...     npz_entries(folder + "/a.npz")["a"].shape
        (3, 2)
    """
    where = named(path)
    with opened(path, error=error) as file:
        try:
            size = file.seek(0, 2)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                found = {
                    member.filename.removesuffix(".npy"): _entry(
                        Path(path), archive, member, file, size, most, error
                    )
                    for member in members
                }
        except _BROKEN as problem:
            if isinstance(problem, HagdError):
                raise
            got = said(problem)
            raise error(where, got=got, expected="a whole .npz file", mend=AGAIN) from problem
    if len(found) < len(members):
        raise error(where, got="an array twice", expected="each name once")
    return found


def _entry(
    path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: BinaryIO, size: int,
    most: int, error: type[HagdError],
) -> NpzEntry:  # fmt: skip
    """Where one member lies; the headers of the archive and of the array must agree."""
    where = f"{named(path)}: {quoted(member.filename)}"
    if member.file_size > most:
        got = f"{member.file_size:,} bytes unpacked"
        raise error(where, got=got, expected=f"at most {most:,}")
    with archive.open(member) as unpacked:
        head = unpacked.read(_HEADER_BYTES)
    dtype, shape, order, skipped = _header(head, member.file_size, where, error)
    if member.compress_type != zipfile.ZIP_STORED:
        return NpzEntry(path, member.filename, dtype, shape, order, -1)
    file.seek(member.header_offset)
    local = file.read(_LOCAL)
    start = member.header_offset + _LOCAL + sum(struct.unpack("<HH", local[26:30]))
    if local[:4] != b"PK\x03\x04" or start + member.file_size > size:
        raise error(where, got=f"bytes {start:,} to {start + member.file_size:,}",
                    expected=f"bytes of a file of {size:,}", mend=AGAIN)  # fmt: skip
    return NpzEntry(path, member.filename, dtype, shape, order, start + skipped)


def read_npz_rows(
    entry: NpzEntry, runs: Sequence[tuple[int, int]], error: type[HagdError] = CheckpointError
) -> np.ndarray:
    """Read rows of one array of an archive, and nothing else of it where it can be sliced.

    A compressed array has no place in the file for a row, and the rows of a column-major one lie
    apart: of these the whole array is read, one at a time.

    Args:
        entry: Of `npz_entries`; with at least one axis.
        runs: First row, and the row after the last, of each run of rows.
        error: The class of error to raise.

    Returns:
        The rows of all runs, one after the other.

    Raises:
        HagdError: Of the given class, if the file has changed or cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(folder + "/a.npz", a=np.arange(6.0).reshape(3, 2))
        ...     read_npz_rows(npz_entries(folder + "/a.npz")["a"], [(2, 3)])
        array([[4., 5.]])
    """
    where = f"{named(entry.file)}: {quoted(entry.member)}"
    if not entry.sliced:
        whole = _whole(entry, where, error)
        return np.concatenate([whole[:0], *(whole[first:last] for first, last in runs)])
    step = entry.nbytes // max(entry.shape[0], 1)
    rows = sum(last - first for first, last in runs)
    out = np.empty((rows, *entry.shape[1:]), entry.dtype)
    flat, done = memoryview(cast(Any, out.reshape(-1).view(np.uint8))), 0
    with opened(entry.file, error=error) as file:
        for first, last in runs:
            file.seek(entry.start + first * step)
            part = flat[done : done + (last - first) * step]
            if file.readinto(part) != len(part):  # type: ignore[attr-defined]
                raise error(where, got="a file that ends before its arrays",
                            expected="the file as it was opened", mend=AGAIN)  # fmt: skip
            done += len(part)
    return out


def _whole(entry: NpzEntry, where: str, error: type[HagdError]) -> np.ndarray:
    """The whole array of an entry that cannot be sliced."""
    with opened(entry.file, error=error) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                info = archive.getinfo(entry.member)
                if info.file_size > entry.nbytes + _HEADER_BYTES:
                    raise error(where, got=f"{info.file_size:,} bytes unpacked",
                                expected="the file as it was opened")  # fmt: skip
                found = _array(archive.read(info), where, error)
        except _BROKEN as problem:
            if isinstance(problem, HagdError):
                raise
            raise error(where, got=said(problem), expected="a whole .npz file") from problem
    if (found.shape, found.dtype) != (entry.shape, entry.dtype):
        raise error(where, got=f"shape {found.shape}", expected=f"{entry.shape}, as it was opened")
    return found


def _array(data: bytes, where: str, error: type[HagdError]) -> np.ndarray:
    """Parse one member of an archive; its array must have exactly the member's bytes."""
    dtype, shape, order, start = _header(data[:_HEADER_BYTES], len(data), where, error)
    form: Any = order
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order=form).copy(form)


def _header(
    head: bytes, size: int, where: str, error: type[HagdError]
) -> tuple[np.dtype[Any], tuple[int, ...], str, int]:
    """Dtype, shape and order of an array of `size` bytes, and where its numbers begin in them."""
    if head[:6] != b"\x93NUMPY" or len(head) < 12 or head[6] not in (1, 2, 3):
        raise error(where, got="no NumPy array", expected="an array that `np.savez` wrote")
    start, form = (10, "<H") if head[6] == 1 else (12, "<I")
    (length,) = struct.unpack_from(form, head, 8)
    found = _HEADER.fullmatch(head[start : start + min(length, 10_000)].decode("latin1"))
    if found is None:
        raise error(where, got="a header of another kind", expected="an array of numbers")
    dtype = np.dtype(found[1])
    shape = tuple(int(size) for size in found[3].replace(" ", "").split(",") if size)
    body = size - start - length
    if len(shape) > 32 or math.prod(shape) * dtype.itemsize != body:
        got = f"{body:,} bytes for shape {quoted(shape)} of {dtype}"
        raise error(where, got=got, expected="as many as the shape needs")
    return dtype, shape, "F" if found[2] == "True" else "C", start + length
