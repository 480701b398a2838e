"""Country capitals: "The capital of France is" → " Paris".

The counterfactual names another country of as many tokens; its capital is the distractor.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.tasks.base import SPLITS, Sizes, Task, Text
from hagd_jax.tasks.lexicon import CAPITALS, share
from hagd_jax.tasks.text import single_tokens, text_task

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer

TEMPLATES = {
    "discover": (
        "The capital of {country} is",
        "The name of the capital city of {country} is",
        "As every child knows, the capital of {country} is",
        "We are going to {country}, to see its capital,",
    ),
    "select": (
        "The capital city of {country} is called",
        "I live in {country}, in the capital city of",
        "If you travel to {country}, you should visit its capital,",
    ),
    "test": (
        "In {country}, the capital city is",
        "On a map of {country}, a star marks the capital,",
        "The government of {country} sits in the capital,",
        "She moved to {country} and found work in the capital,",
    ),
}


def task(tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Prompts for the capitals of countries.

    Templates and countries of the three splits are disjoint. Countries take turns, and so do the
    templates, so a split has about as many prompts of each.

    Args:
        tokenizer: Of the model; capitals that are not one of its tokens are left out.
        sizes: Prompts in each split.
        seed: Of the draw; the countries and templates of a split stay the same.

    Returns:
        The task; an answer is correct if it beats every other kept capital.

    Raises:
        InputError: If the tokenizer leaves a split without two countries of as many tokens, or
            there are not as many different prompts as asked for.
    """
    sizes = sizes or Sizes()
    texts = {split: _texts(tokenizer, split, getattr(sizes, split), seed) for split in SPLITS}
    tokens = single_tokens(tokenizer, (capital for _, capital in CAPITALS))
    return text_task(
        "capitals",
        tokenizer,
        texts,
        description="Name the capital of a country.",
        candidates=tuple(sorted(tokens.values())),
    )


def countries(tokenizer: Tokenizer, split: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    """The usable countries of a split, in groups that may stand in for each other.

    Args:
        tokenizer: Of the model.
        split: `discover`, `select` or `test`.

    Returns:
        Groups of two or more (country, capital): the capitals are single tokens, and within a
        group the countries are of as many tokens in every template.
    """
    kept = single_tokens(tokenizer, (capital for _, capital in CAPITALS))
    groups: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for country, capital in share(CAPITALS, split):
        if capital not in kept:
            continue
        try:
            prompts = [tokenizer.encode(t.format(country=country)) for t in TEMPLATES[split]]
        except InputError:  # a word that a closed vocabulary lacks
            continue
        groups.setdefault(tuple(map(len, prompts)), []).append((country, capital))
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _texts(tokenizer: Tokenizer, split: str, size: int, seed: int) -> list[Text]:
    groups = countries(tokenizer, split)
    pairs = [pair for group in groups for pair in itertools.permutations(group, 2)]
    most = len(pairs) * len(TEMPLATES[split])
    if size > most:
        raise InputError(
            f"size of the {split} split of capitals",
            got=size,
            expected=f"at most {most}, from {sum(map(len, groups))} countries whose capital is one "
            "token",
            mend="Ask for fewer prompts, or use a model whose tokenizer keeps city names whole.",
        )
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    return _take_turns(rng, pairs, TEMPLATES[split], size)


def _take_turns(
    rng: np.random.Generator,
    pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]],
    templates: Sequence[str],
    size: int,
) -> list[Text]:
    """Different prompts, going round the countries and, for each of them, round the templates."""
    queues: dict[str, list[Text]] = {}
    for index in rng.permutation(len(pairs)):
        (country, capital), (other, other_capital) = pairs[index]
        queues.setdefault(country, []).extend(
            Text(
                clean=template.format(country=country),
                corrupted=template.format(country=other),
                answer=capital,
                distractor=other_capital,
                template=template,
            )
            for template in templates
        )
    for turn, queue in enumerate(queues.values()):
        # So that the first round over the countries uses all templates.
        rotation = turn % len(templates)
        queue[:] = queue[rotation:] + queue[:rotation]
    rounds = itertools.zip_longest(*queues.values())
    texts = (text for turn in rounds for text in turn if text is not None)
    return list(itertools.islice(texts, size))
