"""Prompts with a counterfactual, from rows of a file: tokens, splits and the finished task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.tasks.benchmarks.division import divide
from hagd_jax.tasks.benchmarks.rows import LeftOut, Skipped, require_room
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text
from hagd_jax.tasks.prompts import make_prompts

OTHER_LENGTH = "the counterfactual has another number of tokens"
OTHER_SPLIT = "its words are in several splits"
R = TypeVar("R")


class Pair(NamedTuple):
    """A pair is a prompt and its counterfactual, of as many tokens.

    Attributes:
        clean: Token ids of the prompt.
        corrupted: Token ids of the counterfactual.
        answer: The tokens that may follow the prompt.
        distractor: The tokens that may not.
        text: The same as a person reads it; its template is the cluster that the prompt is in.
        plan: The same for prompts in which every position plays the same part.
    """

    clean: list[int]
    corrupted: list[int]
    answer: tuple[int, ...]
    distractor: tuple[int, ...]
    text: Text
    plan: str


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a prompt: with what the tokenizer puts in front of a text, open at its end.

    Args:
        tokenizer: Of the model.
        text: The prompt.

    Returns:
        Token ids, at least one.

    Raises:
        Skipped: If there are none, or the tokenizer refuses the text, as where it lacks a word.
    """
    try:
        ids = tokenizer.encode(text, end=False)
    except InputError as error:
        raise Skipped("a text that the tokenizer cannot express") from error
    if not ids:
        raise Skipped("no tokens")
    return ids


def aligned(tokenizer: Tokenizer, clean: str, corrupted: str) -> tuple[list[int], list[int]]:
    """Encode a prompt and its counterfactual.

    Args:
        tokenizer: Of the model.
        clean: The prompt.
        corrupted: The counterfactual.

    Returns:
        Their token ids.

    Raises:
        Skipped: If they differ in number, or are the same.
    """
    one, other = ids_of(tokenizer, clean), ids_of(tokenizer, corrupted)
    if len(one) != len(other):
        raise Skipped(OTHER_LENGTH)
    if one == other:
        raise Skipped("the counterfactual is the prompt itself")
    return one, other


def following(tokenizer: Tokenizer, prompt: str, text: str, *, whole: bool = True) -> int:
    """Find the first token that a text adds to a prompt.

    Args:
        tokenizer: Of the model.
        prompt: The prompt.
        text: What follows, with the blank before it.
        whole: Whether the text must be a single token.

    Returns:
        The token.

    Raises:
        Skipped: If the text joins the prompt's last token, or is several tokens, or begins with
            one that says nothing.
    """
    before, both = ids_of(tokenizer, prompt), ids_of(tokenizer, prompt + text)
    if both[: len(before)] != before or len(both) == len(before):
        raise Skipped("an answer joins the last token of its prompt")
    if whole and len(both) > len(before) + 1:
        raise Skipped("an answer of several tokens")
    token = both[len(before)]
    # An unknown-word token, or a blank of its own, says nothing of the answer.
    said = tokenizer.decode([token]).strip()
    if not said or not text.strip().startswith(said):
        raise Skipped("an answer whose first token is no part of it")
    return token


def by_split(
    rows: Sequence[R], keys: Sequence[frozenset[str]], left: LeftOut
) -> dict[str, list[R]]:
    """Divide rows among the splits, so that no key is in two.

    Args:
        rows: The usable rows.
        keys: The keys of each, at least one.
        left: Counts the rows whose keys are in several splits.

    Returns:
        The rows of each split.
    """
    found: dict[str, list[R]] = {split: [] for split in SPLITS}
    for row, split in zip(rows, divide(keys), strict=True):
        if split is None:
            left.add(OTHER_SPLIT)
        else:
            found[split].append(row)
    return found


class Change(NamedTuple):
    """A change is where two texts differ, in words.

    Attributes:
        before: The words that both begin with, joined.
        words: The words of the one, from the first to the last that differs.
        others: The words of the other.
    """

    before: str
    words: list[str]
    others: list[str]


def changed(one: str, other: str) -> Change:
    """Find the words in which two texts differ.

    Args:
        one: A text.
        other: Another one.

    Returns:
        The words of either, and what stands before them.

    Example:
        >>> changed("The keys near it", "The key near it")
        Change(before='The', words=['keys'], others=['key'])
    """
    words, others = one.split(), other.split()
    start = 0
    while start < min(len(words), len(others)) and words[start] == others[start]:
        start += 1
    before, words, others = " ".join(words[:start]), words[start:], others[start:]
    while words and others and words[-1] == others[-1]:
        words.pop()
        others.pop()
    return Change(before, words, others)


def pair_task(
    name: str,
    description: str,
    tokenizer: Tokenizer,
    pairs: Mapping[str, Sequence[Pair]],
    sizes: Sizes,
    seed: int,
    left: LeftOut,
    **more: Any,
) -> Task:
    """Draw the prompts of each split, and make a task of them.

    Args:
        name: Of the task.
        description: One sentence for the report.
        tokenizer: Of the model.
        pairs: All prompts that each split could have; one that comes twice counts once.
        sizes: Prompts in each split.
        seed: Of the draw.
        left: Rows that were left out, for notes and errors.
        **more: `candidates` and further `notes` of the task.

    Returns:
        The task.

    Raises:
        InputError: If a split is larger than the number of its prompts.
    """
    different = {split: _different(pairs[split]) for split in SPLITS}
    require_room(name, sizes, {split: len(own) for split, own in different.items()}, left)
    rng, chosen = np.random.default_rng(seed), {}
    for split in SPLITS:
        order = rng.permutation(len(different[split]))[: getattr(sizes, split)]
        chosen[split] = [different[split][i] for i in order]
    width = max(len(pair.clean) for own in chosen.values() for pair in own)
    splits = {
        split: make_prompts(
            [pair.clean for pair in own], [pair.corrupted for pair in own],
            _tokens(pair.answer for pair in own), _tokens(pair.distractor for pair in own),
            vocab_size=tokenizer.vocab_size, group=[pair.plan for pair in own], width=width,
        )
        for split, own in chosen.items()
    }  # fmt: skip
    texts = {split: tuple(pair.text for pair in own) for split, own in chosen.items()}
    notes = (*left.notes(), *more.pop("notes", ()))
    return Task(name, description, splits, texts, notes=notes, **more)


def _different(pairs: Sequence[Pair]) -> list[Pair]:
    """The first of those with the same prompt."""
    first: dict[tuple[int, ...], Pair] = {}
    for pair in pairs:
        first.setdefault(tuple(pair.clean), pair)
    return list(first.values())


def _tokens(rows: Iterable[tuple[int, ...]]) -> list[int] | list[list[int]]:
    """One token a row, or lists of them if a row has several."""
    listed = [list(row) for row in rows]
    return listed if any(len(row) > 1 for row in listed) else [row[0] for row in listed]
