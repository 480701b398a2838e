"""Parity, sorting, induction, Dyck words: functions that small transformers learn."""

from __future__ import annotations

import string
from collections.abc import Callable

import numpy as np

from hagd_jax.errors import ConfigError, InputError, require_is
from hagd_jax.models.model import LanguageModel
from hagd_jax.tasks.algorithm import Algorithm

_QUESTIONS = 3


def parity(bits: int = 10) -> Algorithm:
    """Make the algorithm that tells after every bit whether the number of ones is odd.

    Args:
        bits: Of a sequence.

    Returns:
        The algorithm.

    Raises:
        ConfigError: If the number is impossible.

    Example:
        >>> parity(4).sequences(np.array([[1, 0, 1, 1]]))[1].tolist()
        [[1, 1, 0, 1]]
    """
    _require(bits=(bits, 4, 40))

    def changed(rng: np.random.Generator, inputs: np.ndarray) -> np.ndarray:
        flip = rng.integers(bits, size=len(inputs))[:, None] == np.arange(bits)
        return inputs ^ flip

    return Algorithm(
        name="parity",
        model_name=f"parity-{bits}",
        asked=bits - 1,
        description=f"Say whether the number of ones among up to {bits} bits is odd.",
        words=("0", "1"),
        width=bits,
        candidates=(0, 1),
        inputs=lambda rng, count: rng.integers(2, size=(count, bits)),
        sequences=lambda inputs: (inputs, np.cumsum(inputs, 1) % 2),
        changed=changed,
    )


