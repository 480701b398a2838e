"""Prompts and their counterfactuals: a batch of token ids, and how it is made."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index, require_is, require_list, shown
from hagd_jax.tasks.checks import check_prompts, read_ids, read_rows, require_aligned
from hagd_jax.tasks.metric import columns, divergence, log_sum

# Longer rows than any model reads are a mistake, and would fill the memory.
MOST_WIDTH = 2**22
# One token a prompt, or all that will do.
Alternatives = Sequence[int] | Sequence[Sequence[int]] | np.ndarray


@struct.dataclass
class Prompts:
    """Prompts are a batch with counterfactuals: a pytree of int32 arrays with N rows.

    `clean` and `corrupted` agree token by token: position t of a row plays the same part in both.
    Rows are padded on the right, so a causal model reads the same values with or without padding.

    Attributes:
        clean: (N, T) token ids.
        corrupted: (N, T) token ids of the counterfactual, of the same length in each row.
        position: (N,) where the answer is read: the logits there predict the next token.
        answer: (N,) the token that follows the clean prompt; or (N, A) all that may, −1 for none.
        distractor: (N,) the wrong token it is compared with; or (N, B) all of them.
        length: (N,) real tokens in the row; the rest is padding.
        group: (N,) numbers, the same for prompts in which every position plays the same part, as
            in those of one template and length, whatever their split; or None if all are alike.
        span: (N, T) which of `spans` each token is in, in `clean` as in `corrupted`, see
            `tasks.with_spans`; or None.
        spans: Names of the spans; the last holds the padding and all that nothing was named in.
    """

    clean: Any
    corrupted: Any
    position: Any
    answer: Any
    distractor: Any
    length: Any
    group: Any = None
    span: Any = None
    spans: tuple[str, ...] = struct.field(pytree_node=False, default=())

    __repr__ = one_line

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: Any) -> Self:
        """Some of the rows: a slice, a mask or indices; a single index is a batch of one.

        Raises:
            InputError: If it is something else, or outside.
        """
        whole = isinstance(rows, int | np.integer) and not isinstance(rows, bool | np.bool_)
        listed = [rows] if whole else rows
        if rows is None or isinstance(rows, bool | float | str | tuple):
            raise InputError("rows of prompts", got=shown(rows),
                             expected="a slice, a mask or indices")  # fmt: skip
        try:
            return jax.tree.map(lambda x: x[listed], self)
        except (IndexError, TypeError, ValueError, OverflowError) as error:
            raise InputError("rows of prompts", got=shown(rows),
                             expected=f"rows of {len(self)} prompts") from error  # fmt: skip

    def narrowed(self, width: int) -> Self:
        """Return the prompts without the positions from `width` on, which are padding."""
        cut = {"clean": self.clean, "corrupted": self.corrupted, "span": self.span}
        return dataclasses.replace(
            self, **{name: x[..., :width] for name, x in cut.items() if x is not None}
        )

    # What follows is all that whoever runs a model on prompts needs to know of them; `Choices`
    # answers the same questions for prompts that are several rows each.

    def inputs(self, side: str = "clean") -> Any:
        """Return the (R, T) rows that a model reads, `clean` or `corrupted`; R is N here."""
        return getattr(self, side)

    @property
    def reads(self) -> Any:
        """Return the (R, S) positions whose logits matter; S is 1 here."""
        return self.position[:, None]

    def per_row(self, values: Any) -> Any:
        """Repeat an array of prompts (N, ...) for each of their rows, (R, ...)."""
        return values

    @property
    def row_length(self) -> Any:
        """Return the (R,) numbers of real tokens of the rows."""
        return self.length

    def metric(self, at: jax.Array) -> jax.Array:
        """Compute (N,) logit(answer) − logit(distractor), from (R, S, V) logits at `reads`."""
        return log_sum(at[:, 0], self.answer) - log_sum(at[:, 0], self.distractor)

    def correct(self, at: jax.Array, candidates: tuple[int, ...] | None = None) -> jax.Array:
        """Tell for each prompt (N,) whether the answer wins, see `tasks.correct`."""
        if candidates is None:
            return self.metric(at) > 0
        at, ids, answers = at[:, 0], jnp.asarray(candidates, jnp.int32), columns(self.answer)
        own = (ids == answers[:, :, None]).any(1)
        rival = jnp.where(own, -jnp.inf, at[:, ids]).max(axis=-1)
        best = jnp.where(answers >= 0, jnp.take_along_axis(at, answers, 1), -jnp.inf).max(axis=-1)
        return best > rival

    def kl(self, model: jax.Array, at: jax.Array) -> jax.Array:
        """Compute (N,) KL(model ‖ ·) of the next token, in nats, from logits at `reads`."""
        return divergence(model, at)[:, 0]

    def match(self, model: jax.Array, at: jax.Array) -> jax.Array:
        """Tell for each prompt (N,) whether the top token is the model's."""
        return (model.argmax(-1) == at.argmax(-1))[:, 0]

    def check(self, vocab_size: int) -> None:
        """Check that prompts fit together and fit a vocabulary, see `check_prompts`."""
        check_prompts(self, vocab_size)


