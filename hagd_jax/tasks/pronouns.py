"""Gendered pronouns: "So Mary is a really great friend, isn't" → " she", not " he".

The counterfactual has a name of the other gender (Mathwin et al., 2023, "Identifying a preliminary
circuit for predicting gendered pronouns in GPT-2 small").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text
from hagd_jax.tasks.lexicon import FEMALE, MALE, share
from hagd_jax.tasks.text import require_enough, single_tokens, take_turns, text_task

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer

PRONOUNS = ("she", "he")
TEMPLATES = {
    "discover": (
        "So {name} is a really great friend, isn't",
        "Everybody says that {name} was late because",
        "When {name} came home last night,",
        "My friend {name} left early, since",
    ),
    "select": (
        "I heard that {name} is happy because",
        "Yesterday {name} called to say that",
    ),
    "test": (
        "Surely {name} is a very good cook, isn't",
        "As {name} was tired after the long walk,",
        "We met {name} at the station, where",
    ),
}


def task(tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Prompts for gendered pronouns.

    Names and templates of the three splits are disjoint; genders and templates take turns.

    Args:
        tokenizer: Of the model; names that are not one of its tokens are left out.
        sizes: Prompts in each split.
        seed: Of the draw; names and templates of a split stay the same.

    Returns:
        The task; an answer is correct if it beats the other pronoun.

    Raises:
        InputError: If there are not as many different prompts as asked for.
    """
    sizes = sizes or Sizes()
    return text_task(
        "pronouns",
        tokenizer,
        {split: _texts(tokenizer, split, getattr(sizes, split), seed) for split in SPLITS},
        description="Refer back to a person by the pronoun of their gender.",
    )


def _texts(tokenizer: Tokenizer, split: str, size: int, seed: int) -> list[Text]:
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    pools = [
        [str(name) for name in rng.permutation(list(single_tokens(tokenizer, share(n, split))))]
        for n in (FEMALE, MALE)
    ]
    count, templates = min(map(len, pools)), TEMPLATES[split]
    require_enough("pronouns", split, size, 2 * count * count * len(templates))
    queues = []
    for i in range(count):
        for gender in (0, 1):
            others = np.roll(pools[1 - gender][:count], -i).tolist()
            uses = [(other, template) for other in others for template in templates]
            queues.append([_text(t, pools[gender][i], other, gender) for other, t in uses])
    return take_turns(queues, len(templates), size)


def _text(template: str, name: str, other: str, gender: int) -> Text:
    clean, corrupted = (template.format(name=n) for n in (name, other))
    return Text(clean, corrupted, PRONOUNS[gender], PRONOUNS[1 - gender], template)
