"""Subject-verb agreement over a distractor: "The keys near the table" → " are", not " is".

Between the subject and its verb stands another noun, of the same number in half of the prompts
and of the other number in the rest (an attractor, Linzen et al., 2016, arXiv:1611.01368). The
counterfactual turns the subject's number alone. Any verb form of the right number is right.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text, read_draw
from hagd_jax.tasks.lexicon import NOUNS, share
from hagd_jax.tasks.spread import Candidate, first_templates, looked, spread, suited
from hagd_jax.tasks.text import single_tokens, text_task

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer

SINGULAR, PLURAL = "is|was|has", "are|were|have"
TEMPLATES = {
    "discover": (
        "Everyone knows that the {noun} near the {other}",
        "In the end, the {noun} behind the {other}",
        "I think the {noun} beside the {other}",
        "As you can see, the {noun} with the {other}",
        "Of course the {noun} next to the {other}",
    ),
    "select": (
        "Yesterday someone asked us whether the {noun} in front of the {other}",
        "Today, just like before, the {noun} close to the {other}",
        "The photo proves it, since the {noun} around the {other}",
        "What surprised him most was how the {noun} below the {other}",
    ),
    "test": (
        "According to a report in the paper, the {noun} across from the {other}",
        "My sister told me about it, and that the {noun} by the {other}",
        "Please check again if, in this picture, the {noun} on top of the {other}",
        "They say, and it may be true, that the {noun} opposite the {other}",
        "Because of the heavy rain, the {noun} to the left of the {other}",
        "He wrote in his diary that the {noun} along with the {other}",
        "Without any doubt at all, the {noun} facing the {other}",
    ),
}


def task(tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Make prompts for subject-verb agreement.

    Nouns and templates of the three splits are disjoint. Subjects, numbers and templates take
    turns.

    Args:
        tokenizer: Of the model; nouns whose two forms are not single tokens are left out.
        sizes: Prompts in each split.
        seed: Of the draw; nouns and templates of a split stay the same.

    Returns:
        The task; an answer is correct if the forms of the right number are likelier together
        than those of the other. Its spans are the `subject`, the `end`, where the other noun is,
        and the `rest`.

    Raises:
        InputError: If there are not as many different prompts as asked for.
    """
    sizes = read_draw(sizes, seed, suited(TEMPLATES["discover"]))
    return text_task(
        "agreement",
        tokenizer,
        {split: _texts(tokenizer, split, getattr(sizes, split), seed) for split in SPLITS},
        description="Choose the verb form that agrees with the subject, over another noun.",
        spans={"noun": "subject"},
    )


def nouns(tokenizer: Tokenizer, split: str) -> tuple[tuple[str, str], ...]:
    """List the nouns of a split whose singular and plural are one token each.

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
    pool = nouns(tokenizer, split)
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    pairs = list(itertools.permutations(range(len(pool)), 2))
    candidates, templates = {}, first_templates(TEMPLATES[split], size)
    for template in templates:
        own = []
        for i in rng.permutation(len(pairs))[: looked(size, templates)]:
            noun, other = pairs[i]
            for n, m in itertools.product((0, 1), repeat=2):
                text = _text(template, pool[noun], n, pool[other][m])
                # The four combinations of numbers of each template are as frequent as its nouns.
                own.append(Candidate(text, (noun, (template, n, m), (n, m))))
        candidates[template] = own
    return spread("agreement", tokenizer, split, size, candidates)


def _text(template: str, noun: tuple[str, str], number: int, other: str) -> Text:
    right = (SINGULAR, PLURAL)
    return Text(
        clean=template.format(noun=noun[number], other=other),
        corrupted=template.format(noun=noun[1 - number], other=other),
        answer=right[number],
        distractor=right[1 - number],
        template=template,
    )
