"""What a behaviour is: prompts, their counterfactuals, and how an answer is scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hagd_jax.errors import InputError
from hagd_jax.tasks.checks import check_prompts, require_aligned

# One token a prompt, or all that will do.
Alternatives = Sequence[int] | Sequence[Sequence[int]] | np.ndarray
SPLITS = ("discover", "select", "test")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many prompts each split has.

    Attributes:
        discover: Prompts that a circuit is found on.
        select: Prompts that sizes, thresholds and stopping times are chosen on.
        test: Prompts that are only looked at for the verdict.

    Example:
        >>> Sizes(discover=128).test
        64
    """

    discover: int = 64
    select: int = 32
    test: int = 64

    def __post_init__(self):
        for split in SPLITS:
            size = getattr(self, split)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise InputError(
                    f"size of the {split} split",
                    got=repr(size),
                    expected="a whole number, 1 or more",
                )


@struct.dataclass
class Prompts:
    """A batch of prompts with their counterfactuals; a pytree of int32 arrays with N rows.

    `clean` and `corrupted` agree token by token: position t of a row plays the same part in both.
    Rows are padded on the right, so a causal model reads the same values with or without padding.

    Attributes:
        clean: (N, T) token ids.
        corrupted: (N, T) token ids of the counterfactual, of the same length in each row.
        position: (N,) where the answer is read: the logits there predict the next token.
        answer: (N,) the token that follows the clean prompt; or (N, A) all that may, −1 for none.
        distractor: (N,) the wrong token it is compared with; or (N, B) all of them.
        length: (N,) real tokens in the row; the rest is padding.
        group: (N,) numbers from 0, the same for prompts in which every position plays the same
            part, as in those of one template and length; or None if all are alike.
    """

    clean: Any
    corrupted: Any
    position: Any
    answer: Any
    distractor: Any
    length: Any
    group: Any = None

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: Any) -> Self:
        """Some of the rows: a slice, a mask or indices."""
        return jax.tree.map(lambda x: x[rows], self)

    # What follows is all that whoever runs a model on prompts needs to know of them; `Choices`
    # answers the same questions for prompts that are several rows each.

    def inputs(self, side: str = "clean") -> Any:
        """(R, T) the rows a model reads, `clean` or `corrupted`; R is N here."""
        return getattr(self, side)

    @property
    def reads(self) -> Any:
        """(R, S) the positions whose logits matter; S is 1 here."""
        return self.position[:, None]

    def per_row(self, values: Any) -> Any:
        """(R, ...) from (N, ...): what belongs to a prompt, for each of its rows."""
        return values

    @property
    def row_length(self) -> Any:
        """(R,) real tokens of each row."""
        return self.length

    def metric(self, at: jax.Array) -> jax.Array:
        """(N,) from (R, S, V) logits at `reads`: how much more the answer is favoured."""
        return _sum(at[:, 0], self.answer) - _sum(at[:, 0], self.distractor)

    def correct(self, at: jax.Array, candidates: tuple[int, ...] | None = None) -> jax.Array:
        """(N,) whether the answer wins, see `tasks.correct`."""
        if candidates is None:
            return self.metric(at) > 0
        at, ids, answers = at[:, 0], jnp.asarray(candidates, jnp.int32), _columns(self.answer)
        own = (ids == answers[:, :, None]).any(1)
        rival = jnp.where(own, -jnp.inf, at[:, ids]).max(axis=-1)
        best = jnp.where(answers >= 0, jnp.take_along_axis(at, answers, 1), -jnp.inf).max(axis=-1)
        return best > rival

    def kl(self, model: jax.Array, at: jax.Array) -> jax.Array:
        """(N,) KL(model ‖ ·) of the next token, in nats, from logits at `reads`."""
        return divergence(model, at)[:, 0]

    def match(self, model: jax.Array, at: jax.Array) -> jax.Array:
        """(N,) whether the top token is the model's."""
        return (model.argmax(-1) == at.argmax(-1))[:, 0]

    def check(self, vocab_size: int) -> None:
        """See `check_prompts`."""
        check_prompts(self, vocab_size)


class Text(NamedTuple):
    """One prompt as a person reads it, for reports; it never enters a compiled function.

    Where several words are right, or wrong, `|` stands between them.
    """

    clean: str
    corrupted: str
    answer: str
    distractor: str
    template: str


@dataclasses.dataclass(frozen=True)
class Task:
    """A behaviour, split into prompts to discover on, to select on and to test on.

    Attributes:
        name: As in `registry.names()`, or your own.
        description: One sentence for the report.
        splits: `Prompts` by split name.
        texts: The same rows as text, by split name.
        candidates: An answer is correct if its logit is the largest of these tokens'; with None,
            if it is larger than the distractor's.
        notes: What a user should know of the prompts, such as rows of a file that were left out.
    """

    name: str
    description: str
    splits: Mapping[str, Prompts]
    texts: Mapping[str, tuple[Text, ...]]
    candidates: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        for split, prompts in self.splits.items():
            texts = self.texts.get(split, ())
            if len(texts) != len(prompts):
                raise InputError(
                    f"texts of {self.name}/{split}",
                    got=f"{len(texts)} texts",
                    expected=f"one for each of the {len(prompts)} prompts",
                )
            if self.candidates is not None:
                stray = sorted(_tokens(prompts.answer) - set(self.candidates))
                if stray:
                    raise InputError(
                        f"answers of {self.name}/{split}",
                        got=f"tokens {stray[:5]}",
                        expected="members of the task's candidates",
                    )


