"""Reading a GGUF header forward, every length checked against the bytes that are there."""

from __future__ import annotations

import mmap
import struct
from typing import Any

import numpy as np
from gguf.constants import GGUFValueType

from hagd_jax.errors import CheckpointError

# Entries of all arrays together, keys and tensors included. The largest vocabularies with their
# merges stay under a million; the limit stops a file of empty strings from filling the memory.
MAX_ITEMS = 2**22
_MAX_NESTING = 4
_MAX_NAME = 2**16 - 1  # the format's own limit for keys
DAMAGED = "The file is cut short or damaged: download it again."

_V = GGUFValueType
_SCALARS = {
    _V.UINT8: struct.Struct("<B"),
    _V.INT8: struct.Struct("<b"),
    _V.UINT16: struct.Struct("<H"),
    _V.INT16: struct.Struct("<h"),
    _V.UINT32: struct.Struct("<I"),
    _V.INT32: struct.Struct("<i"),
    _V.FLOAT32: struct.Struct("<f"),
    _V.BOOL: struct.Struct("<?"),
    _V.UINT64: struct.Struct("<Q"),
    _V.INT64: struct.Struct("<q"),
    _V.FLOAT64: struct.Struct("<d"),
}
U32, U64 = _SCALARS[_V.UINT32], _SCALARS[_V.UINT64]


class Cursor:
    """A cursor reads forward through bytes and never past their end."""

    def __init__(self, data: mmap.mmap, size: int, path: str):
        self.data, self.size, self.path = data, size, path
        self.position = 0
        self.items = 0

    def error(self, what: str, got: object, expected: str, mend: str = DAMAGED) -> CheckpointError:
        """Make a typed error that names the file."""
        return CheckpointError(f"{self.path}: {what}", got=got, expected=expected, mend=mend)

    def need(self, n_bytes: int, what: str) -> None:
        """Raise unless that many bytes are left."""
        if n_bytes > self.size - self.position:
            raise self.error(
                f"{what}, at byte {self.position}",
                f"{self.size} bytes in the file",
                f"at least {self.position + n_bytes}",
            )

    def take(self, n_bytes: int, what: str) -> bytes:
        """Read the next bytes."""
        self.need(n_bytes, what)
        self.position += n_bytes
        return self.data[self.position - n_bytes : self.position]

    def scalar(self, layout: struct.Struct, what: str) -> Any:
        """Read the next number."""
        return layout.unpack(self.take(layout.size, what))[0]

    def count(self, what: str, min_bytes: int) -> int:
        """Read a number of entries, refusing more than the rest of the file can hold."""
        n = self.scalar(U64, what)
        self.need(n * min_bytes, f"{what} ({n})")
        self.items += n
        if self.items > MAX_ITEMS:
            raise self.error(what, f"{self.items} metadata values", f"at most {MAX_ITEMS}")
        return n

    def name(self, what: str) -> str:
        """Read a string that must be short and valid UTF-8."""
        length = self.scalar(U64, f"the length of {what}")
        if length > _MAX_NAME:
            raise self.error(f"the length of {what}", length, f"at most {_MAX_NAME}")
        raw = self.take(length, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.error(what, repr(raw[:80]), "UTF-8 text") from error

    def strings(self, n: int, key: str) -> list[str]:
        """Read an array of strings."""
        data, size, position = self.data, self.size, self.position
        out: list[str] = []
        for _ in range(n):
            start = position + 8
            position = start + (U64.unpack_from(data, position)[0] if start <= size else 0)
            if position > size or start > size:
                raise self.error(
                    f"string {len(out)} of {key!r}",
                    f"{size} bytes in the file",
                    f"at least {position}",
                )
            # Lossless for bytes that are not UTF-8, so that nothing merges or gets lost here.
            out.append(data[start:position].decode(errors="surrogateescape"))
        self.position = position
        return out

    def value_type(self, key: str) -> GGUFValueType:
        """Read the type tag of a value."""
        number = self.scalar(U32, f"the type of {key!r}")
        try:
            return GGUFValueType(number)
        except ValueError as error:
            known = ", ".join(f"{kind.value} ({kind.name})" for kind in GGUFValueType)
            raise self.error(f"type of {key!r}", number, f"one of {known}") from error

    def value(self, kind: GGUFValueType, key: str, depth: int = 0) -> Any:
        """Read a value of a type: number, bool, string or array."""
        if kind == GGUFValueType.STRING:
            return self.strings(1, key)[0]
        if kind != GGUFValueType.ARRAY:
            return self.scalar(_SCALARS[kind], f"the value of {key!r}")
        inner = self.value_type(key)
        if inner == GGUFValueType.STRING:
            return self.strings(self.count(f"the length of {key!r}", 8), key)
        if inner == GGUFValueType.ARRAY:
            if depth >= _MAX_NESTING:
                raise self.error(key, f"arrays nested {depth + 2} deep", f"at most {_MAX_NESTING}")
            n = self.count(f"the length of {key!r}", 12)
            return [self.value(inner, key, depth + 1) for _ in range(n)]
        layout = _SCALARS[inner]
        n = self.count(f"the length of {key!r}", layout.size)
        return np.frombuffer(self.take(n * layout.size, key), np.dtype(layout.format))
