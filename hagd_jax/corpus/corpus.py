"""A corpus as a value: rows to train on, rows held out, and batches of either."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from typing import TYPE_CHECKING

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.corpus import batches as batching
from hagd_jax.corpus.batches import Batches
from hagd_jax.corpus.config import CorpusConfig
from hagd_jax.corpus.holdout import held_out_mask
from hagd_jax.corpus.layout import Batch, Layout, require_length
from hagd_jax.corpus.rows import Rows, StoredRows
from hagd_jax.errors import InputError, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.models.arrays import read_array

if TYPE_CHECKING:
    from hagd_jax.corpus.stream import Stream

PARTS = ("train", "held_out")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens to train on and to measure on, which have no document in common.

    Attributes:
        name: Where it came from, for records.
        train: Rows to train on.
        held_out: Rows to measure on. Rows in memory have a length, and `held_out[:8]` is a batch
            of them; a stream has neither.
        fingerprint: Changes with the content.
    """

    name: str
    train: Rows | Stream
    held_out: Rows | Stream
    fingerprint: str

    __repr__ = one_line

    @classmethod
    def of_rows(cls, name: str, train: Rows, held_out: Rows, model: LanguageModel) -> Corpus:
        """A corpus in memory, checked against the model that shall read it.

        Raises:
            ConfigError: If its rows are longer than the model's positions.
            InputError: If a model that reads both ways would read padding.
        """
        require_length(train.layout.length, model.config)
        if not model.config.causal and (train.padded or held_out.padded):
            raise InputError(
                f"corpus {name}",
                got="rows with padding",
                expected="rows of one length, since this model reads both ways",
            )
        content = f"{train.fingerprint()}/{held_out.fingerprint()}".encode()
        return cls(name, train, held_out, hashlib.blake2b(content, digest_size=8).hexdigest())

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        part: str = "train",
        share: tuple[int, int] = (0, 1),
    ) -> Batches:
        """Batches without end.

        Rows in memory come in a new order each epoch, every one exactly once; a stream comes in
        its own order, again from the start when it ends.

        Args:
            batch_size: Rows of a batch, of all processes together.
            seed: Of the order; a stream has none.
            part: `train` or `held_out`.
            share: (i, n) for the i-th of n processes: its consecutive `batch_size / n` rows of
                a batch that is the same whatever n is.

        Returns:
            An iterator over host-local batches, with `state()` and `restore(state)`.

        Raises:
            ConfigError: If there are fewer rows than a batch has, or a number is impossible.
            InputError: If there is no such part.

        Example:
            >>> model = hagd.testbeds.hand_built()[0].model
            >>> corpus = hagd.corpus.open_corpus("self", model, CorpusConfig(length=4, samples=64))
            >>> next(corpus.batches(8)).tokens.shape
            (8, 4)
        """
        if part not in PARTS:
            raise InputError("part", got=repr(part), expected=f"one of {', '.join(PARTS)}")
        mine = batching.check(batch_size, seed, share)
        rows = getattr(self, part)
        if isinstance(rows, Rows):
            dataset = batching.shuffled(rows, batch_size, seed, mine)
        else:
            dataset = batching.in_order(rows, batch_size, mine)
        identity = {"corpus": self.fingerprint, "part": part, "batch_size": batch_size}
        return Batches(dataset, identity | {"seed": seed})

    def held_out_batches(self, sequences: int, batch_size: int = 8) -> list[Batch]:
        """The first held-out sequences, to measure on.

        Args:
            sequences: How many; all of them if there are fewer.
            batch_size: Rows of a batch; the last one may have fewer.

        Returns:
            The batches; the same for every process.

        Raises:
            InputError: If nothing is held out.

        Example:
            >>> model = hagd.testbeds.hand_built()[0].model
            >>> corpus = hagd.corpus.open_corpus("self", model, CorpusConfig(length=4, samples=64))
            >>> corpus.held_out_batches(1)[0].tokens.shape
            (1, 4)
        """
        if not isinstance(self.held_out, Rows):
            stream = self.batches(batch_size, part="held_out")
            return list(itertools.islice(stream, -(-sequences // batch_size)))
        count = min(sequences, len(self.held_out))
        if not count:
            raise InputError(
                f"corpus {self.name}",
                got="no held-out sequences",
                expected="some to measure on",
                mend="Raise held_out.",
            )
        starts = range(0, count, batch_size)
        return [self.held_out[at : min(at + batch_size, count)] for at in starts]


def corpus_of_tokens(
    name: str,
    tokens: np.ndarray,
    model: LanguageModel,
    config: CorpusConfig | None = None,
    *,
    lengths: np.ndarray | None = None,
) -> Corpus:
    """A corpus from rows of token ids; equal rows count once, so that none is in both parts.

    Args:
        name: For records.
        tokens: (N, T) ids, padded on the right.
        model: Whose tokens they are.
        config: What is held out; `length` is not used.
        lengths: (N,) real tokens of each row; all of them if None.

    Returns:
        The corpus.

    Raises:
        InputError: If there are too few rows, they do not fit the vocabulary, or are longer than
            the model's positions.

    Example:
        >>> model = hagd.testbeds.hand_built()[0].model
        >>> corpus = corpus_of_tokens("pairs", np.array([[1, 2], [3, 4]]), model)
        >>> len(corpus.train), len(corpus.held_out)
        (1, 1)
    """
    config = CorpusConfig() if config is None else config
    require_is("model", model, LanguageModel)
    require_is("config", config, CorpusConfig)
    tokens = np.asarray(read_array(f"tokens of {name}", tokens))
    _check_tokens(name, tokens, model.config.vocab_size)
    lengths = np.full(*tokens.shape) if lengths is None else lengths
    lengths = np.asarray(read_array(f"lengths of {name}", lengths))
    _check_lengths(name, lengths, tokens)
    width = int(lengths.max())
    tokens = tokens[:, :width]
    padded = np.where(np.arange(width) < lengths[:, None], tokens.astype(np.int64), -1)
    first = np.sort(np.unique(padded, axis=0, return_index=True)[1])
    layout = dataclasses.replace(Layout.of(model.tokenizer, config), length=width)
    held_out = _choose(name, len(first), config)
    train, kept = (
        StoredRows(tokens[rows], lengths[rows], layout)
        for rows in (first[~held_out], first[held_out])
    )
    return Corpus.of_rows(name, train, kept, model)


def _choose(name: str, rows: int, config: CorpusConfig) -> np.ndarray:
    """Which rows to hold out: their share, but at least one."""
    if not config.held_out:
        return np.zeros(rows, bool)
    count = max(1, round(config.held_out * rows))
    if count >= rows:
        raise InputError(
            f"corpus {name}",
            got=f"{rows} different rows",
            expected=f"more than the {count} that are held out",
        )
    return held_out_mask(rows, count, config.seed)


def _check_tokens(name: str, tokens: np.ndarray, vocab_size: int) -> None:
    if tokens.ndim != 2 or 0 in tokens.shape or not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(
            f"tokens of {name}",
            got=f"{tokens.dtype} {tokens.shape}",
            expected="integer ids (N, T), at least one",
        )
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise InputError(
            f"tokens of {name}",
            got=f"ids from {tokens.min()} to {tokens.max()}",
            expected=f"0 to {vocab_size - 1}",
        )


def _check_lengths(name: str, lengths: np.ndarray, tokens: np.ndarray) -> None:
    wrong = None
    if lengths.shape != tokens.shape[:1] or not np.issubdtype(lengths.dtype, np.integer):
        wrong = f"{lengths.dtype} of shape {lengths.shape}"
    elif lengths.min() < 1 or lengths.max() > tokens.shape[1]:
        wrong = f"{lengths.min()} to {lengths.max()}"
    if wrong:
        raise InputError(
            f"lengths of {name}",
            got=wrong,
            expected=f"one for each of {len(tokens)} rows, 1 to {tokens.shape[1]}",
        )
