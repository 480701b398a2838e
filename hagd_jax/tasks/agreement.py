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
        "The committee has decided that the {noun} beside the {other}",
        "From up here on the roof, the {noun} behind the {other}",
        "Let me show you where the {noun} with the {other}",
        "A guide explained to the visitors that the {noun} above the {other}",
        "As the police soon discovered, the {noun} near the {other}",
        "It is no secret that the {noun} we met beside the {other}",
        "During the earthquake, the {noun} beneath the {other}",
        "Scientists are not sure if the {noun} near the {other}",
        "There is a legend in which the {noun} beneath the {other}",
        "Nobody remembers why the {noun} beyond the {other}",
        "In the second scene of the movie, the {noun} beside the {other}",
        "It seems to me that the {noun} beside the {other}",
        "If, by chance, the {noun} alongside the {other}",
        "The insurance will pay only if the {noun} close to the {other}",
        "Although it was late, the {noun} right behind the {other}",
        "Sooner or later, people will notice that the {noun} by the {other}",
        "Local officials insist that the {noun} standing near the {other}",
        "Compared with the previous summer, the {noun} around the {other}",
        "Unless I am mistaken, the {noun} on the right side of the {other}",
        "The detective noticed, with some alarm, that the {noun} placed next to the {other}",
        "At the museum, the {noun} displayed with the {other}",
        "Nine times out of ten, the {noun} nearest to the {other}",
        "The latest catalog claims that the {noun} shown along with the {other}",
        "Long before the fire, the {noun} which belonged to the {other}",
        "Fortunately for all of us, the {noun} two meters from the {other}",
        "What a shame that the {noun} beyond the {other}",
        "Rumor has it that the {noun} under the {other}",
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
        "An old sailor swore, with one hand on his heart, that the {noun} above the {other}",
        "Engineers were worried mainly because the {noun} a few steps from the {other}",
        "Since early spring, or perhaps since March, the {noun} in back of the {other}",
        "If you look at it carefully, the {noun} attached to the {other}",
        "Her grandfather liked to repeat, over and over, that the {noun} next to the {other}",
        "In our village, unlike yours, the {noun} in the shade of the {other}",
        "Having examined it twice, I am certain that the {noun} with the {other}",
        "Tests in two different countries confirmed that the {noun} exposed to the {other}",
        "Despite the noise and the crowd in the square, the {noun} below the {other}",
    ),
}


def task(tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Make prompts for subject-verb agreement.

    Nouns and templates of the three splits are disjoint. Subjects, numbers and templates take
    turns. Discovery has 8 templates up to 64 prompts, and one more for every 8 prompts up to 32.

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
