"""A model whose heads matter at one position each, and prompts that name these positions."""

import dataclasses

import numpy as np

from hagd_jax.tasks import Task, Text, with_spans
from hagd_jax.testbeds import role_case

SPANS = ("first", "next", "end", "rest")


def induction():
    """A model, prompts [a][b] … [a] → [b], and the names of its two heads.

    The head that writes the previous token is read behind the first [a] alone, and the induction
    head at the end.
    """
    case = role_case("induction", "plain", 0)
    rows = []
    for row, n in zip(case.prompts.clean, case.prompts.length, strict=True):
        span = np.full(n, 3)
        first = int(np.flatnonzero(row[: n - 1] == row[n - 1])[0])
        span[[first, first + 1, n - 1]] = 0, 1, 2
        rows.append(span)
    before, after = (next(name for name, own in case.roles.items() if own == role)
                     for role in ("previous token", "induction"))  # fmt: skip
    return case.model, with_spans(case.prompts, rows, SPANS), (before, after)


def as_task(prompts, name="induction"):
    """The prompts as a task whose splits share none of them."""
    parts = {"discover": prompts[:16], "select": prompts[16:18], "test": prompts[18:]}
    texts = {
        split: tuple(
            Text(str(c), str(o), str(a), str(d), "t") for c, o, a, d in
            zip(p.clean, p.corrupted, p.answer, p.distractor, strict=True)
        )
        for split, p in parts.items()
    }  # fmt: skip
    return Task(name, "", parts, texts)


def without_spans(prompts):
    return dataclasses.replace(prompts, span=None, spans=())
