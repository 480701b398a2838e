"""Arithmetic in words: "two plus three equals" → " five".

The counterfactual changes one of the two numbers; its result is the distractor.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text, read_draw
from hagd_jax.tasks.lexicon import NUMBERS, share
from hagd_jax.tasks.spread import Candidate, spread
from hagd_jax.tasks.text import single_tokens, text_task

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer

MOST = 12  # of the numbers in a prompt
TEMPLATES = {
    "discover": (
        ("we know that {a} plus {b} equals", 1),
        ("the sum of {a} and {b} is", 1),
        ("in class we learn that {a} minus {b} equals", -1),
        ("if you take {b} from {a}, what is left is", -1),
    ),
    "select": (
        ("everybody can see that {a} plus {b} is", 1),
        ("count on from {a} by {b} and you reach", 1),
        ("the number {a} decreased by {b} becomes", -1),
        ("it is true that {a} minus {b} makes", -1),
    ),
    "test": (
        ("adding {a} to {b} gives the result", 1),
        ("the teacher wrote on the board: {a} plus {b} =", 1),
        ("together {a} cats and {b} dogs are", 1),
        ("subtract {b} from {a} and the answer is", -1),
        ("my calculator shows, for {a} minus {b}, the solution", -1),
        ("he had {a} apples and ate {b}, so he still has", -1),
    ),
}


class Sum(NamedTuple):
    """A sum is one calculation."""

    a: int
    b: int
    sign: int

    @property
    def result(self) -> int:
        """Return the number that answers the calculation."""
        return self.a + self.sign * self.b


def task(tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Make prompts for sums and differences of number words.

    Templates and pairs of numbers of the three splits are disjoint, a pair and its mirror image
    being one.

    Args:
        tokenizer: Of the model; results that are not one of its tokens are left out.
        sizes: Prompts in each split.
        seed: Of the draw; templates and pairs of a split stay the same.

    Returns:
        The task; an answer is correct if it beats every other number word.

    Raises:
        InputError: If there are not as many different prompts as asked for.
    """
    sizes = read_draw(sizes, seed)
    return text_task(
        "word_arithmetic",
        tokenizer,
        {split: _texts(tokenizer, split, getattr(sizes, split), seed) for split in SPLITS},
        description="Add or subtract two small numbers written as words.",
        candidates=tuple(sorted(single_tokens(tokenizer, NUMBERS).values())),
    )


def pairs(split: str) -> tuple[tuple[int, int], ...]:
    """List the pairs of numbers of a split, in both orders.

    Args:
        split: `discover`, `select` or `test`.

    Returns:
        (a, b) pairs from 1 to 12.
    """
    unordered = np.array(list(itertools.combinations_with_replacement(range(1, MOST + 1), 2)))
    mixed = unordered[np.random.default_rng(MOST).permutation(len(unordered))].tolist()
    own = [tuple(pair) for pair in share(mixed, split)]
    return tuple(sorted({*own, *((b, a) for a, b in own)}))


def _texts(tokenizer: Tokenizer, split: str, size: int, seed: int) -> list[Text]:
    known = single_tokens(tokenizer, NUMBERS)
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    candidates = {}
    for template, sign in TEMPLATES[split]:
        own = [Sum(*pair, sign) for pair in pairs(split)]
        own = [s for s in own if 0 <= s.result < len(NUMBERS) and NUMBERS[s.result] in known]
        found = []
        for i in rng.permutation(len(own)):
            others = [s for s in own if (s.a == own[i].a) != (s.b == own[i].b)]
            others = [s for s in others if s.result != own[i].result]
            if others:
                text = _text(template, own[i], others[rng.integers(len(others))])
                found.append(Candidate(text, (own[i].a, own[i].b, (sign, own[i].result))))
        candidates[template] = found
    return spread("word_arithmetic", tokenizer, split, size, candidates)


def _text(template: str, one: Sum, other: Sum) -> Text:
    clean, corrupted = (template.format(a=NUMBERS[s.a], b=NUMBERS[s.b]) for s in (one, other))
    return Text(clean, corrupted, NUMBERS[one.result], NUMBERS[other.result], template)
