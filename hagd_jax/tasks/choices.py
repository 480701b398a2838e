"""Prompts that are answered by choosing: several continuations, of which the likeliest wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.tasks.metric import divergence
from hagd_jax.tasks.prompts import Prompts


@struct.dataclass
class Choices(Prompts):
    """Prompts of C rows each, one a choice; choices are scored by how likely their words are.

    score_c = Σ log p(scored token | what stands before it) / unit_c, and the metric compares the
    right one with the others: score − log mean exp(others' scores), which is 0 if all are alike.

    Attributes:
        clean: (N, C, T) token ids.
        corrupted: (N, C, T), aligned with them token by token.
        position: (N, C, S) where scored tokens are predicted, one before each; −1 for no more.
        answer: (N,) number of the right choice.
        distractor: (N, C − 1) numbers of the others.
        length: (N, C) real tokens of each row.
        unit: (N, C) float32, what the log-probability is divided by: scored tokens, or characters.
    """

    unit: Any = None

    __repr__ = one_line

    def inputs(self, side: str = "clean") -> Any:
        """(N C, T)."""
        rows = getattr(self, side)
        return rows.reshape(-1, rows.shape[-1])

    @property
    def reads(self) -> Any:
        """(N C, S); 0 where there is no more."""
        return jnp.maximum(self.position.reshape(-1, self.position.shape[-1]), 0)

    def per_row(self, values: Any) -> Any:
        """(N C, ...)."""
        return jnp.repeat(values, self.clean.shape[1], axis=0)

    @property
    def row_length(self) -> Any:
        """(N C,)."""
        return self.length.reshape(-1)

    def scores(self, at: jax.Array) -> jax.Array:
        """(N, C) normalised log-likelihoods, from (N C, S, V) logits at `reads`."""
        said = jnp.take_along_axis(self.inputs(), self.reads + 1, axis=1)
        at = jax.nn.log_softmax(at)
        found = jnp.take_along_axis(at, said[..., None], axis=-1)[..., 0]
        found = found.reshape(self.position.shape)
        return jnp.sum(jnp.where(self.position >= 0, found, 0), -1) / self.unit

    def metric(self, at: jax.Array) -> jax.Array:
        """(N,) the right choice's score against the others'."""
        scores, count = self.scores(at), self.distractor.shape[1]
        right = jnp.take_along_axis(scores, self.answer[:, None], axis=1)[:, 0]
        others = jnp.take_along_axis(scores, self.distractor, axis=1)
        return right - jax.nn.logsumexp(others, axis=1) + jnp.log(count)

    def correct(self, at: jax.Array, candidates: tuple[int, ...] | None = None) -> jax.Array:
        """(N,) whether the right choice has the best score."""
        scores = self.scores(at)
        right = jnp.take_along_axis(scores, self.answer[:, None], axis=1)[:, 0]
        return right > jnp.take_along_axis(scores, self.distractor, axis=1).max(1)

    def kl(self, model: jax.Array, at: jax.Array) -> jax.Array:
        """(N,) KL(model ‖ ·) of a token, mean over all scored tokens of all choices."""
        found = divergence(model, at).reshape(len(self), -1)
        scored = (self.position >= 0).reshape(len(self), -1)
        return jnp.sum(jnp.where(scored, found, 0), 1) / jnp.sum(scored, 1)

    def match(self, model: jax.Array, at: jax.Array) -> jax.Array:
        """(N,) whether the choice is the model's."""
        return self.scores(model).argmax(1) == self.scores(at).argmax(1)

    def check(self, vocab_size: int) -> None:
        """Refuse choices that do not fit together, or tokens outside the vocabulary.

        Raises:
            InputError: Naming what is wrong.
        """
        p = jax.tree.map(np.asarray, self)
        n, c, *_ = shape = p.clean.shape
        if len(shape) != 3 or 0 in shape or c < 2 or p.corrupted.shape != shape:
            raise InputError("choices", got=f"shapes {shape} and {p.corrupted.shape}",
                             expected="(N, C, T) of both, with two or more choices")  # fmt: skip
        shapes = {"answer": (n,), "distractor": (n, c - 1), "length": (n, c), "unit": (n, c),
                  "position": (n, c, p.position.shape[-1])}  # fmt: skip
        for field, expected in shapes.items():
            if getattr(p, field).shape != expected:
                raise InputError(field, got=f"shape {getattr(p, field).shape}", expected=expected)
        for field in ("clean", "corrupted"):
            tokens = getattr(p, field)
            if tokens.min() < 0 or tokens.max() >= vocab_size:
                raise InputError(field, got=f"tokens {tokens.min()} to {tokens.max()}",
                                 expected=f"0 to {vocab_size - 1}")  # fmt: skip
        every = np.sort(np.concatenate([p.answer[:, None], p.distractor], 1), 1)
        if (every != np.arange(c)).any():
            raise InputError("answer and distractor", got="another numbering",
                             expected=f"0 to {c - 1}, each once a prompt")  # fmt: skip
        if (p.position >= p.length[..., None] - 1).any() or (p.position[..., 0] < 0).any():
            raise InputError("position", got="a row without scored tokens, or one past its end",
                             expected="one or more, each before a token of its row")  # fmt: skip


class Choice(NamedTuple):
    """One choice of a prompt, as token ids.

    Attributes:
        clean: The row.
        corrupted: Its counterfactual, of the same length.
        scored: First token that is scored, and one past the last.
        unit: What the log-probability is divided by.
    """

    clean: Sequence[int]
    corrupted: Sequence[int]
    scored: tuple[int, int]
    unit: float

    __repr__ = one_line


def make_choices(
    rows: Sequence[Sequence[Choice]],
    answer: Sequence[int],
    *,
    vocab_size: int,
    pad_id: int = 0,
    width: int | None = None,
) -> Choices:
    """Pad choices into one checked batch.

    Args:
        rows: The choices of each prompt, as many for all.
        answer: Number of the right one.
        vocab_size: Of the model.
        pad_id: Fills rows on the right.
        width: Length to pad to; the longest row if None.

    Returns:
        The prompts, as NumPy arrays on the host.

    Raises:
        InputError: If there are none, or they do not fit together.

    Example:
        >>> yes, no = Choice([1, 2], [3, 2], (1, 2), 1.0), Choice([1, 4], [3, 4], (1, 2), 1.0)
        >>> make_choices([[yes, no]], [0], vocab_size=5).clean.shape
        (1, 2, 2)
    """
    counts = {len(row) for row in rows}
    if len(rows) != len(answer) or len(counts) != 1:
        raise InputError("choices", got=f"{len(rows)} prompts of {sorted(counts)} choices",
                         expected=f"{len(answer)} prompts, with as many choices each")  # fmt: skip
    for number, choice in enumerate(choice for row in rows for choice in row):
        if len(choice.clean) != len(choice.corrupted):
            raise InputError(f"choice {number}", got=f"{len(choice.clean)} and "
                             f"{len(choice.corrupted)} tokens", expected="as many")  # fmt: skip
    longest = max(len(choice.clean) for row in rows for choice in row)
    scored = max(choice.scored[1] - choice.scored[0] for row in rows for choice in row)
    width = max(longest, width or 0)

    def array(of: Any, dtype: Any = np.int32) -> np.ndarray:
        return np.asarray([[of(choice) for choice in row] for row in rows], dtype)

    def pad(tokens: Sequence[int]) -> list[int]:
        return [*tokens, *[pad_id] * (width - len(tokens))]

    def places(choice: Choice) -> list[int]:
        first, end = choice.scored
        return [*range(first - 1, end - 1), *[-1] * (scored - (end - first))]

    others = [[i for i in range(len(rows[0])) if i != right] for right in answer]
    made = Choices(
        clean=array(lambda choice: pad(choice.clean)),
        corrupted=array(lambda choice: pad(choice.corrupted)),
        position=array(places),
        answer=np.asarray(answer, np.int32),
        distractor=np.asarray(others, np.int32),
        length=array(lambda choice: len(choice.clean)),
        unit=array(lambda choice: choice.unit, np.float32),
    )
    made.check(vocab_size)
    return made
