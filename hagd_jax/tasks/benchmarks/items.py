"""One row of a benchmark of choices, and the fields that it is read from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hagd_jax.brief import one_line
from hagd_jax.tasks.benchmarks.rows import Skipped
from hagd_jax.tasks.choices import Choice


class Item(NamedTuple):
    """An item is one row of a benchmark.

    Attributes:
        group: Rows of one group share words, so they stay in one split.
        begins: What stands before the scored words, one a choice.
        ends: The scored words, one a choice.
        others: The counterfactual of `begins` and `ends`, joined; empty if it is another item's
            context, or if there is none.
        answer: Number of the right choice.
        options: The choices as a person reads them.
        lacks: Why there is no counterfactual; empty if there is one. Such an item counts towards
            a model's accuracy, but is no prompt of a task.
    """

    group: str
    begins: tuple[str, ...]
    ends: tuple[str, ...]
    others: tuple[str, ...]
    answer: int
    options: tuple[str, ...]
    lacks: str = ""


class Scored(NamedTuple):
    """A scored row is a row of a benchmark as choices, for the accuracy of a model.

    Attributes:
        choices: Its choices; the counterfactual of each is itself.
        answer: Number of the right one.
        group: Rows of one group share words, so they are no independent draws.
    """

    choices: tuple[Choice, ...]
    answer: int
    group: str

    __repr__ = one_line


def text_of(row: Mapping[str, Any], name: str) -> str:
    """Read a field that holds a text.

    Args:
        row: The row.
        name: Name of the field.

    Returns:
        The text without the blanks at its ends.

    Raises:
        Skipped: If it is no text, or blank.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Skipped(f"{name} is no text")
    return value.strip()


def number_of(row: Mapping[str, Any], name: str, low: int, high: int) -> int:
    """Read a field that holds a whole number, or its decimal digits.

    Args:
        row: The row.
        name: Name of the field.
        low: Smallest number allowed.
        high: Largest number allowed.

    Returns:
        The number.

    Raises:
        Skipped: If it is something else.
    """
    value = row.get(name)
    plain = isinstance(value, int | str) and not isinstance(value, bool)
    if not plain or str(value) not in map(str, range(low, high + 1)):
        raise Skipped(f"{name} is not a number from {low} to {high}")
    return int(str(value))
