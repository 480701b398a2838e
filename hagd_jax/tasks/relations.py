"""Facts and forms: "The capital of France is" → " Paris", "we go, and last week we" → " went".

A relation is a list of (subject, object) and templates that end where the object follows. The
counterfactual names another subject of as many tokens; its object, another one, is the distractor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.tasks import lexicon
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text, read_draw
from hagd_jax.tasks.spread import Candidate, first_templates, spread, suited
from hagd_jax.tasks.text import single_tokens, text_task

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer


class Relation(NamedTuple):
    """A relation lists pairs of words and the sentences that express how they are related.

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
        "Name the capital of a country or a state.",
        lexicon.CAPITALS,
        {
            "discover": (
                "The capital of {subject} is",
                "As every child knows, the capital of {subject} is",
                "We are going to {subject}, to see its capital,",
                "She moved to {subject} and found work in the capital,",
                "All main roads in {subject} lead to the capital,",
                "Our plane to {subject} landed in the capital,",
            ),
            "select": (
                "Most visitors who come to {subject} never leave the capital,",
                "Make a stop in {subject}, preferably in its capital,",
                "The letter was posted in {subject}, in the capital,",
                "His trip through {subject} ended late at night in the capital,",
            ),
            "test": (
                "On a map of {subject}, a star marks the capital,",
                "The government of {subject} sits in the capital,",
                "The largest airport of {subject} is close to the capital,",
                "Last summer we toured {subject} and spent a week in the capital,",
                "For years the power in {subject} has been held by men in the capital,",
                "Half of the population of {subject} is crowded around the capital,",
                "The team from {subject} played at home in the capital,",
            ),
        },
    ),
    "languages": Relation(
        "Name the language of a country.",
        lexicon.LANGUAGES,
        {
            "discover": (
                "The official language of {subject} is",
                "He grew up in {subject}, so his mother tongue is",
                "In the schools of {subject}, children learn to read and write in",
                "The national anthem of {subject} is sung in",
                "Menus in {subject} are often only in",
            ),
            "select": (
                "To translate a letter from {subject}, we need someone who knows",
                "Poets of {subject} compose their verses in",
                "Citizens of {subject} vote with ballots printed in",
                "Someone who moves to {subject} must first master",
            ),
            "test": (
                "The language spoken in {subject} is called",
                "Anyone raised in {subject} is a native speaker of",
                "She has lived in {subject} all her life and is fluent in",
                "Bedtime stories in {subject} are told in",
                "They married in {subject}, and the wedding vows were in",
                "The parliament of {subject} debates in",
                "My grandmother was born in {subject} and her accent is still",
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
                "On the map you find {subject} in",
                "Every river in {subject} flows through",
                "From space you can see {subject} and the rest of",
            ),
            "select": (
                "We know {subject} as a state in",
                "In {subject} the climate is typical of",
                "Geography lesson: {subject} is located in",
                "She wrote a book about {subject} and other places in",
            ),
            "test": (
                "The continent where {subject} lies is",
                "After a year in {subject} she left the continent of",
                "The mountains of {subject} are some of the highest in",
                "The history of {subject} is taught as the history of",
                "The war began in {subject} and soon spread over",
                "The railway from {subject} leads to other parts of",
                "The economy of {subject} is one of the largest in",
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
                "These days we {subject}, as back then we",
                "Every Sunday we {subject}, and last Sunday we",
                "All of them {subject} each week, and a week ago all of them",
            ),
            "select": (
                "Did the old man {subject}? Indeed he",
                "Now write it in the past: I {subject} becomes I",
                "When asked whether they {subject}, he replied that they once",
                "In class: the verb is {subject}, and its past form is",
            ),
            "test": (
                "Every morning the boys {subject}, and this morning the boys",
                "The workers {subject} at noon, as the workers before them",
                "Do you {subject}? No, but in school I",
                "How often do they {subject}? In May they",
                "The women {subject} just like their mothers",
                "Did they {subject}? Yes, they",
                "Here is how to change the tense of a sentence: they {subject}, they",
            ),
        },
    ),
}


def task(relation: str, tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Make prompts for a relation.

    Templates and subjects of the three splits are disjoint. Subjects take turns, and so do the
    templates, so a split has about as many prompts of each.

    Args:
        relation: One of `RELATIONS`.
        tokenizer: Of the model; objects that are not one of its tokens are left out.
        sizes: Prompts in each split.
        seed: Of the draw; the subjects and templates of a split stay the same.

    Returns:
        The task; an answer is correct if it beats every other kept object. Its spans are the
        `subject`, the `end` and the `rest`.

    Raises:
        InputError: If the tokenizer leaves a split without two subjects of as many tokens, or
            there are not as many different prompts as asked for.
    """
    _require_relation(relation)
    sizes = read_draw(sizes, seed, suited(RELATIONS[relation].templates["discover"]))
    texts = {s: _texts(relation, tokenizer, s, getattr(sizes, s), seed) for s in SPLITS}
    tokens = single_tokens(tokenizer, (word for _, word in RELATIONS[relation].pairs))
    return text_task(
        relation,
        tokenizer,
        texts,
        description=RELATIONS[relation].description,
        candidates=tuple(sorted(tokens.values())),
        spans={"subject": "subject"},
    )


def subjects(
    relation: str, tokenizer: Tokenizer, split: str
) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Group the usable subjects of a split by what can replace each other.

    Args:
        relation: One of `RELATIONS`.
        tokenizer: Of the model.
        split: `discover`, `select` or `test`.

    Returns:
        Groups of two or more (subject, object): the objects are single tokens, and within a
        group the subjects are of as many tokens in every template.
    """
    _require_relation(relation)
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


def _require_relation(relation: Any) -> None:
    if not isinstance(relation, str) or relation not in RELATIONS:
        raise InputError(
            "relation", got=repr(relation)[:80], expected=f"one of {', '.join(RELATIONS)}"
        )


def _texts(relation: str, tokenizer: Tokenizer, split: str, size: int, seed: int) -> list[Text]:
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    pairs = []
    for group in subjects(relation, tokenizer, split):
        for one in group:
            others = [other for other in group if other[1] != one[1]]
            if others:
                pairs.append((one, others))
    candidates = {}
    for template in first_templates(RELATIONS[relation].templates[split], size):
        own = []
        for i in rng.permutation(len(pairs)):
            (subject, word), others = pairs[i]
            other, distractor = others[rng.integers(len(others))]
            said = [template.format(subject=name) for name in (subject, other)]
            text = Text(said[0], said[1], word, distractor, template)
            own.append(Candidate(text, (subject,)))
        candidates[template] = own
    return spread(relation, tokenizer, split, size, candidates)
