"""Gendered pronouns: "So Mary is a really great friend, isn't" → " she", not " he".

The counterfactual has a name of the other gender (Mathwin et al., 2023, "Identifying a preliminary
circuit for predicting gendered pronouns in GPT-2 small").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text, read_draw
from hagd_jax.tasks.lexicon import FEMALE, MALE, share
from hagd_jax.tasks.spread import Candidate, first_templates, spread, suited
from hagd_jax.tasks.text import single_tokens, text_task

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer

PRONOUNS = ("she", "he")
TEMPLATES = {
    "discover": (
        "So {name} is a really great friend, isn't",
        "Everybody says that {name} was late because",
        "When {name} came home last night,",
        "My friend {name} left early, since",
        "If {name} wins the race,",
        "The company hired {name} in spring because",
        "All through the meeting {name} stayed silent, as though",
        "Thousands of fans cheered for {name} when",
        "There is a rumor that {name} will move to Canada as soon as",
        "Exactly two weeks after {name} moved to Boston,",
        "The jury believed {name} even though",
        "Of course {name} can speak French, can't",
        "On the day of the wedding {name} was so nervous that",
        "With a broken leg, {name} could not climb the stairs, so",
        "Perhaps {name} would sing louder if",
        "The reporters asked {name} whether",
        "Nothing could stop {name} from swimming across the lake, not even when",
        "In an interview for the local radio, {name} admitted that",
        "The bank refused to lend {name} any money until",
        "Even though {name} lived by the sea,",
        "Back in college {name} used to boast that",
        "Police arrested {name} at the border after",
        "Listen, {name} won't come to the party unless",
        "Thanks to a strict diet, {name} recovered quickly once",
        "If anyone asks where {name} is, say that",
        "You can trust {name} with secrets, because",
        "Every Sunday {name} visits the museum, where",
        "The prize surprised {name}, since",
        "Out of curiosity {name} followed the trail until",
        "Fog covered the highway, but {name} kept driving although",
        "This song always reminds {name} of the summer when",
        "How brave {name} looked when",
    ),
    "select": (
        "I heard that {name} is happy now that",
        "Yesterday {name} called to explain why",
        "We invited {name} for dinner, but",
        "Whenever {name} feels sad,",
    ),
    "test": (
        "Surely {name} makes the best soup in town, doesn't",
        "As {name} grew tired from the long walk,",
        "Nobody could find {name} at the station until",
        "The teacher praised {name} for the homework that",
        "Although {name} had studied hard for the exam,",
        "In the garden {name} fell asleep while",
        "The doctor told {name} to rest until",
        "Later that evening {name} confessed that",
        "In the accident {name} was injured so badly that",
        "Voters rejected {name} although",
        "Having missed the flight, {name} texted us that",
        "No matter how loudly {name} shouted,",
        "Since the divorce {name} rents a small apartment, where",
        "Every child in the village liked {name}, because",
        "Nowhere in the memoir does {name} mention that",
        "The moon was full, and {name} wondered whether",
    ),
}


def task(tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Make prompts for gendered pronouns.

    Names and templates of the three splits are disjoint; genders and templates take turns.
    Discovery has 8 templates up to 64 prompts, and one more for every 8 prompts up to 32.

    Args:
        tokenizer: Of the model; names that are not one of its tokens are left out.
        sizes: Prompts in each split.
        seed: Of the draw; names and templates of a split stay the same.

    Returns:
        The task; an answer is correct if it beats the other pronoun. Its spans are the `name`, the
        `end` and the `rest`.

    Raises:
        InputError: If there are not as many different prompts as asked for.
    """
    sizes = read_draw(sizes, seed, suited(TEMPLATES["discover"]))
    return text_task(
        "pronouns",
        tokenizer,
        {split: _texts(tokenizer, split, getattr(sizes, split), seed) for split in SPLITS},
        description="Refer back to a person by the pronoun of their gender.",
        spans={"name": "name"},
    )


def _texts(tokenizer: Tokenizer, split: str, size: int, seed: int) -> list[Text]:
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    pools = [
        [str(name) for name in rng.permutation(list(single_tokens(tokenizer, share(n, split))))]
        for n in (FEMALE, MALE)
    ]
    count = min(map(len, pools))
    candidates = {}
    for template in first_templates(TEMPLATES[split], size):
        names = [(i, gender) for i in rng.permutation(count) for gender in (0, 1)]
        candidates[template] = [
            Candidate(
                _text(template, pools[gender][i], str(rng.choice(pools[1 - gender])), gender),
                (pools[gender][i], gender),
            )
            for i, gender in names
        ]
    return spread("pronouns", tokenizer, split, size, candidates)


def _text(template: str, name: str, other: str, gender: int) -> Text:
    clean, corrupted = (template.format(name=n) for n in (name, other))
    return Text(clean, corrupted, PRONOUNS[gender], PRONOUNS[1 - gender], template)
