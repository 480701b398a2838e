"""What a GGUF file says about itself: metadata and the list of tensors, nothing of the weights.

A GGUF file is: magic, version, counts, key/value metadata, tensor descriptions, padding, data
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; versions 2 and 3, little endian).
The parser is our own because `gguf.GGUFReader` trusts every length it reads, so a damaged file
makes it loop or allocate without bound, and it keeps several array views per vocabulary entry,
which takes seconds on 49,152 tokens. Here every length is checked against the bytes that are
there before anything is read. The constants (types, block sizes) are those of `gguf`.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGMLQuantizationType,
)

from hagd_jax.brief import one_line
from hagd_jax.errors import CheckpointError
from hagd_jax.files import opened
from hagd_jax.models.gguf.cursor import DAMAGED, U32, U64, Cursor

_Q = GGMLQuantizationType
# All that `gguf.quants` turns into numbers, but for NVFP4: its tensors have a scale of their own.
SUPPORTED = (
    *(_Q.F32, _Q.F16, _Q.BF16, _Q.Q4_0, _Q.Q4_1, _Q.Q5_0, _Q.Q5_1, _Q.Q8_0),
    *(_Q.Q2_K, _Q.Q3_K, _Q.Q4_K, _Q.Q5_K, _Q.Q6_K, _Q.IQ4_NL, _Q.IQ4_XS, _Q.IQ3_S, _Q.IQ3_XXS),
    *(_Q.IQ2_S, _Q.IQ2_XS, _Q.IQ2_XXS, _Q.IQ1_S, _Q.IQ1_M, _Q.TQ1_0, _Q.TQ2_0, _Q.MXFP4),
)

_MAX_DIMS = 4
# The fewest bytes one entry can take: what a count may promise at most.
_MIN_KEY_VALUE, _MIN_TENSOR = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An entry of the table records where one tensor lies in the file.

    Attributes:
        name: As in the file, e.g. `blk.0.attn_q.weight`.
        shape: Row-major, as NumPy counts (the file stores it reversed).
        kind: Element type or quantization.
        offset: First byte, from the start of the file.
        n_bytes: Bytes of data.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    n_bytes: int


@dataclasses.dataclass(frozen=True)
class GgufHeader:
    """A parsed header holds the metadata and the tensor table.

    Attributes:
        path: The file.
        version: 2 or 3.
        metadata: Key to number, string, bool, NumPy array, list of strings or list of arrays.
        tensors: Name to description.
    """

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    __repr__ = one_line


def read_header(path: str | Path) -> GgufHeader:
    """Parse and check the header of a GGUF file.

    Args:
        path: The file.

    Returns:
        Metadata and tensor descriptions; every tensor lies inside the file, aligned, apart from
        the others, and is of a type that can be read.

    Raises:
        CheckpointError: Not a GGUF file of a known version; cut short; a length, type, shape or
            offset that cannot be; a tensor type that is not supported.
    """
    path = Path(path)
    with opened(path) as file:
        size = file.seek(0, 2)
        if size < 24:
            raise CheckpointError(
                str(path), got=f"{size} bytes", expected="at least 24 bytes", mend=DAMAGED
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(Cursor(data, size, str(path)), path)


def _parse(cursor: Cursor, path: Path) -> GgufHeader:
    version = _version(cursor)
    n_tensors = cursor.count("the number of tensors", _MIN_TENSOR)
    n_keys = cursor.count("the number of metadata keys", _MIN_KEY_VALUE)
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = cursor.name("a metadata key")
        if key in metadata:
            raise cursor.error(f"metadata key {key!r}", "it twice", "each key once")
        metadata[key] = cursor.value(cursor.value_type(key), key)
    alignment = _alignment(cursor, metadata)
    raw = [_tensor(cursor) for _ in range(n_tensors)]
    data_start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for info in raw:
        if info.name in tensors:
            raise cursor.error(f"tensor {info.name!r}", "it twice", "each tensor once")
        if info.offset % alignment:
            raise cursor.error(
                f"offset of tensor {info.name!r}", info.offset, f"a multiple of {alignment}"
            )
        tensors[info.name] = dataclasses.replace(info, offset=data_start + info.offset)
    _check_extents(cursor, tensors, data_start, alignment)
    return GgufHeader(path, version, metadata, tensors)


def _version(cursor: Cursor) -> int:
    magic = cursor.take(4, "the magic")
    if magic != b"GGUF":
        raise cursor.error(
            "first four bytes", repr(magic), "b'GGUF'", "This is not a GGUF file; convert it first."
        )
    version = cursor.scalar(U32, "the version")
    if version in (2, 3):
        return version
    if version & 0xFFFF == 0:
        raise cursor.error(
            "byte order", "big endian", "little endian", "Convert it with gguf_convert_endian.py."
        )
    raise cursor.error("GGUF version", version, "2 or 3", "Convert the file again.")


def _alignment(cursor: Cursor, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if isinstance(alignment, int) and alignment > 0 and not alignment & (alignment - 1):
        return alignment
    raise cursor.error("general.alignment", repr(alignment)[:80], "a power of two")


def _tensor(cursor: Cursor) -> TensorInfo:
    """One description; `offset` still counts from the start of the data."""
    name = cursor.name("a tensor name")
    n_dims = cursor.scalar(U32, f"the rank of tensor {name!r}")
    if not 1 <= n_dims <= _MAX_DIMS:
        raise cursor.error(f"rank of tensor {name!r}", n_dims, f"1 to {_MAX_DIMS}")
    shape = tuple(cursor.scalar(U64, f"the shape of tensor {name!r}") for _ in range(n_dims))
    kind = _supported(cursor, name, cursor.scalar(U32, f"the type of tensor {name!r}"))
    offset = cursor.scalar(U64, f"the offset of tensor {name!r}")
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if min(shape) < 1 or shape[0] % block:
        raise cursor.error(
            f"shape of tensor {name!r}",
            shape[::-1],
            f"positive sizes, the last a multiple of {block} ({kind.name})",
        )
    n_bytes = math.prod(shape) // block * block_bytes
    return TensorInfo(name, shape[::-1], kind, offset, n_bytes)


def _supported(cursor: Cursor, name: str, number: int) -> GGMLQuantizationType:
    known = {kind.value: kind for kind in GGMLQuantizationType}
    kind = known.get(number)
    if kind is not None and kind in SUPPORTED:
        return kind
    raise cursor.error(
        f"type of tensor {name!r}",
        f"{number} ({kind.name if kind is not None else 'unknown'})",
        f"one of {', '.join(k.name for k in SUPPORTED)}",
        "Quantize the model to one of these, for instance with llama-quantize.",
    )


def _check_extents(
    cursor: Cursor, tensors: Mapping[str, TensorInfo], start: int, alignment: int
) -> None:
    """Refuse overlaps, bytes that no tensor owns, and a file that ends elsewhere.

    As ggml does, but for the end: with bytes put in or left out, tensors would read others' data.
    """
    end, previous = start, ""
    for info in sorted(tensors.values(), key=lambda info: info.offset):
        wanted = end + -(end - start) % alignment
        if info.offset != wanted:
            raise cursor.error(
                f"tensor {info.name!r}",
                f"data from byte {info.offset}",
                f"byte {wanted}, the first multiple of {alignment} where "
                + (f"{previous!r} ends" if previous else "data begin"),
            )
        end, previous = info.offset + info.n_bytes, info.name
        if end > cursor.size:
            raise cursor.error(
                f"tensor {info.name!r}", f"{cursor.size} bytes in the file", f"at least {end}"
            )
    most = end + -(end - start) % alignment
    if tensors and cursor.size > most:
        raise cursor.error("end", f"{cursor.size} bytes in the file", f"at most {most}")