def make_prompts(
    clean: Sequence[Sequence[int]],
    corrupted: Sequence[Sequence[int]],
    answer: Alternatives,
    distractor: Alternatives,
    *,
    vocab_size: int,
    position: Sequence[int] | None = None,
    group: Sequence[Any] | None = None,
    pad_id: int = 0,
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
        pad_id: Fills the rows on the right.
        width: Length to pad to; the longest prompt if None.

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
    require_aligned(clean, corrupted)
    lengths = [len(row) for row in clean]
    width = max(lengths) if width is None else width
    if max(lengths) > width:
        raise InputError(
            "width", got=width, expected=f"at least {max(lengths)}, the longest prompt"
        )

    def pad(rows: Sequence[Sequence[int]]) -> np.ndarray:
        padded = [list(row) + [pad_id] * (width - len(row)) for row in rows]
        return np.asarray(padded, np.int64)

    prompts = Prompts(
        clean=pad(clean),
        corrupted=pad(corrupted),
        position=np.asarray([n - 1 for n in lengths] if position is None else position, np.int64),
        answer=_alternatives(answer),
        distractor=_alternatives(distractor),
        length=np.asarray(lengths, np.int64),
        group=None if group is None else _numbered(zip(group, lengths, strict=True)),
    )
    check_prompts(prompts, vocab_size)
    return jax.tree.map(lambda x: x.astype(np.int32), prompts)


def divergence(model: jax.Array, other: jax.Array) -> jax.Array:
    """KL(model ‖ other) of the tokens that logits (..., V) predict, in nats."""
    target = jax.nn.log_softmax(model)
    return jnp.sum(jnp.exp(target) * (target - jax.nn.log_softmax(other)), -1)


def read_logits(logits: Any, prompts: Prompts) -> jax.Array:
    """The logits where answers are read.

    Args:
        logits: (R, T, V) from `models.forward`.
        prompts: N prompts of R rows.

    Returns:
        (R, S, V), as `forward(..., read=prompts.reads)` gives at once.
    """
    places = jnp.asarray(prompts.reads)[..., None]
    return jnp.take_along_axis(jnp.asarray(logits), places, axis=1)


def logit_difference(logits: Any, prompts: Prompts) -> jax.Array:
    """How much more the model favours the answer: logit(answer) − logit(distractor).

    Where several tokens are right or wrong it is the log-odds of being right,
    log Σ exp(logits of answers) − log Σ exp(logits of distractors). Of `Choices` it is their own.

    Args:
        logits: (N, T, V) from `models.forward`.
        prompts: N prompts.

    Returns:
        (N,).

    Example:
        >>> prompts = make_prompts([[0, 1]], [[1, 1]], [2], [0], vocab_size=3)
        >>> logit_difference(np.asarray([[[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]]]), prompts).tolist()
        [3.0]
    """
    return prompts.metric(read_logits(logits, prompts))


def correct(logits: Any, prompts: Prompts, candidates: tuple[int, ...] | None = None) -> jax.Array:
    """Whether each answer wins; a tie or a NaN is not a win.

    Args:
        logits: (N, T, V) from `models.forward`.
        prompts: N prompts.
        candidates: The tokens that the best answer must beat, answers left out; None for the
            distractors alone, all together.

    Returns:
        (N,) bool.
    """
    return prompts.correct(read_logits(logits, prompts), candidates)


def _sum(at: jax.Array, tokens: Any) -> jax.Array:
    """(N,) log Σ exp of the logits of the tokens of each row; of one token, its logit."""
    tokens = jnp.asarray(tokens)
    if tokens.ndim == 1:
        return jnp.take_along_axis(at, tokens[:, None], axis=1)[:, 0]
    found = jnp.take_along_axis(at, tokens, axis=1)
    return jax.nn.logsumexp(found, axis=1, where=tokens >= 0)


def _numbered(labels: Iterable[Any]) -> np.ndarray:
    """Numbers from 0 for equal labels."""
    seen: dict[Any, int] = {}
    return np.asarray([seen.setdefault(label, len(seen)) for label in labels], np.int64)


def _columns(tokens: Any) -> jax.Array:
    """(N, A), also of a single column."""
    tokens = jnp.asarray(tokens)
    return tokens[:, None] if tokens.ndim == 1 else tokens


def _alternatives(rows: Alternatives) -> np.ndarray:
    """(N,) tokens, or (N, A) where rows are lists; those are filled with −1."""
    lists = [row for row in rows if isinstance(row, Sequence)]
    if len(lists) < len(rows):
        return np.asarray(rows, np.int64)
    width = max(map(len, lists), default=1)
    return np.asarray([[*row, *[-1] * (width - len(row))] for row in lists], np.int64)


def _tokens(ids: Any) -> set[int]:
    return {token for token in np.ravel(np.asarray(ids)).tolist() if token >= 0}


def batches(prompts: Prompts, size: int) -> Iterator[Prompts]:
    """Consecutive batches in order; the last one is shorter if `size` does not divide N.

    Args:
        prompts: N prompts.
        size: Rows a batch. A size that divides N compiles a jitted consumer once.

    Returns:
        An iterator over the batches.

    Raises:
        InputError: If `size` is not a positive whole number.
    """
    if not isinstance(size, int) or size < 1:
        raise InputError("batch size", got=repr(size), expected="a whole number, 1 or more")
    return (prompts[start : start + size] for start in range(0, len(prompts), size))
