"""How tokens lie in a row: what stands in front, between and behind them, and what weighs."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.corpus.config import CorpusConfig
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import DecoderConfig, LanguageModel, Tokenizer


class Batch(NamedTuple):
    """A batch holds rows of tokens, on the host.

    Attributes:
        tokens: (B, T) int32 ids; one row alone is (T,).
        weight: (B, T) float32: 0 on beginning and ending tokens (they also separate documents)
            and on padding, 1 elsewhere.
    """

    tokens: np.ndarray
    weight: np.ndarray

    __repr__ = one_line


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout arranges the tokens of a row.

    Attributes:
        length: Tokens of a row, T.
        begin: Tokens that every row begins with.
        separator: Token between two documents, or None.
        pad: Token that fills rows on the right.
        weightless: Tokens that weigh nothing.
    """

    length: int
    begin: tuple[int, ...] = ()
    separator: int | None = None
    pad: int = 0
    weightless: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Tokenizer | None, config: CorpusConfig) -> Layout:
        """Make the layout that a tokenizer's special tokens allow.

        Args:
            tokenizer: Of the model, if it has one.
            config: Length, and whether rows begin with beginning tokens.

        Returns:
            The layout. A row begins as a text does: with all that the tokenizer's template puts in
            front, or else with its beginning token, since a row seldom begins where a document
            does. Documents are separated by the ending token, or else the beginning one.

        Raises:
            ConfigError: If the beginning leaves no room for text.
        """
        bos = tokenizer.bos_id if tokenizer else None
        eos = tokenizer.eos_id if tokenizer else None
        special = [id for id in (eos, bos) if id is not None]
        begin = tokenizer.begin if tokenizer else ()
        if config.bos and not begin and bos is not None:
            begin = (bos,)
        if config.length <= len(begin):
            raise ConfigError(
                "length", got=config.length, expected=f"more than the {len(begin)} beginning tokens"
            )
        return cls(
            length=config.length,
            begin=begin if config.bos else (),
            separator=special[0] if special else None,
            pad=special[0] if special else 0,
            weightless=tuple(sorted({*special, *begin})),
        )

    @property
    def body(self) -> int:
        """Return the number of corpus tokens in a row."""
        return self.length - len(self.begin)

    def weigh(self, tokens: np.ndarray, real: np.ndarray) -> Batch:
        """Add weights to rows.

        Args:
            tokens: (..., T) ids.
            real: (..., T) whether a token is one, or padding.

        Returns:
            The rows, padded.
        """
        weight = real & ~np.isin(tokens, self.weightless)
        tokens = np.where(real, tokens, self.pad)
        return Batch(tokens.astype(np.int32), weight.astype(np.float32))

    def rows(self, body: np.ndarray, real: np.ndarray) -> Batch:
        """Make rows from what follows their beginning tokens.

        Args:
            body: (..., `body`) ids.
            real: (..., `body`) whether a token is one, or padding.

        Returns:
            The rows, begun, padded and weighed.
        """
        if self.begin:
            front = np.broadcast_to(self.begin, (*body.shape[:-1], len(self.begin)))
            body = np.concatenate([front, body], axis=-1)
            real = np.concatenate([np.ones(front.shape, bool), real], axis=-1)
        return self.weigh(body, real)


def require_tokenizer(model: LanguageModel) -> Tokenizer:
    """Return the model's tokenizer, refusing a model without one.

    Raises:
        InputError: If it has none, or one with more tokens than the model.
    """
    tokenizer, size = model.tokenizer, model.config.vocab_size
    if tokenizer is None:
        raise InputError(
            "corpus of text",
            got=f"model {model.name} without a tokenizer",
            expected="a model with one",
            mend="Put tokenizer.json beside its weights, or use the corpus 'self'.",
        )
    if tokenizer.vocab_size > size:
        raise InputError(
            f"tokenizer of {model.name}",
            got=f"{tokenizer.vocab_size} tokens",
            expected=f"at most the model's vocab_size = {size}",
        )
    return tokenizer


def require_length(length: int, config: DecoderConfig) -> None:
    """Refuse rows longer than a learned position table.

    Raises:
        ConfigError: If they are.
    """
    if config.positions == "learned" and length > config.max_positions:
        raise ConfigError(
            "length",
            got=length,
            expected=f"at most the model's max_positions = {config.max_positions}",
        )
