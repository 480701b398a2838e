"""Subject-verb agreement, in the rows of the feature-circuits project.

Marks et al., 2024 (arXiv:2403.19647): "The teachers beside the car" → " are", not " is". The
counterfactual has the subject in the other number. Rows of one prompt that ask for different verbs
are one prompt, of which any verb form of the right number is right.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.tasks.benchmarks import rows as limits
from hagd_jax.tasks.benchmarks.division import content
from hagd_jax.tasks.benchmarks.pairs import (
    Pair,
    aligned,
    by_split,
    changed,
    following,
    pair_task,
)
from hagd_jax.tasks.benchmarks.rows import LeftOut, Record, Skipped, drawn, json_rows
from hagd_jax.tasks.definition import Sizes, Task, Text


@dataclasses.dataclass
class _Prompt:
    """A prompt, and the verbs that its rows ask for, in their order."""

    clean: str
    corrupted: str
    answers: dict[int, str] = dataclasses.field(default_factory=dict)
    distractors: dict[int, str] = dataclasses.field(default_factory=dict)


def sva(tokenizer: Tokenizer, source: str | Path, sizes: Sizes, seed: int) -> Task:
    """Make a task of JSON lines with a prompt, its counterfactual and the verb after either.

    The fields are `clean_prefix`, `patch_prefix`, `clean_answer` and `patch_answer`. No noun is in
    two splits, in either number.

    Args:
        tokenizer: Of the model.
        source: The file.
        sizes: Prompts in each split.
        seed: Of the draw.

    Returns:
        The task; an answer is correct if the forms of the right number are likelier together.

    Raises:
        InputError: If a row is broken, naming its line and field, or too few rows fit.
    """
    rows, total = drawn(json_rows(source), limits.MOST_ROWS)
    left, prompts = LeftOut(len(rows), total), {}
    for row in rows:
        try:
            _add(prompts, tokenizer, row)
        except Skipped as reason:
            left.add(reason)
    usable = []
    for prompt in prompts.values():
        if prompt.answers.keys() & prompt.distractors.keys():
            left.add("a verb that is right in one row and wrong in another")
        else:
            usable.append(prompt)
    splits = by_split(usable, [content(one.clean, one.corrupted) for one in usable], left)
    pairs = {split: [_pair(tokenizer, one) for one in own] for split, own in splits.items()}
    return pair_task(
        "sva", "Choose the verb form that agrees with the subject.", tokenizer, pairs, sizes, seed,
        left,
    )  # fmt: skip


def _add(prompts: dict[tuple[str, str], _Prompt], tokenizer: Tokenizer, row: Record) -> None:
    """Add the verbs of a row to its prompt."""
    clean, corrupted, *verbs = (
        row.text(f) for f in ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")
    )
    if verbs[0] == verbs[1]:
        row.refuse("patch_answer", "another word than clean_answer")
    if clean == corrupted:
        row.refuse("patch_prefix", "another text than clean_prefix")
    aligned(tokenizer, clean, corrupted)
    if not content(clean, corrupted):
        raise Skipped("no words with a meaning")
    right, wrong = (following(tokenizer, clean, verb) for verb in verbs)
    one = prompts.setdefault((clean, corrupted), _Prompt(clean, corrupted))
    one.answers[right], one.distractors[wrong] = (verb.strip() for verb in verbs)


def _pair(tokenizer: Tokenizer, one: _Prompt) -> Pair:
    clean, corrupted = aligned(tokenizer, one.clean, one.corrupted)
    # Prompts with the same subject, in either number, are near-copies of each other.
    change = changed(one.clean, one.corrupted)
    subject = sorted({*change.words, *change.others})
    cluster = f"sva: {' '.join(subject)}"
    said = ["|".join(verbs.values()) for verbs in (one.answers, one.distractors)]
    text = Text(one.clean, one.corrupted, said[0], said[1], cluster)
    plan = " ".join("{}" if content(word) else word for word in one.clean.split())
    return Pair(clean, corrupted, tuple(one.answers), tuple(one.distractors), text, plan)
