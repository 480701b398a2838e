"""How near the splits of a task come to each other: near templates, shared words, shared prompts.

A circuit that was found on some sentences and is tested on nearly the same has not been tested.
Templates are compared by the share of words that would have to change, and the words that carry
meaning are counted for themselves: names, things and places that fill the slots, and the rest of
the sentence, with verbs and nouns in any form.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hagd_jax.errors import InputError, require_is
from hagd_jax.tasks.definition import Task, Text
from hagd_jax.tasks.lexicon import CLOSED_CLASS, PAST_TENSES

# Templates of two splits differ in at least half of the words of the longer one,
DISTANCE = 0.5
# and of the words with a meaning in the smaller of two splits at most a fifth are in the other too.
SHARED = 0.2

_SLOT = re.compile(r"\{[^{}]*\}")
_WORD = re.compile(r"\{\}|[^\W\d_]+(?:['\u2019][^\W\d_]+)?|\d+")
_PRESENT = {past: present for present, past in PAST_TENSES}
_Words = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TemplatePair:
    """A template pair holds two similar templates of different splits.

    Attributes:
        splits: Whose they are.
        templates: The two; of prompts without a template, their text.
        distance: Words to insert, delete or replace to turn one into the other, as a share of
            those of the longer one; a slot is a word.
    """

    splits: tuple[str, str]
    templates: tuple[str, str]
    distance: float


@dataclasses.dataclass(frozen=True)
class SplitPair:
    """A split pair tells what two splits have in common.

    Attributes:
        splits: Which.
        prompts: Prompts that are in both.
        words: Content words that templates of both have, in their basic form.
        words_share: The same as a share of those of the split that has fewer.
        fillers: Content words that fill slots in both.
        fillers_share: The same as a share.
    """

    splits: tuple[str, str]
    prompts: int
    words: _Words
    words_share: float
    fillers: _Words
    fillers_share: float


@dataclasses.dataclass(frozen=True)
class Overlap:
    """An overlap tells how similar the splits of a task are.

    Attributes:
        task: Its name.
        nearest: For each two splits the templates that are nearest, the nearest first.
        splits: What each two splits have in common.
    """

    task: str
    nearest: tuple[TemplatePair, ...]
    splits: tuple[SplitPair, ...]

    def problems(self, *, distance: float = DISTANCE, shared: float = SHARED) -> tuple[str, ...]:
        """List what the splits share that they should not, one sentence each.

        Args:
            distance: Least distance of templates of two splits.
            shared: Largest share of content words, in templates or in slots.

        Returns:
            The sentences; none if the splits are apart.
        """
        found = []
        for pair in self.splits:
            where = " and ".join(pair.splits)
            if pair.prompts:
                found.append(f"{pair.prompts} prompts are in both {where}")
            for what, words, share in (
                ("templates", pair.words, pair.words_share),
                ("slots", pair.fillers, pair.fillers_share),
            ):
                if share > shared:
                    found.append(
                        f"{what} of {where} share {share:.0%} of their content words: "
                        + ", ".join(words[:8])
                    )
        for near in self.nearest:
            if near.distance < distance:
                one, other = near.templates
                found.append(
                    f"{near.distance:.0%} of the words tell {one!r} ({near.splits[0]}) from "
                    f"{other!r} ({near.splits[1]})"
                )
        return tuple(found)


def overlap(task: Task, *, most: int = 3) -> Overlap:
    """Compare the splits of a task with each other.

    Prompts without words, such as bits or numbers, are compared as prompts alone: near ones are
    what such a task consists of.

    Args:
        task: A task, built in or your own.
        most: Pairs of templates that are listed for each two splits.

    Returns:
        What they have in common; `problems` judges it.

    Raises:
        InputError: If `most` is not a whole number, 1 or more.

    Example:
        >>> from hagd_jax.models import Tokenizer
        >>> from hagd_jax.tasks import text_task
        >>> row = Text("When Mary came", "When John came", "she", "he", "When {name} came")
        >>> words = Tokenizer.words("When Mary John came she he".split())
        >>> task = text_task("mine", words, {"discover": [row], "test": [row]}, description="")
        >>> overlap(task).problems()[0]
        '1 prompts are in both discover and test'
    """
    require_is("task", task, Task)
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise InputError("most", got=repr(most), expected="a whole number, 1 or more")
    parts = {split: _Part(texts) for split, texts in task.texts.items()}
    nearest: list[TemplatePair] = []
    pairs = []
    for names in itertools.combinations(parts, 2):
        one, other = (parts[name] for name in names)
        nearest += _nearest(names, one, other)[:most]
        words, fillers = (one.words & other.words), (one.fillers & other.fillers)
        pairs.append(
            SplitPair(
                names,
                len(one.prompts & other.prompts),
                tuple(sorted(words)),
                _share(words, one.words, other.words),
                tuple(sorted(fillers)),
                _share(fillers, one.fillers, other.fillers),
            )
        )
    return Overlap(task.name, tuple(sorted(nearest, key=lambda p: p.distance)), tuple(pairs))


class _Part:
    """A split as overlap sees it: its prompts, its templates as words, and its content words."""

    def __init__(self, texts: Iterable[Text]):
        self.prompts = {text.clean for text in texts}
        self.templates: dict[str, _Words] = {}
        self.words: set[str] = set()
        self.fillers: set[str] = set()
        for text in texts:
            template, filled = _taken_apart(text)
            words = tuple(_WORD.findall(_SLOT.sub("{}", template).lower()))
            if not any(map(_is_word, words)):
                continue
            self.templates[template] = words
            self.words |= _content(words)
            self.fillers |= _content(word for part in filled for word in _WORD.findall(part))


def _content(words: Iterable[str]) -> set[str]:
    """Words with a meaning, in their basic form; names have but one."""
    kept = {word for word in words if _is_word(word) and word.lower() not in CLOSED_CLASS}
    return {basic_form(word) if word.islower() else word.lower() for word in kept}


def basic_form(word: str) -> str:
    """Strip a word's ending and inflection, so that words can be compared.

    Args:
        word: In small letters.

    Example:
        >>> [basic_form(word) for word in ("gave", "handed", "keys", "glass")]
        ['giv', 'hand', 'key', 'glass']
    """
    word = _PRESENT.get(word, word)
    for ending in ("ing", "ied", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word.removesuffix(ending)
    return word


def _is_word(word: str) -> bool:
    return (len(word) > 1 and word.isalpha()) or "'" in word


def _taken_apart(text: Text) -> tuple[str, tuple[str, ...]]:
    """The template and what fills it; the prompt itself if the template does not describe it."""
    pieces = _SLOT.split(text.template)
    if len(pieces) > 1:
        found = re.fullmatch("(.+?)".join(map(re.escape, pieces)), text.clean, re.DOTALL)
        if found:
            return text.template, found.groups()
    return text.clean, ()


def _share(shared: set[str], one: set[str], other: set[str]) -> float:
    return len(shared) / max(1, min(len(one), len(other)))


def _nearest(names: Any, one: _Part, other: _Part) -> list[TemplatePair]:
    """All pairs of templates, the nearest first."""
    theirs = list(other.templates)
    found = []
    for template, words in one.templates.items():
        far = distances(words, [other.templates[name] for name in theirs])
        found += [
            TemplatePair(names, (template, name), float(value))
            for name, value in zip(theirs, far, strict=True)
        ]
    return sorted(found, key=lambda pair: pair.distance)


def distances(words: Sequence[str], others: Sequence[Sequence[str]]) -> np.ndarray:
    """Compute normalised Levenshtein distances from one sequence of words to others.

    Args:
        words: One of them.
        others: K more.

    Returns:
        (K,) from 0, the same, to 1, nothing in common.

    Example:
        >>> distances(("a", "b", "c"), [("a", "c"), ("a", "b", "c"), ("x", "y", "z")]).round(2)
        array([0.33, 0.  , 1.  ])
    """
    if not len(others):
        return np.zeros(0)
    lengths = np.array([len(other) for other in others])
    width = int(lengths.max())
    table = np.array([[*other, *[""] * (width - len(other))] for other in others], object)
    row = np.tile(np.arange(width + 1), (len(others), 1))
    for i, word in enumerate(words):
        new = np.full_like(row, i + 1)
        changed = row[:, :-1] + (table != word)
        for j in range(width):
            least = np.minimum(changed[:, j], row[:, j + 1] + 1)
            new[:, j + 1] = np.minimum(least, new[:, j] + 1)
        row = new
    return row[np.arange(len(others)), lengths] / np.maximum(np.maximum(lengths, len(words)), 1)
