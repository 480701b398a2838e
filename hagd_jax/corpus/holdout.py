"""Which documents are never trained on."""

from __future__ import annotations

import hashlib

import numpy as np


def draw(document: int, seed: int) -> float:
    """Draw a number from 0 to 1 that depends only on a document's index and a seed.

    Args:
        document: Its place among the documents.
        seed: Another seed, other numbers.

    Returns:
        The number.

    Example:
        >>> draw(0, seed=0) == draw(0, seed=0) != draw(1, seed=0)
        True
    """
    digest = hashlib.blake2b(f"{seed}/{document}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def held_out_mask(documents: int, count: int, seed: int) -> np.ndarray:
    """Mark the documents with the smallest draws as held out.

    Args:
        documents: How many there are.
        count: How many to hold out.
        seed: Of the choice.

    Returns:
        (documents,) bool, `count` of them true.

    Example:
        >>> int(held_out_mask(100, 2, seed=0).sum())
        2
    """
    order = np.argsort([draw(i, seed) for i in range(documents)], kind="stable")
    mask = np.zeros(documents, bool)
    mask[order[:count]] = True
    return mask
