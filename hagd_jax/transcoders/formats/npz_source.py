"""Named tensors out of a NumPy archive, as Gemma Scope publishes them.

`np.savez` stores an array as it lies in memory, so that rows are read where they are.
`np.savez_compressed` does not: of an array there, all of it is unpacked whenever some of it is
asked for, one layer at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hagd_jax.brief import one_line, quoted
from hagd_jax.errors import CheckpointError
from hagd_jax.files import NpzEntry, npz_entries, read_npz_rows
from hagd_jax.models.families.table import Index

_FLOATS = ("float16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class NpzSource:
    """This source reads the arrays of one `.npz` file.

    Attributes:
        entries: Name → where the array lies.
    """

    entries: Mapping[str, NpzEntry]

    __repr__ = one_line

    def names(self) -> frozenset[str]:
        """List the names of all arrays."""
        return frozenset(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return self.entries[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the dtype of an array.

        Raises:
            CheckpointError: If it holds no floating-point numbers.
        """
        dtype = self.entries[name].dtype
        if dtype.name not in _FLOATS:
            raise CheckpointError(
                f"{self.describe(name)}: tensor {name}",
                got=f"dtype {quoted(dtype.name)}", expected=", ".join(_FLOATS),
            )  # fmt: skip
        return dtype

    def read(self, name: str, index: Index) -> np.ndarray:
        """Read part of an array; `index` holds one slice with explicit bounds per dimension."""
        entry = self.entries[name]
        if not entry.shape:
            return self.whole(name)
        first, *rest = index
        return self.rows(name, [(first.start, first.stop)])[(slice(None), *rest)]

    def whole(self, name: str) -> np.ndarray:
        """Read an array without axes."""
        flat = dataclasses.replace(self.entries[name], shape=(1,))
        return read_npz_rows(flat, [(0, 1)])[0]

    def rows(self, name: str, runs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Read runs of rows: first, and last + 1, of each."""
        return read_npz_rows(self.entries[name], runs)

    def describe(self, name: str) -> str:
        """Name the file that holds an array."""
        return str(self.entries[name].file)


def open_npz(file: Path) -> NpzSource:
    """Find the arrays of an archive, and check that it is whole.

    Args:
        file: The `.npz` file.

    Returns:
        The source; nothing but headers has been read.

    Raises:
        CheckpointError: If the file is damaged.
    """
    return NpzSource(npz_entries(file))
