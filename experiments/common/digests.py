"""Digests of results, by which experiments compare how runs end."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import jax
import numpy as np


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
