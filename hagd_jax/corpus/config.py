"""How a corpus is cut into sequences and shared out."""

from __future__ import annotations

import dataclasses
from typing import Any

from hagd_jax.brief import quoted
from hagd_jax.errors import require, require_flag, require_number


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
        require_number("held_out", self.held_out, least=0, below=1)
        require_flag("bos", self.bos)
        named = isinstance(self.column, str) and bool(self.column)
        require(named, "column", got=quoted(self.column), expected="the name of a column of text")


def require_whole(field: str, value: Any, least: int) -> None:
    """Refuse a value that is not a whole number of at least `least`."""
    require_number(field, value, least=least, whole=True)


def require_seed(seed: Any) -> None:
    """Refuse a value that is not a seed."""
    require_number("seed", seed, least=0, most=2**32 - 1, whole=True)
