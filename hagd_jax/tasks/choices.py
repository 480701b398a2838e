"""Prompts that are answered by choosing: several continuations, of which the likeliest wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index, require_is, require_list
from hagd_jax.tasks.checks import on_host, read_ids
from hagd_jax.tasks.metric import divergence
from hagd_jax.tasks.prompts import MOST_WIDTH, Prompts


@struct.dataclass
class Choices(Prompts):
    """Choices are prompts of C rows each, one a choice, scored by their log-likelihoods.

    score_c = Σ log p(scored token | what stands before it) / unit_c, and the metric compares the
    right one with the others: score − log mean exp(others' scores), which is 0 if all are alike.
    A prompt is `correct` by these scores, as in lm-evaluation-harness's `acc_norm` where units are
    characters; `acc` goes by the log-probabilities themselves.

    Attributes:
        clean: (N, C, T) token ids.
        corrupted: (N, C, T), aligned with them token by token.
        position: (N, C, S) where scored tokens are predicted, one before each; −1 for no more.
        answer: (N,) number of the right choice.
        distractor: (N, C − 1) numbers of the others.
        length: (N, C) real tokens of each row.
        unit: (N, C) float32, what the log-probability is divided by: characters of the scored text,
            without the blank before it, as lm-evaluation-harness counts them; or scored tokens.
    """

    unit: Any = None

    __repr__ = one_line

    def inputs(self, side: str = "clean") -> Any:
        """Return the (N C, T) rows that a model reads."""
        rows = getattr(self, side)
        return rows.reshape(-1, rows.shape[-1])

    @property
    def reads(self) -> Any:
        """Return the (N C, S) positions whose logits matter, padded with 0."""
        return jnp.maximum(self.position.reshape(-1, self.position.shape[-1]), 0)

    def per_row(self, values: Any) -> Any:
        """Repeat an array of prompts (N, ...) for each of their rows, (N C, ...)."""
        return jnp.repeat(values, self.clean.shape[1], axis=0)

    @property
    def row_length(self) -> Any:
        """Return the (N C,) numbers of real tokens of the rows."""
        return self.length.reshape(-1)

    def log_likelihoods(self, at: jax.Array) -> jax.Array:
        """Sum log p of the scored tokens: (N, C), from (N C, S, V) logits at `reads`."""
        said = jnp.take_along_axis(self.inputs(), self.reads + 1, axis=1)
        at = jax.nn.log_softmax(at)
        found = jnp.take_along_axis(at, said[..., None], axis=-1)[..., 0]
        found = found.reshape(self.position.shape)
        return jnp.sum(jnp.where(self.position >= 0, found, 0), -1)

    def scores(self, at: jax.Array) -> jax.Array:
        """Compute (N, C) log-likelihoods per unit, from (N C, S, V) logits at `reads`."""
        return self.log_likelihoods(at) / self.unit

    def acc(self, at: jax.Array) -> jax.Array:
        """Tell for each prompt whether the right choice is the likeliest, lm-eval's `acc`."""
        return _best(self.log_likelihoods(at)) == self.answer

    def acc_norm(self, at: jax.Array) -> jax.Array:
        """Tell whether the right choice is the likeliest per unit, lm-eval's `acc_norm`.

        Units must be characters for that. Of equal scores the first counts, as there.
        """
        return _best(self.scores(at)) == self.answer

    def metric(self, at: jax.Array) -> jax.Array:
        """Compute the (N,) score of the right choice minus that of the others."""
        scores, count = self.scores(at), self.distractor.shape[1]
        right = jnp.take_along_axis(scores, self.answer[:, None], axis=1)[:, 0]
        others = jnp.take_along_axis(scores, self.distractor, axis=1)
        return right - jax.nn.logsumexp(others, axis=1) + jnp.log(count)

    def correct(self, at: jax.Array, candidates: tuple[int, ...] | None = None) -> jax.Array:
        """Tell for each prompt (N,) whether the right choice has the best score."""
        scores = self.scores(at)
        right = jnp.take_along_axis(scores, self.answer[:, None], axis=1)[:, 0]
        return right > jnp.take_along_axis(scores, self.distractor, axis=1).max(1)

    def kl(self, model: jax.Array, at: jax.Array) -> jax.Array:
        """Compute (N,) KL(model ‖ ·) per token, the mean over all scored tokens of all choices."""
        found = divergence(model, at).reshape(len(self), -1)
        scored = (self.position >= 0).reshape(len(self), -1)
        return jnp.sum(jnp.where(scored, found, 0), 1) / jnp.sum(scored, 1)

    def match(self, model: jax.Array, at: jax.Array) -> jax.Array:
        """Tell for each prompt (N,) whether the choice is the model's."""
        return self.scores(model).argmax(1) == self.scores(at).argmax(1)

    def check(self, vocab_size: int) -> None:
        """Refuse choices that do not fit together, or tokens outside the vocabulary.

        Raises:
            InputError: Naming what is wrong.
        """
        require_index("vocab_size", vocab_size)
        p = on_host(self)
        shape = () if p.clean is None else p.clean.shape
        if len(shape) != 3 or 0 in shape or shape[1] < 2 or np.shape(p.corrupted) != shape:
            raise InputError("choices", got=f"shapes {shape} and {np.shape(p.corrupted)}",
                             expected="(N, C, T) of both, with two or more choices")  # fmt: skip
        n, c, *_ = shape
        scored = np.shape(p.position)[-1:]
        shapes = {"answer": (n,), "distractor": (n, c - 1), "length": (n, c), "unit": (n, c),
                  "position": (n, c, *scored)}  # fmt: skip
        for field, expected in shapes.items():
            if np.shape(getattr(p, field)) != expected or 0 in expected:
                raise InputError(field, got=f"shape {np.shape(getattr(p, field))}",
                                 expected=expected)  # fmt: skip
        for field in ("clean", "corrupted", "position", "answer", "distractor", "length"):
            if getattr(p, field).dtype.kind not in "iu":
                raise InputError(field, got=f"dtype {getattr(p, field).dtype}", expected="integers")
        for field in ("clean", "corrupted"):
            tokens = getattr(p, field)
            if tokens.min() < 0 or tokens.max() >= vocab_size:
                raise InputError(field, got=f"tokens {tokens.min()} to {tokens.max()}",
                                 expected=f"0 to {vocab_size - 1}")  # fmt: skip
        every = np.sort(np.concatenate([p.answer[:, None], p.distractor], 1), 1)
        if (every != np.arange(c)).any():
            raise InputError("answer and distractor", got="another numbering of the choices",
                             expected=f"each number from 0 to {c - 1} once a prompt")  # fmt: skip
        if (p.position >= p.length[..., None] - 1).any() or (p.position[..., 0] < 0).any():
            raise InputError("position", got="a row without scored tokens, or one past its end",
                             expected="one or more, each before a token of its row")  # fmt: skip
        if p.unit.dtype.kind != "f" or not (np.isfinite(p.unit) & (p.unit > 0)).all():
            raise InputError("unit", got=f"{p.unit.dtype} from {p.unit.min()} to {p.unit.max()}",
                             expected="finite numbers above 0")  # fmt: skip


def _best(scores: jax.Array) -> jax.Array:
    """(N,) number of the first largest score; −1 where one is no number."""
    return jnp.where(jnp.isnan(scores).any(1), -1, scores.argmax(1))


class Choice(NamedTuple):
    """A choice is one continuation of a prompt, as token ids.

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
    width: int | None = None,
) -> Choices:
    """Pad choices into one checked batch.

    Args:
        rows: The choices of each prompt, as many for all.
        answer: Number of the right one.
        vocab_size: Of the model.
        width: Length to pad to, with token 0; the longest row if None.

    Returns:
        The prompts, as NumPy arrays on the host.

    Raises:
        InputError: If there are none, or they do not fit together.

    Example:
        >>> yes, no = Choice([1, 2], [3, 2], (1, 2), 1.0), Choice([1, 4], [3, 4], (1, 2), 1.0)
        >>> make_choices([[yes, no]], [0], vocab_size=5).clean.shape
        (1, 2, 2)
    """
    rows = _read(rows)
    right = read_ids("answer", answer)
    if len(rows) != len(right):
        raise InputError("answer", got=f"{len(right)} numbers",
                         expected=f"one for each of {len(rows)} prompts")  # fmt: skip
    count = len(rows[0])
    for number in right:
        require_index("answer", number, count)
    require_index("vocab_size", vocab_size)
    width = 0 if width is None else require_index("width", width, MOST_WIDTH)
    longest = max(len(choice.clean) for row in rows for choice in row)
    scored = max(choice.scored[1] - choice.scored[0] for row in rows for choice in row)
    width = max(longest, width)

    def array(of: Any, dtype: Any = np.int64) -> np.ndarray:
        return np.asarray([[of(choice) for choice in row] for row in rows], dtype)

    def pad(tokens: Sequence[int]) -> list[int]:
        return [*tokens, *[0] * (width - len(tokens))]

    def places(choice: Choice) -> list[int]:
        first, end = choice.scored
        return [*range(first - 1, end - 1), *[-1] * (scored - (end - first))]

    others = [[i for i in range(count) if i != own] for own in right]
    made = Choices(
        clean=array(lambda choice: pad(choice.clean)),
        corrupted=array(lambda choice: pad(choice.corrupted)),
        position=array(places),
        answer=np.asarray(right),
        distractor=np.asarray(others),
        length=array(lambda choice: len(choice.clean)),
        unit=array(lambda choice: choice.unit, np.float32),
    )
    made.check(vocab_size)  # before ids are narrowed, which would change those too large
    return jax.tree.map(lambda x: x.astype(np.int32) if x.dtype.kind == "i" else x, made)


def _read(rows: Any) -> list[list[Choice]]:
    """The choices of each prompt, each of them looked at."""
    listed = [
        require_list(f"choices of prompt {i}", own, "a list of `Choice`")
        for i, own in enumerate(require_list("choices", rows, "the choices of each prompt"))
    ]
    counts = sorted({len(own) for own in listed})
    if len(counts) != 1 or counts[0] < 2:
        raise InputError("choices", got=f"{len(listed)} prompts of {counts} choices",
                         expected="one or more, of as many choices each, at least 2")  # fmt: skip
    return [[_looked_at(f"choice {k} of prompt {i}", one) for k, one in enumerate(own)]
            for i, own in enumerate(listed)]  # fmt: skip


def _looked_at(what: str, one: Any) -> Choice:
    require_is(what, one, Choice)
    clean = read_ids(f"clean of {what}", one.clean)
    corrupted = read_ids(f"corrupted of {what}", one.corrupted)
    if len(clean) != len(corrupted):
        raise InputError(what, got=f"{len(clean)} and {len(corrupted)} tokens",
                         expected="the same number of both")  # fmt: skip
    scored = read_ids(f"scored of {what}", one.scored)
    if len(scored) != 2 or not 1 <= scored[0] < scored[1] <= len(clean):
        raise InputError(f"scored of {what}", got=one.scored,
                         expected=f"(first, end) with 1 ≤ first < end ≤ {len(clean)}")  # fmt: skip
    number = isinstance(one.unit, int | float | np.number) and not isinstance(one.unit, bool)
    if not number or not 0 < one.unit < math.inf:
        raise InputError(f"unit of {what}", got=repr(one.unit), expected="a number above 0")
    return Choice(clean, corrupted, (scored[0], scored[1]), float(one.unit))
