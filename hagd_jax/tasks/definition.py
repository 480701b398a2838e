"""What a task is: a behaviour, split into prompts to discover on, to select on and to test on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from hagd_jax.brief import one_line, quoted
from hagd_jax.errors import InputError, require_index, require_is, require_list, shown
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Labelled, Seen, look, prompt_digests

Split = Literal["discover", "select", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
# Prompts of the discover split where neither the user nor the task says how many.
DISCOVERED = 64


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes are the numbers of prompts in each split.

    Attributes:
        discover: Prompts that a circuit is found on; None for as many as suit the task: 8
            for each discover template of tasks in sentences, 64 at least; 64 of others.
        select: Prompts that sizes, thresholds and stopping times are chosen on.
        test: Prompts that are only looked at for the verdict.

    Example:
        >>> Sizes(discover=128).test
        64
    """

    discover: int | None = None
    select: int = 32
    test: int = 64

    def __post_init__(self):
        for split in SPLITS:
            size = getattr(self, split)
            if size is None and split == "discover":
                continue
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise InputError(
                    f"size of the {split} split",
                    got=repr(size),
                    expected="a whole number, 1 or more",
                )


class Text(NamedTuple):
    """A text is one prompt as a person reads it; it never enters a compiled function.

    Where several words are right, or wrong, `|` stands between them.
    """

    clean: str
    corrupted: str
    answer: str
    distractor: str
    template: str


class BySplit(dict[str, Any]):
    """A mapping by split refuses unknown names with an `InputError`, not a `KeyError`."""

    def __missing__(self, split: Any) -> Any:
        expected = f"one of its splits, {sorted(self)}"
        raise InputError("split of a task", got=repr(split)[:80], expected=expected)