def make_prompts(
    clean: Sequence[Sequence[int]],
    corrupted: Sequence[Sequence[int]],
    answer: Alternatives,
    distractor: Alternatives,
    *,
    vocab_size: int,
    position: Sequence[int] | None = None,
    group: Sequence[Any] | None = None,
    width: int | None = None,
) -> Prompts:
    """Pad rows of token ids into one checked batch.

    Args:
        clean: Token ids, one sequence a prompt.
        corrupted: The counterfactuals, each as long as its clean prompt.
        answer: The next token after each clean prompt, or a list of all that are right.
        distractor: The wrong token it is compared with, or a list.
        vocab_size: Of the model.
        position: Where each answer is read; the last token of its prompt if None.
        group: What prompts of one plan have in common, such as their template; with their length
            it makes the groups. None if all are alike.
        width: Length to pad to, with token 0; the longest prompt if None.

    Returns:
        The prompts, as NumPy arrays on the host.

    Raises:
        InputError: If there is no prompt or an empty one; if a prompt and its counterfactual
            differ in length; if a token lies outside the vocabulary, a position outside its
            prompt, or an answer equals its distractor.

    Example:
        >>> make_prompts([[1, 2], [3]], [[1, 4], [5]], [6, 7], [8, 9], vocab_size=10).clean.tolist()
        [[1, 2], [3, 0]]
    """
    clean, corrupted = read_rows("clean", clean), read_rows("corrupted", corrupted)
    require_aligned(clean, corrupted)
    lengths = [len(row) for row in clean]
    width = max(lengths) if width is None else require_index("width", width, MOST_WIDTH)
    require_index("vocab_size", vocab_size)
    if max(lengths) > width:
        raise InputError(
            "width", got=width, expected=f"at least {max(lengths)}, the longest prompt"
        )

    def pad(rows: Sequence[Sequence[int]]) -> np.ndarray:
        padded = [list(row) + [0] * (width - len(row)) for row in rows]
        return np.asarray(padded, np.int64)

    prompts = Prompts(
        clean=pad(clean),
        corrupted=pad(corrupted),
        position=np.asarray(
            [n - 1 for n in lengths] if position is None else read_ids("position", position)
        ),
        answer=_alternatives("answer", answer),
        distractor=_alternatives("distractor", distractor),
        length=np.asarray(lengths, np.int64),
        group=None if group is None else _grouped(group, lengths),
    )
    check_prompts(prompts, vocab_size)
    return jax.tree.map(lambda x: x.astype(np.int32), prompts)


def batches(prompts: Prompts, size: int) -> Iterator[Prompts]:
    """Yield consecutive batches in order; the last may be shorter.

    Args:
        prompts: N prompts.
        size: Rows a batch. A size that divides N compiles a jitted consumer once.

    Returns:
        An iterator over the batches.

    Raises:
        InputError: If `size` is not a positive whole number.
    """
    require_is("prompts", prompts, Prompts)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InputError("batch size", got=repr(size), expected="a whole number, 1 or more")
    return (prompts[start : start + size] for start in range(0, len(prompts), size))


def _grouped(group: Any, lengths: Sequence[int]) -> np.ndarray:
    """(N,) numbers for labels and lengths: decided by these alone, so that two splits agree."""
    labels = require_list("group", group, "a label for each prompt")
    if len(labels) != len(lengths):
        raise InputError(
            "group", got=f"{len(labels)} labels", expected=f"one for each of {len(lengths)} prompts"
        )
    pairs = zip(labels, lengths, strict=True)
    return np.asarray([zlib.crc32(repr(pair).encode()) >> 1 for pair in pairs], np.int64)


def _alternatives(field: str, rows: Any) -> np.ndarray:
    """(N,) tokens, or (N, A) where rows are lists; those are filled with −1."""
    listed = require_list(field, rows, "a token or several for each prompt")
    if not any(isinstance(row, Sequence) or np.ndim(row) for row in listed):
        return np.asarray(read_ids(field, listed), np.int64)
    found = read_rows(field, listed)
    width = max(map(len, found), default=1)
    return np.asarray([[*row, *[-1] * (width - len(row))] for row in found], np.int64)
