"""Facts and forms: "The capital of France is" → " Paris", "we go, and last week we" → " went".

A relation is a list of (subject, object) and templates that end where the object follows. The
counterfactual names another subject of as many tokens; its object, another one, is the distractor.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.tasks import lexicon
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text
from hagd_jax.tasks.text import require_enough, single_tokens, take_turns, text_task

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer


class Relation(NamedTuple):
    """What stands in which relation to what, and how one says it.

    Attributes:
        description: One sentence for the report.
        pairs: (subject, object), the commonest first.
        templates: By split, with `{subject}`; none begins with it.
    """

    description: str
    pairs: tuple[tuple[str, str], ...]
    templates: Mapping[str, tuple[str, ...]]

    __repr__ = one_line


RELATIONS = {
    "capitals": Relation(
        "Name the capital of a country.",
        lexicon.CAPITALS,
        {
            "discover": (
                "The capital of {subject} is",
                "The name of the capital city of {subject} is",
                "As every child knows, the capital of {subject} is",
                "We are going to {subject}, to see its capital,",
            ),
            "select": (
                "The capital city of {subject} is called",
                "I live in {subject}, in the capital city of",
                "If you travel to {subject}, you should visit its capital,",
            ),
            "test": (
                "In {subject}, the capital city is",
                "On a map of {subject}, a star marks the capital,",
                "The government of {subject} sits in the capital,",
                "She moved to {subject} and found work in the capital,",
            ),
        },
    ),
    "languages": Relation(
        "Name the language of a country.",
        lexicon.LANGUAGES,
        {
            "discover": (
                "Most people in {subject} speak",
                "The official language of {subject} is",
                "He grew up in {subject}, so his mother tongue is",
                "In the schools of {subject}, children learn to read and write in",
            ),
            "select": (
                "The main language of {subject} is",
                "Before we moved to {subject}, we had to learn",
                "The newspapers of {subject} are printed in",
            ),
            "test": (
                "In {subject}, people speak",
                "The language spoken in {subject} is called",
                "She has lived in {subject} all her life and is fluent in",
                "If you want to work in {subject}, you should speak",
            ),
        },
    ),
    "continents": Relation(
        "Name the continent of a country.",
        lexicon.CONTINENTS,
        {
            "discover": (
                "The country of {subject} is in",
                "The people of {subject} live in",
                "When we flew to {subject}, it was my first time in",
                "On the map you find {subject} in",
            ),
            "select": (
                "They come from {subject}, a country in",
                "Of all continents, {subject} belongs to",
                "Our trip to {subject} was our only trip to",
            ),
            "test": (
                "The continent where {subject} lies is",
                "He is from {subject}, which is a country in",
                "We know {subject} as a state in",
                "After a year in {subject} she left the continent of",
            ),
        },
    ),
    "past_tense": Relation(
        "Say what one does every day of yesterday.",
        lexicon.PAST_TENSES,
        {
            "discover": (
                "Today they {subject}, and yesterday they",
                "Now I {subject}; last year I",
                "We often {subject}. Only last week we",
                "You {subject} every day, and this morning you",
            ),
            "select": (
                "I usually {subject}, so last night I",
                "They always {subject} in winter, and last winter they",
                "These days we {subject}, as back then we",
            ),
            "test": (
                "Every Sunday we {subject}, and last Sunday we",
                "They {subject} now, just as two years ago they",
                "Most people {subject} sometimes. Yesterday, some of them",
                "You and I {subject} a lot, and in the old days we",
            ),
        },
    ),
}


def task(relation: str, tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Prompts for a relation.

    Templates and subjects of the three splits are disjoint. Subjects take turns, and so do the
    templates, so a split has about as many prompts of each.

    Args:
        relation: One of `RELATIONS`.
        tokenizer: Of the model; objects that are not one of its tokens are left out.
        sizes: Prompts in each split.
        seed: Of the draw; the subjects and templates of a split stay the same.

    Returns:
        The task; an answer is correct if it beats every other kept object.

    Raises:
        InputError: If the tokenizer leaves a split without two subjects of as many tokens, or
            there are not as many different prompts as asked for.
    """
    sizes = sizes or Sizes()
    texts = {s: _texts(relation, tokenizer, s, getattr(sizes, s), seed) for s in SPLITS}
    tokens = single_tokens(tokenizer, (word for _, word in RELATIONS[relation].pairs))
    return text_task(
        relation,
        tokenizer,
        texts,
        description=RELATIONS[relation].description,
        candidates=tuple(sorted(tokens.values())),
    )


def subjects(
    relation: str, tokenizer: Tokenizer, split: str
) -> tuple[tuple[tuple[str, str], ...], ...]:
    """The usable subjects of a split, in groups that may stand in for each other.

    Args:
        relation: One of `RELATIONS`.
        tokenizer: Of the model.
        split: `discover`, `select` or `test`.

    Returns:
        Groups of two or more (subject, object): the objects are single tokens, and within a
        group the subjects are of as many tokens in every template.
    """
    _, pairs, templates = RELATIONS[relation]
    kept = single_tokens(tokenizer, (word for _, word in pairs))
    groups: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for subject, word in lexicon.share(pairs, split):
        if word not in kept:
            continue
        try:
            prompts = [tokenizer.encode(t.format(subject=subject)) for t in templates[split]]
        except InputError:  # a word that a closed vocabulary lacks
            continue
        groups.setdefault(tuple(map(len, prompts)), []).append((subject, word))
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _texts(relation: str, tokenizer: Tokenizer, split: str, size: int, seed: int) -> list[Text]:
    groups = subjects(relation, tokenizer, split)
    pairs = [
        (one, other)
        for group in groups
        for one, other in itertools.permutations(group, 2)
        if one[1] != other[1]
    ]
    templates = RELATIONS[relation].templates[split]
    require_enough(relation, split, size, len(pairs) * len(templates))
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    queues: dict[str, list[Text]] = {}
    for index in rng.permutation(len(pairs)):
        (subject, word), (other, distractor) = pairs[index]
        queues.setdefault(subject, []).extend(
            Text(t.format(subject=subject), t.format(subject=other), word, distractor, t)
            for t in templates
        )
    return take_turns(list(queues.values()), len(templates), size)
