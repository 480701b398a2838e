"""Read the header of a safetensors file, and check it against the file's size."""

from __future__ import annotations

import dataclasses
import itertools
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from hagd_jax.brief import one_line, quoted, spelled
from hagd_jax.errors import CheckpointError, HagdError
from hagd_jax.files.parsing import Bounds, parse_json
from hagd_jax.files.reading import MIB, decoded, named, opened
from hagd_jax.files.schema import checked

# The format's own limit; the header of a thousand tensors has about a hundred kilobytes.
_HEADER = Bounds(size=100 * MIB, depth=4, items=4_000_000)
_BITS = {"BOOL": 8, "BF16": 16} | {
    f"{kind}{bits}": bits
    for kind, bits in itertools.product("FIU", (8, 16, 32, 64))
}  # fmt: skip
# Names are shown in messages, so their length is bounded.
_Name = Annotated[str, Meta(max_length=1000)]
_Size = Annotated[int, Meta(ge=0, le=2**48)]


@dataclasses.dataclass(frozen=True)
class Stored:
    """Stored describes one tensor in a file: its dtype, its shape and its bytes.

    Attributes:
        dtype: The format's name of the dtype, e.g. `BF16`.
        shape: Shape of the tensor.
        data_offsets: First byte, and the byte after the last, counted from the end of the header.
    """

    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[tuple[_Size, ...], Meta(max_length=16)]
    data_offsets: tuple[_Size, _Size]

    __repr__ = one_line


def safetensors_header(
    path: Path, error: type[HagdError] = CheckpointError
) -> tuple[dict[str, Stored], Mapping[str, str]]:
    """Read and check the header of a safetensors file.

    Args:
        path: The file.
        error: The class of error to raise.

    Returns:
        Name → description of the tensor, and the texts of the header. Each tensor has the number of
        bytes that its shape needs, and together the tensors fill the rest of the file.

    Raises:
        HagdError: Of the given class, if the file is not in the format, or is damaged.
    """
    where = named(path)
    with opened(path, error=error) as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, _HEADER.size):
            got = f"{size:,} bytes, with a header of {length:,}" if len(start) == 8 else "no header"
            raise error(where, got=got, expected="a whole safetensors file")
        text = decoded(file.read(length), where, error)
    record = parse_json(text, f"{where}: header", _HEADER, error)
    about = record.pop("__metadata__", None) if isinstance(record, dict) else None
    about = checked(dict[str, str], {} if about is None else about, f"{where}: texts", error=error)
    tensors = checked(dict[_Name, dict], record, f"{where}: header", error=error)
    found = {
        name: checked(Stored, entry, f"{where}: tensor {spelled(name)}", error=error)
        for name, entry in tensors.items()
    }
    _require_whole(found, size - 8 - length, where, error)
    return found, about


def _require_whole(
    found: Mapping[str, Stored], size: int, where: str, error: type[HagdError]
) -> None:
    """Refuse tensors that overlap, leave gaps, or whose bytes do not match their shapes."""
    end = 0
    for name, entry in sorted(found.items(), key=lambda item: item[1].data_offsets):
        first, last = entry.data_offsets
        bits = _BITS.get(entry.dtype)
        needed = last - first if bits is None else math.prod(entry.shape) * bits // 8
        if first != end or last - first != needed:
            raise error(
                f"{where}: tensor {spelled(name)}",
                got=f"bytes {first:,} to {last:,} for {entry.dtype} of shape {quoted(entry.shape)}",
                expected=f"{needed:,} bytes from {end:,} on, in a whole safetensors file",
            )
        end = last
    if end != size:
        raise error(where, got=f"{size:,} bytes of tensors",
                    expected=f"{end:,}, in a whole safetensors file")  # fmt: skip
