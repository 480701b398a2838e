"""Facts and forms: "The capital of France is" → " Paris", "we go, and last week we" → " went".

A relation is a list of (subject, object) and templates that end where the object follows. The
counterfactual names another subject of as many tokens; its object, another one, is the distractor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.tasks import lexicon
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text, read_draw
from hagd_jax.tasks.relation_templates import RELATIONS
from hagd_jax.tasks.spread import Candidate, first_templates, spread, suited
from hagd_jax.tasks.text import single_tokens, text_task

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer


def task(relation: str, tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Make prompts for a relation.

    Templates and subjects of the three splits are disjoint. Subjects take turns, and so do the
    templates, so a split has about as many prompts of each. Discovery has more templates where
    there are more prompts: 8 for up to 64 and one more for every further 8, up to all.

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
