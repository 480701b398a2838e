"""Digests of results, by which experiments compare how runs end, and of models' files."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hagd_jax.errors import CheckpointError


def digest(value: Any) -> str:
    """Return the digest of nested arrays, texts and configurations."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(value):
        array = isinstance(leaf, np.ndarray | jax.Array)
        total.update(np.asarray(leaf).tobytes() if array else repr(leaf).encode())
    return total.hexdigest()


def without(value: Any, passing: Collection[str]) -> Any:
    """Copy parsed JSON without some fields, such as times, wherever they stand."""
    if isinstance(value, dict):
        return {key: without(item, passing) for key, item in value.items() if key not in passing}
    return [without(item, passing) for item in value] if isinstance(value, list) else value


def sha256(path: Path) -> str:
    """Return the digest of a file's bytes, or of the weights in a folder, file after file.

    Raises:
        CheckpointError: If there is no such file, or the folder has no weights.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not all(each.is_file() for each in files):
        raise CheckpointError(str(path), got="no file there", expected="a model's file or folder")
    total = hashlib.sha256()
    for each in files:
        with each.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()
