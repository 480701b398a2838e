"""Readers of external files, one for each format, and writers that never leave partial files."""

from hagd_jax.files.digests import (
    DIGEST,
    SEAL,
    arrays_digest,
    digest,
    require_digest,
    require_sealed,
    seal,
    with_digest,
    without_digest,
)
from hagd_jax.files.headers import Stored, safetensors_header
from hagd_jax.files.locks import LOCK, Lock, hold_beside, hold_folder
from hagd_jax.files.mappings import read_yaml
from hagd_jax.files.npz import NpzEntry, npz_entries, parse_npz, read_npz, read_npz_rows
from hagd_jax.files.parsing import (
    Bounds,
    parse_json,
    read_json,
    read_json_object,
    read_jsonl,
)
from hagd_jax.files.reading import (
    decoded,
    is_file,
    named,
    opened,
    read_bytes,
    read_text,
)
from hagd_jax.files.schema import checked
from hagd_jax.files.tables import read_csv
from hagd_jax.files.tensors import (
    PaddedRows,
    Tensor,
    read_arrays,
    save_arrays,
    whole_tensor,
    write_safetensors,
)
from hagd_jax.files.tokenizer_json import require_tokenizer
from hagd_jax.files.writing import (
    append_line,
    as_path,
    beside,
    draft_of,
    finite,
    replacing,
    require_writable,
    unwritable,
    write_atomic,
    write_file,
    writing_to,
)

__all__ = [
    "DIGEST",
    "LOCK",
    "SEAL",
    "Bounds",
    "Lock",
    "NpzEntry",
    "PaddedRows",
    "Stored",
    "Tensor",
    "append_line",
    "arrays_digest",
    "as_path",
    "beside",
    "checked",
    "decoded",
    "digest",
    "draft_of",
    "finite",
    "hold_beside",
    "hold_folder",
    "is_file",
    "named",
    "npz_entries",
    "opened",
    "parse_json",
    "parse_npz",
    "read_arrays",
    "read_bytes",
    "read_csv",
    "read_json",
    "read_json_object",
    "read_jsonl",
    "read_npz",
    "read_npz_rows",
    "read_text",
    "read_yaml",
    "replacing",
    "require_digest",
    "require_sealed",
    "require_tokenizer",
    "require_writable",
    "safetensors_header",
    "save_arrays",
    "seal",
    "unwritable",
    "whole_tensor",
    "with_digest",
    "without_digest",
    "write_atomic",
    "write_file",
    "write_safetensors",
    "writing_to",
]
