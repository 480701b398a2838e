"""Modular addition: "a b =" → (a + b) mod p, in a vocabulary of p numbers and "=".

The p² pairs are shared out once for each p, whatever the seeds: a part is for training models,
the rest for the three splits of the task. (a, b) and (b, a) always go together, since a model
that has learnt to add commutes. So no prompt of the task was trained on, and no test prompt, nor
its mirror image, is a discovery prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.tasks.base import SPLITS, Sizes, Task, Text, make_prompts

if TYPE_CHECKING:
    from hagd_jax.models.model import LanguageModel
    from hagd_jax.models.tokenizer import Tokenizer

# Of the unordered pairs; each split has its part of the others.
TRAIN_FRACTION = 0.75
_HELD_OUT = {"discover": 0.4, "select": 0.2, "test": 0.4}


def require_modulus(p: int) -> None:
    """Refuse what is no modulus.

    Raises:
        InputError: If `p` is not a whole number, 2 or more.
    """
    if not isinstance(p, int) or isinstance(p, bool) or p < 2:
        raise InputError("p", got=repr(p), expected="a whole number, 2 or more")


def vocabulary(p: int) -> tuple[str, ...]:
    """The words of addition modulo p: "0" to "p − 1", then "=".

    Args:
        p: The modulus.

    Returns:
        p + 1 words; a word's place is its token.

    Example:
        >>> vocabulary(3)
        ('0', '1', '2', '=')
    """
    require_modulus(p)
    return (*map(str, range(p)), "=")


def shares(p: int) -> dict[str, np.ndarray]:
    """Who may use which pairs.

    Args:
        p: The modulus.

    Returns:
        `train`, `discover`, `select`, `test` → (n, 2) pairs a, b; together all p² of them, once.

    Example:
        >>> sum(len(pairs) for pairs in shares(5).values())
        25
    """
    require_modulus(p)
    pairs = np.stack(np.triu_indices(p), axis=1)
    pairs = pairs[np.random.default_rng(p).permutation(len(pairs))]
    # Every split has at least one, however small p is.
    held_out = max(len(SPLITS), len(pairs) - round(TRAIN_FRACTION * len(pairs)))
    ends = np.cumsum([max(1, round(held_out * _HELD_OUT[split])) for split in SPLITS[:-1]])
    *parts, train = np.split(pairs, [*ends, held_out])
    parts = dict(zip(SPLITS, parts, strict=True)) | {"train": train}
    mirrored = {name: part[part[:, 0] != part[:, 1]][:, ::-1] for name, part in parts.items()}
    return {name: np.concatenate([part, mirrored[name]]) for name, part in parts.items()}


def tokens(pairs: np.ndarray, p: int) -> np.ndarray:
    """Prompts of pairs.

    Args:
        pairs: (n, 2) integers below p.
        p: The modulus.

    Returns:
        (n, 3) int32 token ids a, b, =.

    Example:
        >>> tokens(np.array([[2, 1]]), 3).tolist()
        [[2, 1, 3]]
    """
    equals = np.full((len(pairs), 1), p)
    return np.concatenate([pairs, equals], axis=1).astype(np.int32)


def task(p: int, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Prompts for addition modulo p, from pairs that `train` never trains on.

    The counterfactual is another pair of the same split with another sum; a p so small that a
    split has only one sum draws it from all pairs.

    Args:
        p: The modulus.
        sizes: Prompts in each split; fewer where a small p has fewer pairs.
        seed: Of the draw; which pairs belong to a split depends on p alone.

    Returns:
        The task; an answer is correct if it beats the other p − 1 numbers.

    Raises:
        InputError: If p is not a whole number, 2 or more.
    """
    require_modulus(p)
    sizes = sizes or Sizes()
    pairs = shares(p)
    rows = {s: _rows(p, pairs[s], getattr(sizes, s), [seed, i]) for i, s in enumerate(SPLITS)}
    return Task(
        name="modular_addition",
        description=f"Add two numbers modulo {p}.",
        splits={
            split: make_prompts(
                tokens(clean, p).tolist(),
                tokens(other, p).tolist(),
                clean.sum(axis=1) % p,
                other.sum(axis=1) % p,
                vocab_size=p + 1,
            )
            for split, (clean, other) in rows.items()
        },
        texts={split: _texts(p, clean, other) for split, (clean, other) in rows.items()},
        candidates=tuple(range(p)),
    )


def _rows(p: int, pairs: np.ndarray, size: int, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    clean = rng.permutation(pairs)[:size]
    sums = clean.sum(axis=1) % p
    one_sum = len(np.unique(pairs.sum(axis=1) % p)) < 2
    pool = np.argwhere(np.ones((p, p), bool)) if one_sum else pairs
    other = pool.sum(axis=1) % p
    return clean, pool[[rng.choice(np.flatnonzero(other != total)) for total in sums]]


def _texts(p: int, clean: np.ndarray, corrupted: np.ndarray) -> tuple[Text, ...]:
    return tuple(
        Text(f"{a} {b} =", f"{c} {d} =", str((a + b) % p), str((c + d) % p), "{a} {b} =")
        for (a, b), (c, d) in zip(clean.tolist(), corrupted.tolist(), strict=True)
    )


def modulus(model: LanguageModel) -> int:
    """The p of a model whose vocabulary is p numbers and "=".

    Args:
        model: Of this task; without a tokenizer its vocabulary is taken to be in this order.

    Returns:
        p.

    Raises:
        InputError: If its vocabulary is another one.
    """
    p = model.config.vocab_size - 1
    if p < 2 or not (model.tokenizer is None or _adds(model.tokenizer, p)):
        raise InputError(
            f"model {model.name}",
            got=f"a vocabulary of {p + 1}",
            expected='the words "0" to "p - 1", then "="',
            mend="Modular addition needs a model of its own: hagd_jax.tasks.train_modular(p).",
        )
    return p


def _adds(tokenizer: Tokenizer, p: int) -> bool:
    ids = (0, p - 1, p)
    return tokenizer.vocab_size == p + 1 and [tokenizer.token(i).strip() for i in ids] == [
        vocabulary(p)[i] for i in ids
    ]