def sorting(count: int = 5, values: int = 12) -> Algorithm:
    """Make the algorithm that repeats numbers in rising order after "=".

    Args:
        count: Numbers of a sequence.
        values: They are below this.

    Returns:
        The algorithm.

    Raises:
        ConfigError: If a number is impossible.

    Example:
        >>> tokens, answers = sorting(3, 9).sequences(np.array([[5, 2, 5]]))
        >>> tokens.tolist(), answers.tolist()
        ([[5, 2, 5, 9, 2, 5]], [[-1, -1, -1, 2, 5, 5]])
    """
    _require(count=(count, 2, 40), values=(values, 3, 1000))

    def sequences(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ordered, equals = np.sort(inputs, 1), np.full((len(inputs), 1), values)
        tokens = np.concatenate([inputs, equals, ordered[:, :-1]], 1)
        return tokens, np.concatenate([np.full_like(inputs, -1), ordered], 1)

    def changed(rng: np.random.Generator, inputs: np.ndarray) -> np.ndarray:
        place = rng.integers(count, size=len(inputs))[:, None] == np.arange(count)
        return (inputs + place * rng.integers(1, values, size=(len(inputs), 1))) % values

    return Algorithm(
        name="sorting",
        model_name=f"sorting-{count}-{values}",
        asked=count,
        description=f"Put {count} numbers below {values} in rising order.",
        words=(*map(str, range(values)), "="),
        width=2 * count,
        candidates=tuple(range(values)),
        inputs=lambda rng, size: rng.integers(values, size=(size, count)),
        sequences=sequences,
        changed=changed,
    )


def induction(letters: int = 20, length: int = 10) -> Algorithm:
    """Make the algorithm that repeats letters: each is followed by what followed it before.

    Args:
        letters: In the alphabet.
        length: Letters of the first part.

    Returns:
        The algorithm; an input is the letters, and the places of those that are asked for.

    Raises:
        ConfigError: If a number is impossible.

    Example:
        >>> induction(9, 5).sequences(np.array([[3, 0, 4, 1, 2, 1, 0, 3]]))[0].tolist()
        [[3, 0, 4, 1, 2, 0, 4, 3, 0, 1]]
    """
    _require(letters=(letters, 4, 26), length=(length, _QUESTIONS + 1, letters))

    def inputs(rng: np.random.Generator, count: int) -> np.ndarray:
        drawn = rng.permuted(np.tile(np.arange(letters), (count, 1)), axis=1)
        # The last letter has no follower.
        places = rng.permuted(np.tile(np.arange(length - 1), (count, 1)), axis=1)
        return np.concatenate([drawn[:, :length], places[:, :_QUESTIONS]], 1)

    def sequences(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, places = inputs[:, :length], inputs[:, length:]
        asked, follow = (np.take_along_axis(first, places + step, 1) for step in (0, 1))
        pairs = np.stack([asked, follow], 2).reshape(len(inputs), -1)[:, :-1]
        tokens = np.concatenate([first, pairs], 1)
        answers = np.full_like(tokens, -1)
        answers[:, length::2] = follow
        return tokens, answers

    def changed(rng: np.random.Generator, inputs: np.ndarray) -> np.ndarray:
        """What follows a letter that is asked for becomes another letter."""
        changed = inputs.copy()
        for row in changed:
            place = row[length + rng.integers(_QUESTIONS)] + 1
            free = np.setdiff1d(np.arange(letters), row[:length])
            other = rng.integers(length)
            if len(free):
                row[place] = rng.choice(free)
            else:
                row[[place, other]] = row[[other, place]]
        return changed

    return Algorithm(
        name="induction",
        model_name=f"induction-{letters}-{length}",
        asked=length,
        decides=length,
        description="Say what followed a letter when it occurred before.",
        words=tuple(string.ascii_lowercase[:letters]),
        width=length + 2 * _QUESTIONS - 1,
        candidates=tuple(range(letters)),
        inputs=inputs,
        sequences=sequences,
        changed=changed,
        n_layers=2,
        norm="layer",
    )


def dyck(length: int = 12, depth: int = 3) -> Algorithm:
    """Make the algorithm that tells which of two kinds of bracket must close next.

    Args:
        length: Brackets of a sequence.
        depth: How many may be open at once.

    Returns:
        The algorithm.

    Raises:
        ConfigError: If a number is impossible.

    Example:
        >>> dyck(4, 2).sequences(np.array([[0, 1, 3, 0]]))[1].tolist()  # ( [ ] (
        [[2, 3, 2, 2]]
    """
    _require(length=(length, 4, 64), depth=(depth, 2, 8))

    def inputs(rng: np.random.Generator, count: int) -> np.ndarray:
        coins = rng.random((count, length))
        rows = rng.integers(2, size=(count, length))
        stack, open_, every = np.zeros((count, depth), int), np.zeros(count, int), np.arange(count)
        for i in range(length):
            opens = (open_ == 0) | ((open_ < depth) & (coins[:, i] < 0.5))
            top = open_ - ~opens  # where this token opens, or what it closes was opened
            stack[every[opens], top[opens]] = rows[opens, i]
            rows[:, i] = np.where(opens, rows[:, i], stack[every, np.maximum(top, 0)] + 2)
            open_ = top + opens
        return rows

    def changed(rng: np.random.Generator, inputs: np.ndarray) -> np.ndarray:
        """One pair of brackets becomes of the other kind."""
        changed = inputs.copy()
        for row in changed:
            begin = rng.choice(np.flatnonzero(row < 2))
            depths = np.cumsum(np.where(row[begin:] < 2, 1, -1))
            closed = np.flatnonzero(depths == 0)
            row[[begin, *(begin + closed[:1])]] ^= 1
        return changed

    return Algorithm(
        name="dyck",
        model_name=f"dyck-{length}-{depth}",
        asked=length - 1,
        description="Say which bracket closes the innermost one that is open.",
        words=("(", "[", ")", "]"),
        width=length,
        candidates=(2, 3),
        inputs=inputs,
        sequences=lambda inputs: (inputs, np.apply_along_axis(_closers, 1, inputs)),
        changed=changed,
        n_layers=2,
        norm="layer",
    )


def _closers(row: np.ndarray) -> list[int]:
    """What closes the innermost open bracket after each token; −1 where none is open."""
    stack, found = [], []
    for token in row.tolist():
        stack.append(token) if token < 2 else stack.pop()
        found.append(stack[-1] + 2 if stack else -1)
    return found


# By name: how many words and positions a model has → the algorithm it was trained for.
_GUESSES: dict[str, Callable[[int, int], Algorithm]] = {
    "parity": lambda _, positions: parity(positions),
    "sorting": lambda words, positions: sorting(positions // 2, words - 1),
    "induction": lambda words, positions: induction(words, positions - 2 * _QUESTIONS + 1),
    "dyck": lambda _, positions: dyck(positions),
}
ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "parity": parity, "sorting": sorting, "induction": induction, "dyck": dyck,
}  # fmt: skip


def recognise(name: str, model: LanguageModel) -> Algorithm:
    """Find which algorithm a small model computes, by its name, vocabulary and positions.

    Args:
        name: One of `ALGORITHMS`.
        model: From `train_small`.

    Returns:
        The algorithm.

    Raises:
        InputError: If the model computes something else.
    """
    require_is("model", model, LanguageModel)
    sizes = model.config.vocab_size, model.config.max_positions
    try:
        found = _GUESSES[name](*sizes)
    except ConfigError as error:
        raise InputError(
            f"model {model.name}",
            got=f"a vocabulary of {sizes[0]}, {sizes[1]} positions",
            expected=f"a model of {name}",
            mend="It needs a model of its own: hagd_jax.testbeds.train_small.",
        ) from error
    found.require(model)
    return found


def _require(**fields: tuple[int, int, int]) -> None:
    for field, (value, least, most) in fields.items():
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ConfigError(field, got=repr(value), expected=f"a whole number, {least} to {most}")
