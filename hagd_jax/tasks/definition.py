"""What a task is: a behaviour, split into prompts to discover on, to select on and to test on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Labelled, Seen, look

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

    __repr__ = one_line

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

    def look(
        self,
        split: str,
        *,
        ablation: str | Iterable[str] = (),
        model: LanguageModel | None = None,
        dictionary: Labelled | str | None = None,
    ) -> Seen:
        """What a finder has seen that read the prompts of one split.

        Args:
            split: Name of the split.
            ablation: The ablation that the finder measured with, or several of them.
            model: The model that read the prompts.
            dictionary: The dictionary whose units were looked at, or its label.

        Returns:
            What was seen, see `seen.look`.

        Raises:
            InputError: If the task has no such split.
        """
        if split not in self.splits:
            raise InputError(f"task {self.name!r}", got=repr(split),
                             expected=f"one of its splits, {sorted(self.splits)}")  # fmt: skip
        return look(
            self.splits[split], ablation=ablation, split=split, task=self.name, model=model,
            dictionary=dictionary,
        )  # fmt: skip


def _tokens(ids: Any) -> set[int]:
    return {token for token in np.ravel(np.asarray(ids)).tolist() if token >= 0}
