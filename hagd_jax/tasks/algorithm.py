"""Functions on short lists of tokens, which a small transformer can learn to compute.

An algorithm says which inputs there are, and for each the sequence of tokens with the answers that
belong at its positions. Every input belongs to one part for good: three quarters are for training
models, the rest for the splits of the task, whatever the seeds. So no prompt was trained on, and
no test prompt is a discovery prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text, read_draw
from hagd_jax.tasks.prompts import Prompts, make_prompts

if TYPE_CHECKING:
    from hagd_jax.models.config import Norm
    from hagd_jax.models.model import LanguageModel

TRAIN = "train"
# Cumulative shares of all inputs.
_PARTS = {TRAIN: 0.75, "discover": 0.85, "select": 0.9, "test": 1.0}
_TRIES = 64


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """An algorithm is a function on token sequences, with its vocabulary and its inputs.

    Attributes:
        name: Of the task.
        description: One sentence for the report.
        words: The vocabulary; a word's place is its token.
        width: Tokens of a whole sequence.
        candidates: The tokens that can be answers.
        inputs: (rng, count) → (count, n) random inputs, whole numbers.
        sequences: (N, n) inputs → tokens (N, T), and the right next token at each position (N, T),
            −1 where any will do.
        changed: (rng, (N, n) inputs) → inputs, each changed in one place.
        model_name: What a model of it is called.
        asked: The position from which the whole input has been read: the prompts of the task end
            there or later, so that none is the beginning of a training example.
        n_layers: Blocks of the transformer that learns it.
        norm: Its normalisation.
        decides: So many first numbers of an input decide which part it belongs to; None for all.
        shares: Part → (n, ...) all of its inputs, where they are few; else each input's part
            follows from itself.
    """

    name: str
    description: str
    words: tuple[str, ...]
    width: int
    candidates: tuple[int, ...]
    inputs: Callable[[np.random.Generator, int], np.ndarray]
    sequences: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    changed: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    model_name: str
    asked: int
    n_layers: int = 1
    norm: Norm = "none"
    decides: int | None = None
    shares: Mapping[str, np.ndarray] | None = None

    __repr__ = one_line

    def require(self, model: LanguageModel) -> None:
        """Refuse a model that computes something else, by its vocabulary and positions.

        Raises:
            InputError: If it is no model of this algorithm.
        """
        size, positions = model.config.vocab_size, model.config.max_positions
        words = None
        if model.tokenizer is not None:
            known = range(model.tokenizer.vocab_size)
            words = tuple(model.tokenizer.token(i).strip() for i in known)
        same = size == len(self.words) and words in (None, self.words)
        if not same or positions != self.width:
            raise InputError(
                f"model {model.name}",
                got=f"a vocabulary of {size}, {positions} positions",
                expected=f"{len(self.words)} and {self.width}, for {self.name}",
                mend="It needs a model of its own: hagd_jax.testbeds.train_small.",
            )

    def examples(self, part: str, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw different random inputs of a part.

        Args:
            part: `train` or a split.
            count: How many.
            rng: Draws them.

        Returns:
            (count, n); fewer if there are not as many.

        Raises:
            InputError: If there is no such part, or the count is no whole number.
        """
        require_index("count", count)
        if not isinstance(part, str) or part not in _PARTS:
            expected = f"one of {', '.join(_PARTS)}"
            raise InputError("part", got=repr(part)[:80], expected=expected)
        if self.shares is not None:
            rows = self.shares[part]
            return rows if len(rows) <= count else rng.permutation(rows)[:count]
        kept = np.zeros((0, self.inputs(rng, 1).shape[1]), int)
        for _ in range(_TRIES):
            drawn = self.inputs(rng, 4 * count)
            kept = np.concatenate([kept, drawn[part_of(drawn[:, : self.decides]) == part]])
            kept = kept[np.sort(first_places(kept))]
            if len(kept) >= count:
                break
        return kept[:count]

    def table(self, part: str, most: int) -> tuple[np.ndarray, np.ndarray]:
        """List sequences of a part, the same ones for every seed.

        Args:
            part: `train` or a split.
            most: So many at most.

        Returns:
            Tokens (N, T) and answers (N, T), as of `sequences`.

        Raises:
            InputError: If there is no such part, or `most` is no whole number.
        """
        rng = np.random.default_rng(require_index("most", most))
        return self.sequences(self.examples(part, most, rng))

    def task(self, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
        """Make a task from inputs that models are not trained on.

        The answer is read at a random one of the positions that have one and follow the whole
        input. The counterfactual is an input changed in one place, so that its answer there is
        another one; it is the distractor.

        Args:
            sizes: Prompts in each split; fewer where there are fewer inputs.
            seed: Of the draw; which inputs belong to a split does not depend on it.

        Returns:
            The task; an answer is correct if it beats all other candidates.

        Raises:
            InputError: If a split has no input.
        """
        sizes = read_draw(sizes, seed)
        made = {s: self._split(s, getattr(sizes, s), [seed, i]) for i, s in enumerate(SPLITS)}
        return Task(
            self.name,
            self.description,
            {split: prompts for split, (prompts, _) in made.items()},
            {split: texts for split, (_, texts) in made.items()},
            self.candidates,
            fewer(sizes, {split: len(prompts) for split, (prompts, _) in made.items()}),
        )

    def _split(self, split: str, size: int, seed: list[int]) -> tuple[Prompts, tuple[Text, ...]]:
        rng = np.random.default_rng(seed)
        clean = self.examples(split, 4 * size, rng)
        tokens, answers = self.sequences(clean)
        late = (answers >= 0) & (np.arange(self.width) >= self.asked)
        position = (late * rng.random(late.shape)).argmax(1)
        other = self._counterfactuals(rng, clean, position, answers)
        # Two inputs may differ only behind the position that is asked.
        read = np.where(np.arange(self.width) <= position[:, None], tokens, -1)
        first = np.isin(np.arange(len(clean)), np.unique(read, axis=0, return_index=True)[1])
        keep = np.flatnonzero(first & late.any(1) & (other != clean).any(1))[:size]
        if not len(keep):
            raise InputError(
                f"{split} split of {self.name}", got="no input", expected="some: use a larger one"
            )
        tokens, answers, position = tokens[keep], answers[keep], position[keep]
        others, theirs = self.sequences(other[keep])
        rows = np.arange(len(keep))
        right, wrong = answers[rows, position], theirs[rows, position]
        prompts = make_prompts(
            [row[: end + 1].tolist() for row, end in zip(tokens, position, strict=True)],
            [row[: end + 1].tolist() for row, end in zip(others, position, strict=True)],
            right,
            wrong,
            vocab_size=len(self.words),
            width=self.width,
        )
        say = lambda row, end: " ".join(self.words[token] for token in row[: end + 1])  # noqa: E731
        texts = tuple(
            Text(say(a, end), say(b, end), self.words[x], self.words[y], self.name)
            for a, b, end, x, y in zip(tokens, others, position, right, wrong, strict=True)
        )
        return prompts, texts

    def _counterfactuals(
        self, rng: np.random.Generator, clean: np.ndarray, position: np.ndarray, answers: np.ndarray
    ) -> np.ndarray:
        """(N, n) changed inputs with another answer at each position; the same where none is."""
        other, rows = clean.copy(), np.arange(len(clean))
        for _ in range(_TRIES):
            same = np.flatnonzero((other == clean).all(1))
            if not len(same):
                break
            tried = self.changed(rng, clean[same])
            theirs = self.sequences(tried)[1][np.arange(len(same)), position[same]]
            good = (theirs >= 0) & (theirs != answers[rows, position][same])
            other[same[good]] = tried[good]
        return other


def fewer(sizes: Sizes, there: Mapping[str, int]) -> tuple[str, ...]:
    """Describe the splits that have fewer prompts than were requested.

    Args:
        sizes: Prompts asked for.
        there: Prompts there are, by split.

    Returns:
        A sentence for each such split.

    Example:
        >>> fewer(Sizes(64), {"discover": 64, "select": 5, "test": 64})
        ('select has 5 prompts, not 32: there are no others',)
    """
    return tuple(
        f"{split} has {count} prompts, not {getattr(sizes, split)}: there are no others"
        for split, count in there.items()
        if count < getattr(sizes, split)
    )


def first_places(rows: np.ndarray) -> np.ndarray:
    """Find the index of the first copy of each distinct row.

    Args:
        rows: (N, n) whole numbers.

    Returns:
        One place for each different row, in no particular order.

    Example:
        >>> sorted(first_places(np.array([[0, 1], [2, 0], [0, 1]])).tolist())
        [0, 1]
    """
    # As whole numbers to the base of the largest entry, which sort much faster than rows.
    least, base = int(rows.min(initial=0)), int(rows.max(initial=0)) + 1
    if least < 0 or base ** rows.shape[1] >= 2**63:
        return np.unique(rows, axis=0, return_index=True)[1]
    return np.unique(rows @ base ** np.arange(rows.shape[1]), return_index=True)[1]


def part_of(inputs: np.ndarray) -> np.ndarray:
    """Assign each input to a part by a hash of the input alone.

    Args:
        inputs: (N, n) whole numbers.

    Returns:
        (N,) names.
    """
    return np.array(list(_PARTS))[np.searchsorted(list(_PARTS.values()), _mixed(inputs))]


def _mixed(inputs: np.ndarray) -> np.ndarray:
    """(N,) numbers from 0 to 1, evenly spread and decided by each row alone (splitmix64)."""
    state = np.zeros(len(inputs), np.uint64)
    with np.errstate(over="ignore"):
        for column in np.asarray(inputs, np.uint64).T:
            state = (state ^ column) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return state / 2.0**64