@dataclasses.dataclass(frozen=True)
class Task:
    """A task is a behaviour with prompts split into discover, select and test.

    Attributes:
        name: As in `registry.names()`, or your own.
        description: One sentence for the report.
        splits: `Prompts` by split name; a split that is not there is an `InputError`.
        texts: The same rows as text, by split name.
        candidates: An answer is correct if its logit is the largest of these tokens'; with None,
            if it is larger than the distractor's.
        notes: What a user should know of the prompts, such as rows of a file that were left out,
            prompts that come twice, or prompts that two splits share.

    Raises:
        InputError: If a split has another name than those in `SPLITS`, if texts and prompts do not
            go together, if an answer is no candidate, or if splits name different spans.
    """

    name: str
    description: str
    splits: Mapping[str, Prompts]
    texts: Mapping[str, tuple[Text, ...]]
    candidates: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    __repr__ = one_line

    def __post_init__(self):
        require_is("name of the task", self.name, str)
        require_is("description of the task", self.description, str)
        for field in ("splits", "texts"):
            require_is(f"{field} of {self.name}", getattr(self, field), Mapping)
        splits = BySplit(self.splits)
        texts = BySplit({s: tuple(rows) for s, rows in read_splits(self.name, self.texts).items()})
        candidates = self.candidates
        if candidates is not None:
            listed = require_list(f"candidates of {self.name}", candidates, "token ids")
            candidates = tuple(require_index("candidates", token) for token in listed)
        notes = require_list(f"notes of {self.name}", self.notes, "texts")
        for split in splits:
            require_split(split)
            require_is(f"split {split} of {self.name}", splits[split], Prompts)
            _check(f"{self.name}/{split}", splits[split], texts.get(split, ()), candidates)
        _require_same_spans(self.name, splits)
        notes += [note for note in _repeats(splits) if note not in notes]
        values = {"splits": splits, "texts": texts, "candidates": candidates, "notes": tuple(notes)}
        for field, value in values.items():
            object.__setattr__(self, field, value)

    @property
    def spans(self) -> tuple[str, ...]:
        """Return the names of the spans of its prompts; none where it names none."""
        return next((prompts.spans for prompts in self.splits.values()), ())

    def distinct(self, split: str) -> int:
        """Count the different prompts of a split.

        Args:
            split: Name of the split.

        Returns:
            The number, which is below the split's length if a prompt comes twice.

        Raises:
            InputError: If the task has no such split.
        """
        return len(set(prompt_digests(self.splits[split])))

    def clusters(self, split: str) -> np.ndarray:
        """Number the prompts of a split so that near-copies share a number.

        Prompts of one template are. Where all are of one template, each prompt stands for itself:
        what is found then holds for this template, and says nothing of others.

        Args:
            split: Name of the split.

        Returns:
            (N,) numbers from 0, the same for prompts of one template; copies of one prompt have
            one number in any case.

        Raises:
            InputError: If the task has no such split.

        Example:
            >>> from hagd_jax.tasks import make_prompts
            >>> prompts = make_prompts([[1], [2], [1]], [[3]] * 3, [4] * 3, [5] * 3, vocab_size=6)
            >>> texts = [Text(word, "d", "e", "f", "one template") for word in "bcb"]
            >>> Task("mine", "", {"test": prompts}, {"test": texts}).clusters("test").tolist()
            [0, 1, 0]
        """
        templates = [text.template for text in self.texts[split]]
        labels = templates if len(set(templates)) > 1 else prompt_digests(self.splits[split])
        place = {label: i for i, label in enumerate(dict.fromkeys(labels))}
        return np.array([place[label] for label in labels], int)

    def look(
        self,
        split: str,
        *,
        ablation: str | Iterable[str] = (),
        model: LanguageModel | None = None,
        dictionary: Labelled | str | None = None,
    ) -> Seen:
        """Record what a method has seen that read the prompts of one split.

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
        return look(
            self.splits[split], ablation=ablation, split=split, task=self.name, model=model,
            dictionary=dictionary,
        )  # fmt: skip


def require_split(split: Any) -> str:
    """Refuse a name that is not a split.

    Args:
        split: A name.

    Returns:
        It.

    Raises:
        InputError: If it is none of `SPLITS`.

    Example:
        >>> require_split("test")
        'test'
    """
    if not isinstance(split, str) or split not in SPLITS:
        raise InputError("split", got=repr(split)[:80], expected=f"one of {', '.join(SPLITS)}")
    return split


def read_draw(sizes: Any, seed: Any, discover: int = DISCOVERED) -> Sizes:
    """Read the arguments of functions that draw prompts.

    Args:
        sizes: `Sizes`, or None for the default ones.
        seed: Of the draw.
        discover: Prompts of the discover split, where the sizes leave that to the task.

    Returns:
        The sizes, all of them numbers.

    Raises:
        InputError: If they are something else.

    Example:
        >>> read_draw(None, 3)
        Sizes(discover=64, select=32, test=64)
    """
    require_index("seed", seed)
    if sizes is None:
        return Sizes(discover)
    require_is("sizes", sizes, Sizes, mend="For instance Sizes(discover=64, select=32, test=64).")
    return dataclasses.replace(sizes, discover=discover) if sizes.discover is None else sizes


def read_splits(name: str, texts: Any) -> dict[str, list[Text]]:
    """Read prompts written as text, by split.

    Args:
        name: Of the task.
        texts: Split → `Text`s.

    Returns:
        The same, as a dictionary of lists.

    Raises:
        InputError: If a split has another name, or a row is no `Text` or has a field that is no
            text.
    """
    example = '{"discover": [Text("The cat", "The dog", "meows", "barks", "The {animal}")]}'
    if not isinstance(texts, Mapping):
        raise InputError(
            f"texts of {name}", got=shown(texts), expected="a mapping from splits to lists of Text",
            mend=f"For instance {example}.",
        )  # fmt: skip
    found = {}
    for split, rows in texts.items():
        what = f"{require_split(split)} texts of {name}"
        if isinstance(rows, Mapping | Text):  # they list something, but no texts
            raise InputError(what, got=shown(rows), expected="a list of Text")
        listed = require_list(what, rows, "a list of Text")
        for i, row in enumerate(listed):
            what = f"{split} text {i} of {name}"
            require_is(what, row, Text, mend=f"For instance {example}.")
            for field, value in row._asdict().items():
                require_is(f"{field} of {what}", value, str)
        found[split] = listed
    return found


def _check(
    where: str, prompts: Prompts, texts: Sequence[Text], candidates: tuple[int, ...] | None
) -> None:
    if len(texts) != len(prompts):
        raise InputError(
            f"texts of {where}",
            got=f"{len(texts)} texts",
            expected=f"one for each of the {len(prompts)} prompts",
        )
    if candidates is not None:
        stray = sorted(_tokens(prompts.answer) - set(candidates))
        if stray:
            raise InputError(
                f"answers of {where}",
                got=f"tokens {stray[:5]}",
                expected="members of the task's candidates",
            )


def _require_same_spans(name: str, splits: Mapping[str, Prompts]) -> None:
    """Refuse splits of which each names other spans."""
    found = {prompts.spans for prompts in splits.values()}
    if len(found) > 1:
        raise InputError(f"spans of {name}", got=quoted(sorted(found)),
                         expected="the same in all splits")  # fmt: skip


def _repeats(splits: Mapping[str, Prompts]) -> list[str]:
    """What to say of prompts that come twice."""
    keys = {split: prompt_digests(prompts) for split, prompts in splits.items()}
    notes = [
        f"{len(own) - len(set(own))} of {len(own)} prompts of {split} are copies of others"
        for split, own in keys.items()
        if len(set(own)) < len(own)
    ]
    for one, other in itertools.combinations(keys, 2):
        both = len(set(keys[one]) & set(keys[other]))
        if both:
            notes.append(f"{both} prompts are in both {one} and {other}")
    return notes


def _tokens(ids: Any) -> set[int]:
    return {token for token in np.ravel(np.asarray(ids)).tolist() if token >= 0}
