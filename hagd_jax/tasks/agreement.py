"""Subject-verb agreement over a distractor: "The keys near the table" → " are", not " is".

Between the subject and its verb stands another noun, of the same number in half of the prompts
and of the other number in the rest (an attractor, Linzen et al., 2016, arXiv:1611.01368). The
counterfactual turns the subject's number alone. Any verb form of the right number is right.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text
from hagd_jax.tasks.lexicon import NOUNS, share
from hagd_jax.tasks.text import require_enough, single_tokens, take_turns, text_task

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer

SINGULAR, PLURAL = "is|was|has", "are|were|have"
TEMPLATES = {
    "discover": (
        "Everyone knows that the {noun} near the {other}",
        "In the end, the {noun} behind the {other}",
        "I think the {noun} beside the {other}",
        "As you can see, the {noun} with the {other}",
    ),
    "select": (
        "We noticed that the {noun} next to the {other}",
        "Today the {noun} in front of the {other}",
    ),
    "test": (
        "They said that the {noun} across from the {other}",
        "In the evening, the {noun} by the {other}",
        "It seems that the {noun} close to the {other}",
    ),
}


def task(tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Prompts for subject-verb agreement.

    Nouns and templates of the three splits are disjoint. Subjects, numbers and templates take
    turns.

    Args:
        tokenizer: Of the model; nouns whose two forms are not single tokens are left out.
        sizes: Prompts in each split.
        seed: Of the draw; nouns and templates of a split stay the same.

    Returns:
        The task; an answer is correct if the forms of the right number are likelier together
        than those of the other.

    Raises:
        InputError: If there are not as many different prompts as asked for.
    """
    sizes = sizes or Sizes()
    return text_task(
        "agreement",
        tokenizer,
        {split: _texts(tokenizer, split, getattr(sizes, split), seed) for split in SPLITS},
        description="Choose the verb form that agrees with the subject, over another noun.",
    )


def nouns(tokenizer: Tokenizer, split: str) -> tuple[tuple[str, str], ...]:
    """The nouns of a split whose singular and plural are one token each.

    Args:
        tokenizer: Of the model.
        split: `discover`, `select` or `test`.

    Returns:
        (singular, plural) pairs.
    """
    listed = share(NOUNS, split)
    known = single_tokens(tokenizer, itertools.chain.from_iterable(listed))
    return tuple(pair for pair in listed if known.keys() >= set(pair))


def _texts(tokenizer: Tokenizer, split: str, size: int, seed: int) -> list[Text]:
    pool, templates = nouns(tokenizer, split), TEMPLATES[split]
    require_enough("agreement", split, size, 4 * len(pool) * (len(pool) - 1) * len(templates))
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    # Numbers of the subject and of the other noun take turns together with the templates.
    cells = [(t, numbers) for t in templates for numbers in itertools.product((0, 1), repeat=2)]
    queues = []
    for noun in rng.permutation(len(pool)):
        others = [i for i in rng.permutation(len(pool)) if i != noun]
        queues.append(
            [_text(t, pool[noun], n, pool[other][m]) for other in others for t, (n, m) in cells]
        )
    return take_turns(queues, len(cells), size)


def _text(template: str, noun: tuple[str, str], number: int, other: str) -> Text:
    right = (SINGULAR, PLURAL)
    return Text(
        clean=template.format(noun=noun[number], other=other),
        corrupted=template.format(noun=noun[1 - number], other=other),
        answer=right[number],
        distractor=right[1 - number],
        template=template,
    )
