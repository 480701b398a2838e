"""Digests of what files hold, which lie within the files or beside them.

A digest finds damage, not forgery. Files without one were written before there were any, or by
somebody else, and are read as they are.
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

# What a digest is called: in headers, in JSON objects and among arrays.
DIGEST = "blake2b"
# The file that holds the digests of all others in its folder.
SEAL = "digests.json"
_SIZE = 16


def digest(*parts: bytes | memoryview) -> str:
    """BLAKE2b of some bytes (RFC 7693), as 32 hexadecimal digits.

    Args:
        *parts: The bytes; where one part ends and the next begins does not matter.

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
    """The bytes of an array, row-major."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def arrays_digest(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str] | None = None) -> str:
    """Digest of named arrays and texts, in any order.

    Args:
        arrays: Name → array; names, dtypes, shapes and values count.
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
    """A JSON object and the digest of its values.

    Args:
        record: The object.

    Returns:
        The same, and its digest as the last entry.
    """
    # Through JSON, as a reader will see it.
    return {**record, DIGEST: _json_digest(json.loads(json.dumps(record)))}


def without_digest(path: Path | str, record: Any) -> Any:
    """A JSON value as `with_digest` was given it.

    Args:
        path: The file, for the message.
        record: The value; if it is an object with a digest, it must have that.

    Returns:
        The value without its digest.

    Raises:
        DamagedError: If its digest is another.
    """
    if not isinstance(record, dict) or DIGEST not in record:
        return record
    rest = {name: value for name, value in record.items() if name != DIGEST}
    require_digest(path, record[DIGEST], _json_digest(rest))
    return rest


def require_digest(path: Path | str, told: Any, found: str | None) -> None:
    """Refuse a file whose content has another digest than it says.

    Args:
        path: The file.
        told: The digest that it says; None if it says nothing.
        found: The digest of its content.

    Raises:
        DamagedError: If they differ.
    """
    if told is not None and told != found:
        raise DamagedError(
            str(path), got=f"content with the digest {found}",
            expected=f"{str(told)[:2 * _SIZE]}, as it was written",
            mend=f"Restore it or make it again; if you edited it, take out its {DIGEST}.",
        )  # fmt: skip


def seal(folder: Path, of: str = "") -> None:
    """Write the digests of all files in a folder, within it; it should be a draft.

    Args:
        folder: The folder.
        of: What decided its content, for a reader who knows; see `require_sealed`.

    Raises:
        OSError: If it cannot be read or written.
    """
    found = _folder_digests(folder)
    record = {"files": found} | ({"of": of} if of else {})
    write_file(folder / SEAL, json.dumps(with_digest(record), indent=1) + "\n")


def require_sealed(folder: Path, of: str = "") -> None:
    """Refuse a folder whose files are no longer those that were sealed.

    Args:
        folder: The folder; one that was never sealed is taken as it is, unless `of` is given.
        of: What must have decided its content, if the reader knows.

    Raises:
        DamagedError: If a file is absent, or holds something else, or something else decided it;
            the message names the first.
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
    """File → digest of its content, in the order of names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    found = {}
    for path in files:
        with path.open("rb") as file:
            of = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_SIZE))
        found[path.relative_to(folder).as_posix()] = of.hexdigest()
    return found


def _json_digest(record: Any) -> str:
    """Of values as JSON gives them back, whatever the order of their names."""
    return digest(json.dumps(record, sort_keys=True).encode())
