"""Synthetic prompts that exist for every vocabulary: random tokens, some of them repeated."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.prompts import Prompts

# Different tokens, beside the one that begins all rows.
MOST_TOKENS = 64
# Rows are this long where the model can read so much, and as long as the task's prompts elsewhere.
LENGTH, ROOM = 32, 64


class Sequences(NamedTuple):
    """Sequences are rows of random tokens, with what stands where.

    Attributes:
        tokens: (N, T) ids.
        kind: (N, T) number of the token among the `kinds` that occur.
        kinds: At least how many different tokens there are.
        lead: Whether all rows begin with the same token, as the task's prompts do.
        twin: (N, T, T) bool: another position holds the query's token; earlier, where attention
            is causal.
        after: (N, T, T) bool: the position follows one that holds the query's token, and is not
            the query itself.
    """

    tokens: np.ndarray
    kind: np.ndarray
    kinds: int
    lead: bool
    twin: np.ndarray
    after: np.ndarray

    __repr__ = one_line


def sequences(model: LanguageModel, prompts: Prompts, rows: int, key: jax.Array) -> Sequences:
    """Draw rows of random tokens, the second half of them with a stretch that comes twice.

    Tokens are those of the task's prompts, which the model is known to read. Where all prompts
    begin with one token, such as BOS, so do the rows. A stretch [r][r] has 2 to T/2 tokens, all
    different where there are enough, and random tokens before it.

    Args:
        model: The model.
        prompts: Of a task.
        rows: N.
        key: Of the draw.

    Returns:
        The rows.
    """
    c = model.config
    seed = np.asarray(jax.random.key_data(key)).ravel().astype(np.uint32)
    rng = np.random.default_rng([int(word) for word in seed])
    clean, length = np.asarray(prompts.inputs()), np.asarray(prompts.row_length)
    clean, length = clean.reshape(-1, clean.shape[-1]), length.ravel()
    real = np.arange(clean.shape[1]) < length[:, None]
    lead = bool((clean[:, 0] == clean[0, 0]).all()) and len(np.unique(clean[real])) > 1
    found = np.setdiff1d(clean[real], clean[:1, 0] if lead else [])
    found = rng.permutation(found)[:MOST_TOKENS]
    longest = int(length.max())
    width = max(longest, LENGTH) if c.max_positions >= ROOM else longest
    tokens = rng.choice(found, (rows, width))
    for row in tokens[rows // 2 :]:
        room = width - int(lead)
        if room >= 4:
            size = int(rng.integers(2, room // 2 + 1))
            again = rng.permutation(found)[:size]
            again = again if len(again) == size else rng.choice(found, size)
            row[width - 2 * size :] = np.tile(again, 2)
    if lead:
        tokens[:, 0] = clean[0, 0]
    every = np.sort(np.append(found, clean[0, 0])) if lead else np.sort(found)
    same = tokens[:, :, None] == tokens[:, None, :]
    visible = np.tri(width, dtype=bool) if c.causal else np.ones((width, width), bool)
    other = visible & ~np.eye(width, dtype=bool)
    after = np.zeros_like(same)
    after[:, :, 1:] = same[:, :, :-1]
    return Sequences(
        tokens.astype(np.int32), np.searchsorted(every, tokens).astype(np.int32),
        # Rounded up, so that other tasks run the same compiled program.
        -(-len(every) // 16) * 16,
        lead, same & other, after & other,
    )  # fmt: skip
