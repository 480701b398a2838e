"""The tensors of a GGUF file as a `Source`: only the rows and blocks asked for are read.

Quantized tensors are cut into blocks of 32 or 256 numbers along the last dimension; a block holds
its scale and the small integers. `gguf.quants` turns blocks into float32.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import gguf.quants
import jax.numpy as jnp
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from hagd_jax.brief import one_line
from hagd_jax.errors import CheckpointError
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.families.table import Index, Weight
from hagd_jax.models.gguf.config import architecture_of, gguf_config
from hagd_jax.models.gguf.families import Architecture
from hagd_jax.models.gguf.header import GgufHeader, read_header
from hagd_jax.models.gguf.tokenizer import gguf_tokenizer
from hagd_jax.models.tokenizer import Tokenizer

# Types that NumPy can look at as they lie; all others become float32.
_PLAIN: dict[GGMLQuantizationType, np.dtype[Any]] = {
    GGMLQuantizationType.F32: np.dtype("<f4"),
    GGMLQuantizationType.F16: np.dtype("<f2"),
    GGMLQuantizationType.BF16: np.dtype(jnp.bfloat16),
}
_CHUNK_BYTES = 2**22


@dataclasses.dataclass(frozen=True)
class GgufSource:
    """This source reads slices of the tensors of a GGUF file.

    Attributes:
        header: What the file says about itself.
        plus_one: Names of tensors that hold 1 + w where w is meant. They come back as float32, and
            no digit is lost where 1 + w lies above 1/2: subtracting is exact there.
    """

    header: GgufHeader
    plus_one: frozenset[str] = frozenset()

    def names(self) -> frozenset[str]:
        """List the names of all tensors."""
        return frozenset(self.header.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, row-major."""
        return self.header.tensors[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the dtype in which `read` returns a tensor; float32 if quantized."""
        if name in self.plus_one:
            return np.dtype(np.float32)
        return _PLAIN.get(self.header.tensors[name].kind, np.dtype(np.float32))

    def describe(self, name: str) -> str:
        """Name the file and how it stores a tensor, for error messages."""
        return f"{self.header.path} ({self.header.tensors[name].kind.name})"

    def read(self, name: str, index: Index) -> np.ndarray:
        """Read part of a tensor, dequantizing it.

        Args:
            name: The tensor.
            index: One slice a dimension, with step 1.

        Returns:
            The part, an array of its own.

        Raises:
            CheckpointError: If the file became shorter, or an index does not fit.
        """
        shape = self.shape(name)
        bounds = [cut.indices(n) for cut, n in zip(index, shape, strict=True)]
        if any(step != 1 for *_, step in bounds):
            raise CheckpointError(f"{name}: slice", got=f"{index}", expected="steps of 1")
        # A vector is a matrix of one row, so that there is always a dimension of whole rows.
        bounds = [(0, 1, 1), *bounds] if len(shape) == 1 else bounds
        sizes = [max(stop - start, 0) for start, stop, _ in bounds]
        out = np.empty(sizes, self.dtype(name))
        if out.size:
            self._fill(name, bounds, out)
        if name in self.plus_one:
            out -= 1
        return out.reshape(sizes[1:]) if len(shape) == 1 else out

    def _fill(self, name: str, bounds: list[tuple[int, int, int]], out: np.ndarray) -> None:
        """Read and convert a few rows at a time, so that little more than `out` is held."""
        info = self.header.tensors[name]
        block, block_bytes = GGML_QUANT_SIZES[info.kind]
        *outer, width = (1, *info.shape) if len(info.shape) == 1 else info.shape
        inner, row_blocks = outer[1:], width // block
        row_bytes = math.prod(inner) * row_blocks * block_bytes
        start, stop, _ = bounds[-1]
        first, last = start // block, -(-stop // block)
        middle = tuple(slice(low, high) for low, high, _ in bounds[1:-1])
        keep = (..., slice(start - first * block, stop - first * block))
        low, high, _ = bounds[0]
        step = max(_CHUNK_BYTES // row_bytes, 1)
        with self.header.path.open("rb", buffering=0) as file:
            for row in range(low, high, step):
                n = min(step, high - row)
                file.seek(info.offset + row * row_bytes)
                raw = file.read(n * row_bytes)
                if len(raw) < n * row_bytes:
                    raise CheckpointError(
                        f"{self.header.path}: tensor {name!r}",
                        got=f"{info.offset + row * row_bytes + len(raw)} bytes in the file",
                        expected=f"at least {info.offset + info.n_bytes}",
                        mend="The file became shorter while it was open.",
                    )
                blocks = np.frombuffer(raw, np.uint8).reshape(n, *inner, row_blocks, block_bytes)
                blocks = blocks[(slice(None), *middle, slice(first, last))]
                rows = np.ascontiguousarray(blocks).reshape(*blocks.shape[:-2], -1)
                out[row - low : row - low + n] = _numbers(rows, info.kind)[keep]


def _numbers(rows: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Bytes (..., n) as numbers."""
    if kind in _PLAIN:
        return rows.view(_PLAIN[kind])
    # A damaged scale may be infinite: NaN comes out, and whoever loads the weights looks for it.
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(rows, kind)


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """An opened GGUF file has a header, a configuration and a table of tensors.

    Attributes:
        header: What it says about itself.
        architecture: What kind of model it holds.
        config: The decoder.
        source: Its tensors.
    """

    header: GgufHeader
    architecture: Architecture
    config: DecoderConfig
    source: GgufSource

    __repr__ = one_line

    @property
    def table(self) -> tuple[Weight, ...]:
        """Which tensor holds which parameter, every optional bias included."""
        return self.architecture.table

    def tokenizer(self) -> Tokenizer | None:
        """Build the tokenizer inside the file; None if there is none of a known kind.

        Raises:
            CheckpointError: If it is inconsistent.
        """
        return gguf_tokenizer(self.header.metadata, str(self.header.path))


def open_gguf(path: str | Path) -> GgufFile:
    """Open a GGUF file: header, configuration and table; no weights are read yet.

    Args:
        path: The file.

    Returns:
        The opened file.

    Raises:
        CheckpointError: If it is damaged or holds tensors that cannot be read.
        ConfigError: If it asks for something that is not supported.

    Example:
        file = open_gguf("SmolLM2-135M-Instruct.Q4_1.gguf")
        file.config.n_layers                               # 30
        file.source.read("output_norm.weight", (slice(0, 4),))
        file.tokenizer().encode("The capital of France is")
    """
    header = read_header(path)
    architecture = architecture_of(header.metadata)
    config = gguf_config(header.metadata, GgufSource(header))
    norms = {name for name in header.tensors if name.endswith("norm.weight")}
    shifted = frozenset(norms if architecture.norms_plus_one else ())
    return GgufFile(header, architecture, config, GgufSource(header, shifted))
