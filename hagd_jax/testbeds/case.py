"""A model written by hand, all of its inputs, and what is true of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.node import Node
from hagd_jax.errors import InputError, require_index, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.definition import SPLITS, Task, Text
from hagd_jax.tasks.prompts import Prompts, make_prompts
from hagd_jax.testbeds.board import BOS, Board

PROMPTS = 128
Row = tuple[str, ...]
_CONSTANT_FREE = ("mean", "resample", "counterfactual")


class Case(NamedTuple):
    """A case is a model whose true circuit is known, with all of its inputs.

    Attributes:
        name: Of the case.
        model: The model.
        prompts: All of its inputs.
        truth: Ablation → the nodes that carry the behaviour.
        why: In a sentence.
    """

    name: str
    model: LanguageModel
    prompts: Prompts
    truth: Mapping[str, frozenset[Node]]
    why: str

    __repr__ = one_line


def make_case(
    name: str,
    board: Board,
    rows: Iterable[Row],
    rule: Callable[[Row], str],
    carries: frozenset[Node],
    constant: frozenset[Node],
    why: str,
) -> Case:
    """Make a case whose prompts are rows of words, each paired with one of another answer.

    Args:
        name: Of the case.
        board: The model.
        rows: All prompts, without BOS.
        rule: Prompt → the right word.
        carries: Units that are needed under every ablation.
        constant: Units that carry a constant: needed under zero ablation as well.
        why: What makes it hard, in a sentence.

    Returns:
        The case.
    """
    rows = list(rows)
    number = {word: i for i, word in enumerate(board.words)}
    says = np.array([number[rule(row)] for row in rows])
    tokens = [[number[BOS], *(number[word] for word in row)] for row in rows]
    rng = np.random.default_rng(0)
    others = [rng.choice(np.flatnonzero(says != own)) for own in says]
    prompts = make_prompts(
        tokens, [tokens[other] for other in others], says, says[others],
        vocab_size=len(board.words),
    )  # fmt: skip
    truth = dict.fromkeys(_CONSTANT_FREE, carries) | {"zero": carries | constant}
    return Case(name, board.model(name), prompts, truth, why)


def letters(choices: Iterable[str], length: int, *, first: str = "") -> list[Row]:
    """List all rows of a number of letters, with "?" at their end."""
    start = (first,) if first else ()
    return [(*start, *row, "?") for row in itertools.product(choices, repeat=length)]


def balanced(
    rows: Sequence[Row], kind: Callable[[Row], Hashable], count: int = PROMPTS
) -> list[Row]:
    """Choose a number of different rows, taking their kinds in turn.

    Args:
        rows: All there are.
        kind: Row → its kind.
        count: How many.

    Returns:
        The rows; fewer if there are fewer.
    """
    rng = np.random.default_rng(len(rows))
    queues: dict[Hashable, list[Row]] = {}
    for i in rng.permutation(len(rows)):
        queues.setdefault(kind(rows[i]), []).append(rows[i])
    turns = itertools.zip_longest(*(queues[key] for key in sorted(queues, key=str)))
    return [row for turn in turns for row in turn if row is not None][:count]


def units(*names: str) -> frozenset[Node]:
    """Parse the names of units, such as `head 0.1`, into nodes."""
    split = (name.split() for name in names)
    return frozenset(Node(kind, *map(int, place.split("."))) for kind, place in split)


def as_task(case: Case, *, test: int | None = None, seed: int = 0) -> Task:
    """Make a task of the prompts of a case.

    Args:
        case: The case; no prompt of it is there twice.
        test: Prompts of the test split, drawn at random; three quarters of the others are those to
            discover on, the rest those to select on. If None, all splits are all inputs.
        seed: Of the draw.

    Returns:
        The task.

    Raises:
        InputError: If that leaves no prompt for another split.

    Example:
        >>> task = as_task(hagd.testbeds.hand_built()[0], test=16)
        >>> {split: len(prompts) for split, prompts in task.splits.items()}
        {'discover': 48, 'select': 17, 'test': 16}
    """
    require_is("case", case, Case)
    seed = require_index("seed", seed)
    words, p = case.model.tokenizer, case.prompts
    assert words is not None
    parts = {str(split): np.arange(len(p)) for split in SPLITS}
    if test is not None:
        test = require_index("test", test)
        if test not in range(1, len(p) - 1):
            raise InputError(
                f"test prompts of case {case.name}", got=test, expected=f"1 to {len(p) - 2}"
            )
        order = np.random.default_rng(seed).permutation(len(p))
        found = test + max(1, (len(p) - test) * 3 // 4)
        parts = {"discover": order[test:found], "select": order[found:], "test": order[:test]}
    rows = zip(p.clean.tolist(), p.corrupted.tolist(), p.answer, p.distractor, strict=True)
    texts = []
    for clean, other, right, wrong in rows:
        said = [words.decode(ids) for ids in (clean, other, [int(right)], [int(wrong)])]
        texts.append(Text(said[0], said[1], said[2], said[3], case.name))
    return Task(
        case.name,
        case.why,
        {split: p[own] for split, own in parts.items()},
        {split: tuple(texts[i] for i in own) for split, own in parts.items()},
    )
