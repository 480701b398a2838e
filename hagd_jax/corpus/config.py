"""How a corpus is cut into sequences and shared out."""

from __future__ import annotations

import dataclasses
from typing import Any

from hagd_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Configure the sequences of a corpus and which of them are held out.

    Attributes:
        length: Tokens of a sequence, T, the beginning token included. Prompts of a task are not
            cut: theirs is the length of the longest.
        held_out: Share that is never trained on: of the documents, or the end of the text if
            they are too few to spare one. 0 holds nothing out.
        seed: Of the choice of what is held out, of a task's prompts and of sampled text. The
            order of batches has a seed of its own.
        bos: Whether sequences begin with what the tokenizer's template puts in front of a text, or
            else with its beginning token, if it has one.
        prompts: Prompts drawn for `task:NAME`; their counterfactuals come on top.
        samples: Sequences drawn for `self`.
        column: Where a data set of the hub keeps its text.

    Raises:
        ConfigError: If a number is impossible.

    Example:
        >>> CorpusConfig(length=64).held_out
        0.02
    """

    length: int = 128
    held_out: float = 0.02
    seed: int = 0
    bos: bool = True
    prompts: int = 64
    samples: int = 1024
    column: str = "text"

    def __post_init__(self):
        for field, least in (("length", 2), ("prompts", 1), ("samples", 1)):
            require_whole(field, getattr(self, field), least)
        require_seed(self.seed)
        share = self.held_out
        if not isinstance(share, int | float) or not 0 <= share < 1:
            raise ConfigError(
                "held_out", got=repr(share), expected="a share of the corpus, 0 or more, below 1"
            )


def require_whole(field: str, value: Any, least: int) -> None:
    """Refuse a value that is not a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(field, got=repr(value), expected=f"a whole number, {least} or more")


def require_seed(seed: Any) -> None:
    """Refuse a value that is not a seed."""
    require_whole("seed", seed, 0)
    if seed >= 2**32:
        raise ConfigError("seed", got=seed, expected=f"at most {2**32 - 1}")
