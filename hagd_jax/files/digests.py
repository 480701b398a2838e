"""Write and check digests of files, which are stored in the files or beside them.

A digest detects damage, not forgery. Files without a digest come from elsewhere or from before
digests existed; they are read unchecked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hagd_jax.errors import DamagedError
from hagd_jax.files.parsing import read_json_object
from hagd_jax.files.writing import write_file

# Name of a digest in headers, in JSON objects and among arrays.
DIGEST = "blake2b"
# Name of the file with the digests of all other files in its folder.
SEAL = "digests.json"
_SIZE = 16


def digest(*parts: bytes | memoryview) -> str:
    """Return the BLAKE2b digest (RFC 7693) of bytes, as 32 hexadecimal digits.

    Args:
        *parts: The bytes; only their concatenation matters.

    Returns:
        The digits.

    Example:
        >>> digest(b"a", b"b") == digest(b"ab")
        True
    """
    found = hashlib.blake2b(digest_size=_SIZE)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def as_bytes(values: np.ndarray) -> memoryview:
    """Return the bytes of an array in row-major order."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def arrays_digest(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str] | None = None) -> str:
    """Return the digest of named arrays and texts, whatever their order.

    Args:
        arrays: Name → array; the digest covers names, dtypes, shapes and values.
        texts: Name → text.

    Returns:
        The digits.

    Example:
        >>> a, b = np.arange(3), np.ones(2)
        >>> arrays_digest({"a": a, "b": b}) == arrays_digest({"b": b, "a": a})
        True
    """
    names = sorted(arrays)
    about = [(name, arrays[name].dtype.name, arrays[name].shape) for name in names]
    head = json.dumps([about, sorted((texts or {}).items())]).encode()
    return digest(head, *(as_bytes(arrays[name]) for name in names))


def with_digest(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add the digest of its values to a JSON object.

    Args:
        record: The object.

    Returns:
        The object, with its digest as the last entry.
    """
    # Digest the values as JSON gives them back to a reader.
    return {**record, DIGEST: _json_digest(json.loads(json.dumps(record)))}


def without_digest(path: Path | str, record: Any) -> Any:
    """Check and remove the digest that `with_digest` added to a JSON value.

    Args:
        path: The file, for the message.
        record: The value; one without a digest is not checked.

    Returns:
        The value without its digest.

    Raises:
        DamagedError: If the digest does not match the values.
    """
    if not isinstance(record, dict) or DIGEST not in record:
        return record
    rest = {name: value for name, value in record.items() if name != DIGEST}
    require_digest(path, record[DIGEST], _json_digest(rest))
    return rest


def require_digest(path: Path | str, told: Any, found: str | None) -> None:
    """Raise an error if a file's content does not match its stored digest.

    Args:
        path: The file.
        told: The stored digest; None if there is none.
        found: The digest of the content.

    Raises:
        DamagedError: If the digests differ.
    """
    if told is not None and told != found:
        raise DamagedError(
            str(path), got=f"content with the digest {found}",
            expected=f"{str(told)[:2 * _SIZE]}, as it was written",
            mend=f"Restore it or make it again; if you edited it, remove its entry {DIGEST}.",
        )  # fmt: skip


def seal(folder: Path, of: str = "") -> None:
    """Write the digests of all files in a folder to a file in it.

    Args:
        folder: The folder; should be a draft.
        of: What decided its content, for a reader who knows; see `require_sealed`.

    Raises:
        OSError: If the folder cannot be read or written.
    """
    found = _folder_digests(folder)
    record = {"files": found} | ({"of": of} if of else {})
    write_file(folder / SEAL, json.dumps(with_digest(record), indent=1) + "\n")


def require_sealed(folder: Path, of: str = "") -> None:
    """Raise an error if files of a sealed folder have changed.

    Args:
        folder: The folder; one that was never sealed is not checked, unless `of` is given.
        of: What must have decided its content, if the reader knows.

    Raises:
        DamagedError: If a file is absent or changed, or something else decided the content; the
            message names the first.
    """
    file = folder / SEAL
    if not file.is_file() and not of:
        return
    mend = "Restore the folder, or make it again."
    try:
        record = without_digest(file, read_json_object(file, error=DamagedError))
        if of and record.get("of") != of:
            raise DamagedError(
                str(folder), got="what another run has left", expected="its own", mend=mend
            )
        told = record["files"]
        found = _folder_digests(folder)
        others = [name for name in sorted({*told, *found}) if told.get(name) != found.get(name)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(str(file), got=f"{type(error).__name__}", mend=mend) from error
    if others:
        raise DamagedError(
            str(folder / others[0]), got="absent or changed", expected="as it was written",
            mend=mend,
        )  # fmt: skip


def _folder_digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file in a folder, by name, in sorted order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    found = {}
    for path in files:
        with path.open("rb") as file:
            of = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_SIZE))
        found[path.relative_to(folder).as_posix()] = of.hexdigest()
    return found


def _json_digest(record: Any) -> str:
    """Return the digest of a JSON value, whatever the order of names in objects."""
    return digest(json.dumps(record, sort_keys=True).encode())
