"""Arithmetic modulo p: "a b =" → (a + b) mod p, or a · b, in a vocabulary of p numbers and a sign.

The p² pairs are shared out once for each p, whatever the seeds: a part is for training models,
the rest for the three splits of the task. (a, b) and (b, a) always go together, since a model
that has learnt to add commutes. So no prompt of the task was trained on, and no test prompt, nor
its mirror image, is a discovery prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hagd_jax.errors import InputError, require_is
from hagd_jax.models.model import LanguageModel
from hagd_jax.tasks.algorithm import Algorithm, fewer
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text, read_draw
from hagd_jax.tasks.prompts import make_prompts

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer

# Of the unordered pairs; each split has its part of the others.
TRAIN_FRACTION = 0.75
_HELD_OUT = {"discover": 0.4, "select": 0.2, "test": 0.4}


def require_modulus(p: int) -> None:
    """Refuse a value that is not a modulus.

    Raises:
        InputError: If `p` is not a whole number, 2 or more.
    """
    if not isinstance(p, int) or isinstance(p, bool) or p < 2:
        raise InputError("p", got=repr(p), expected="a whole number, 2 or more")


# What they are called, how they are spoken of, and the word before the result.
OPERATIONS = {
    "add": ("modular_addition", "Add two numbers modulo {}.", "="),
    "multiply": ("modular_multiplication", "Multiply two numbers modulo {}.", "*="),
}


def require_operation(operation: str) -> None:
    """Refuse a value that is not an operation.

    Raises:
        InputError: If it is neither `add` nor `multiply`.
    """
    if not isinstance(operation, str) or operation not in OPERATIONS:
        raise InputError("operation", got=repr(operation), expected=f"one of {list(OPERATIONS)}")


def result(pairs: np.ndarray, p: int, operation: str = "add") -> np.ndarray:
    """Compute the (n,) results of (n, 2) pairs modulo p.

    Raises:
        InputError: If the operation does not exist.
    """
    require_operation(operation)
    return (pairs.sum(axis=1) if operation == "add" else pairs.prod(axis=1)) % p


def algorithm(p: int, operation: str = "add") -> Algorithm:
    """Make the algorithm that models of modular arithmetic are trained on.

    Returns:
        The algorithm.

    Raises:
        InputError: If p is no modulus, or the operation does not exist.
    """
    words = vocabulary(p, operation)
    name, description, _ = OPERATIONS[operation]

    def sequences(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answers = np.full((len(pairs), 3), -1)
        answers[:, 2] = result(pairs, p, operation)
        return tokens(pairs, p), answers

    def changed(rng: np.random.Generator, pairs: np.ndarray) -> np.ndarray:
        place = rng.integers(2, size=(len(pairs), 1)) == np.arange(2)
        return (pairs + place * rng.integers(1, p, size=(len(pairs), 1))) % p

    return Algorithm(
        name=name,
        description=description.format(p),
        words=words,
        width=3,
        candidates=tuple(range(p)),
        inputs=lambda rng, count: rng.integers(p, size=(count, 2)),
        sequences=sequences,
        changed=changed,
        model_name=f"modular-{p}" if operation == "add" else f"modular-{operation}-{p}",
        asked=2,
        shares=shares(p),
    )


def vocabulary(p: int, operation: str = "add") -> tuple[str, ...]:
    """List the words of arithmetic modulo p: "0" to "p − 1", then "=", or "*=" for products.

    Args:
        p: The modulus.
        operation: `add` or `multiply`.

    Returns:
        p + 1 words; a word's place is its token.

    Example:
        >>> vocabulary(3)
        ('0', '1', '2', '=')
    """
    require_modulus(p)
    require_operation(operation)
    return (*map(str, range(p)), OPERATIONS[operation][2])


def shares(p: int) -> dict[str, np.ndarray]:
    """Divide the pairs among training and the splits.

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
    """Write pairs as prompts.

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


def task(p: int, operation: str = "add", *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Make prompts for arithmetic modulo p, from pairs that models are never trained on.

    The counterfactual is another pair of the same split with another result; a p so small that a
    split has only one result draws it from all pairs.

    Args:
        p: The modulus.
        operation: `add` or `multiply`.
        sizes: Prompts in each split; fewer where a small p has fewer pairs.
        seed: Of the draw; which pairs belong to a split depends on p alone.

    Returns:
        The task; an answer is correct if it beats the other p − 1 numbers.

    Raises:
        InputError: If p is not a whole number, 2 or more.
    """
    words = vocabulary(p, operation)
    sizes = read_draw(sizes, seed)
    pairs = shares(p)
    found = functools.partial(result, p=p, operation=operation)
    rows = {
        s: _rows(p, pairs[s], getattr(sizes, s), [seed, i], found) for i, s in enumerate(SPLITS)
    }
    name, description, _ = OPERATIONS[operation]
    return Task(
        name=name,
        description=description.format(p),
        splits={
            split: make_prompts(
                tokens(clean, p).tolist(),
                tokens(other, p).tolist(),
                found(clean),
                found(other),
                vocab_size=p + 1,
            )
            for split, (clean, other) in rows.items()
        },
        texts={split: _texts(words, *both, *map(found, both)) for split, both in rows.items()},
        candidates=tuple(range(p)),
        notes=fewer(sizes, {split: len(clean) for split, (clean, _) in rows.items()}),
    )


def _rows(
    p: int,
    pairs: np.ndarray,
    size: int,
    seed: list[int],
    found: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    clean = rng.permutation(pairs)[:size]
    one_result = len(np.unique(found(pairs))) < 2
    pool = np.argwhere(np.ones((p, p), bool)) if one_result else pairs
    other = found(pool)
    return clean, pool[[rng.choice(np.flatnonzero(other != one)) for one in found(clean)]]


def _texts(words: tuple[str, ...], *columns: np.ndarray) -> tuple[Text, ...]:
    """Of pairs, other pairs, and the results of both."""
    say = lambda pair: f"{words[pair[0]]} {words[pair[1]]} {words[-1]}"  # noqa: E731
    return tuple(
        Text(say(a), say(b), words[x], words[y], f"{{a}} {{b}} {words[-1]}")
        for a, b, x, y in zip(*columns, strict=True)
    )


def modulus(model: LanguageModel, operation: str = "add") -> int:
    """Read p off a model whose vocabulary is p numbers and the sign of an operation.

    Args:
        model: Of this task; without a tokenizer its vocabulary is taken to be in this order.
        operation: `add` or `multiply`.

    Returns:
        p.

    Raises:
        InputError: If its vocabulary is another one.
    """
    require_is("model", model, LanguageModel)
    require_operation(operation)
    p = model.config.vocab_size - 1
    if p < 2 or not (model.tokenizer is None or _computes(model.tokenizer, p, operation)):
        raise InputError(
            f"model {model.name}",
            got=f"a vocabulary of {p + 1}",
            expected=f'the words "0" to "p - 1", then "{OPERATIONS[operation][2]}"',
            mend="Modular arithmetic needs a model of its own: hagd_jax.testbeds.train_modular(p).",
        )
    return p


def _computes(tokenizer: Tokenizer, p: int, operation: str) -> bool:
    ids = (0, p - 1, p)
    return tokenizer.vocab_size == p + 1 and [tokenizer.token(i).strip() for i in ids] == [
        vocabulary(p, operation)[i] for i in ids
    ]
