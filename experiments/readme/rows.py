"""Types of the README's rows, and the Markdown of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Row = tuple[str, str, str, str]
Rows = dict[str, Callable[[dict], list[Row]]]
GIB = 2**30


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Format a table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
