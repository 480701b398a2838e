"""Indirect object identification: who gets the drink?

"When Mary and John went to the store, John gave a drink to" → " Mary" (Wang et al., 2022,
arXiv:2211.00593). The answer is the name that occurs once (the indirect object), the distractor
the one that occurs twice (the subject). The counterfactual is their ABC prompt: the three names
are replaced by three different ones, none of them in the clean prompt. It stays a grammatical
sentence of the same tokens elsewhere, and says nothing about which clean name comes next.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text
from hagd_jax.tasks.lexicon import NAMES, share, words
from hagd_jax.tasks.text import single_tokens, text_task

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer


class Scenes(NamedTuple):
    """What the prompts of one split are made of; every object takes "a".

    In a template {A} and {B} are the two names and {S} the one of them who acts. None starts with
    a name: a word at the start has no space before it, hence another token.
    """

    templates: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]


SCENES = {
    "discover": Scenes(
        templates=(
            "When {A} and {B} went to the {place}, {S} gave a {object} to",
            "After {A} and {B} met at the {place}, {S} handed a {object} to",
            "While {A} and {B} were waiting at the {place}, {S} offered a {object} to",
            "Yesterday {A} and {B} walked to the {place} together. There {S} gave the {object} to",
            "Once {A} and {B} had left the {place}, {S} passed the {object} to",
            "Then {A} and {B} had a long talk at the {place}. Afterwards {S} sent a {object} to",
            "In the morning {A} and {B} drove to the {place}, and {S} handed the {object} to",
            "Because {A} and {B} were meeting at the {place}, {S} brought a {object} to",
        ),
        places=words("store park school office station museum garden library airport beach"),
        objects=words("drink book ring ball gift letter key ticket bottle map"),
    ),
    "select": Scenes(
        templates=(
            "As {A} and {B} came out of the {place}, {S} gave a {object} to",
            "Later that day {A} and {B} went back to the {place}, where {S} offered a {object} to",
            "Last night {A} and {B} sat together at the {place}. Soon {S} handed the {object} to",
        ),
        places=words("hospital restaurant market theater church zoo"),
        objects=words("bag sandwich flower coat snack cup"),
    ),
    "test": Scenes(
        templates=(
            "Since {A} and {B} were both at the {place}, {S} gave the {object} to",
            "While {A} and {B} were cleaning the {place}, {S} offered a {object} to",
            "This morning {A} and {B} met outside the {place}, and {S} offered the {object} to",
            "Once more {A} and {B} returned to the {place}. This time {S} gave a {object} to",
            "During a break {A} and {B} walked around the {place}, and {S} offered a {object} to",
            "One day {A} and {B} rode to the {place} together. On the way {S} gave a {object} to",
        ),
        places=words("house hotel bank farm gym bakery cafe river"),
        objects=words("phone pen toy card hat box coin lamp"),
    ),
}

# Two names in the prompt, three others in its counterfactual.
NAMES_NEEDED = 5


def task(tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Prompts for indirect object identification.

    Templates, names, places and objects of the three splits are disjoint. Templates and the two
    orders (ABBA: the answer is named first; BABA: second) take turns, so they are balanced.

    Args:
        tokenizer: Of the model; names that are not one of its tokens are left out.
        sizes: Prompts in each split.
        seed: Of the draw; the word lists and their split stay the same.

    Returns:
        The task; an answer is correct if it beats the other name.

    Raises:
        InputError: If the tokenizer leaves fewer than five names for a split, or there are not as
            many different prompts as asked for.
    """
    sizes = sizes or Sizes()
    texts = {split: _texts(tokenizer, split, getattr(sizes, split), seed) for split in SPLITS}
    return text_task(
        "ioi",
        tokenizer,
        texts,
        description="Of two people in a sentence, name the one who receives something.",
    )


def names(tokenizer: Tokenizer, split: str) -> tuple[str, ...]:
    """The names of a split that are one token after a space.

    Args:
        tokenizer: Of the model.
        split: `discover`, `select` or `test`.

    Returns:
        The names.

    Raises:
        InputError: If there are fewer than five.
    """
    listed = share(NAMES, split)
    kept = tuple(single_tokens(tokenizer, listed))
    if len(kept) < NAMES_NEEDED:
        raise InputError(
            f"names of one token for the {split} split of ioi",
            got=f"{len(kept)} of the {len(listed)} listed",
            expected=f"at least {NAMES_NEEDED}",
            mend="This model's tokenizer splits first names; use another model or your own Task.",
        )
    return kept


def _texts(tokenizer: Tokenizer, split: str, size: int, seed: int) -> list[Text]:
    pool, scenes = names(tokenizer, split), SCENES[split]
    most = len(pool) * (len(pool) - 1) * len(scenes.templates) * len(scenes.places)
    if size > most:
        raise InputError(f"size of the {split} split of ioi", got=size, expected=f"at most {most}")
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    turns = itertools.cycle(itertools.product((True, False), scenes.templates))
    kept: dict[str, Text] = {}
    while len(kept) < size:
        io_first, template = next(turns)
        text = _draw(rng, pool, scenes, template, io_first)
        while text.clean in kept:
            text = _draw(rng, pool, scenes, template, io_first)
        kept[text.clean] = text
    return list(kept.values())


def _draw(
    rng: np.random.Generator,
    pool: tuple[str, ...],
    scenes: Scenes,
    template: str,
    io_first: bool,
) -> Text:
    io, s, a, b, c = (str(name) for name in rng.choice(pool, NAMES_NEEDED, replace=False))
    fill = {"place": str(rng.choice(scenes.places)), "object": str(rng.choice(scenes.objects))}
    first, second = (io, s) if io_first else (s, io)
    return Text(
        clean=template.format(A=first, B=second, S=s, **fill),
        corrupted=template.format(A=a, B=b, S=c, **fill),
        answer=io,
        distractor=s,
        template=template,
    )
