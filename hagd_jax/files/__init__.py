"""Files that are either whole or absent, tensors in them, and JSON that any reader accepts."""

from hagd_jax.files.tensors import (
    PaddedRows,
    Tensor,
    read_arrays,
    save_arrays,
    whole_tensor,
    write_safetensors,
)
from hagd_jax.files.writing import (
    as_path,
    draft_of,
    finite,
    replacing,
    require_writable,
    write_atomic,
    writing_to,
)

__all__ = [
    "PaddedRows",
    "Tensor",
    "as_path",
    "draft_of",
    "finite",
    "read_arrays",
    "replacing",
    "require_writable",
    "save_arrays",
    "whole_tensor",
    "write_atomic",
    "write_safetensors",
    "writing_to",
]
