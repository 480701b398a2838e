"""What the modules of README's tables share: rows, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Row = tuple[str, str, str, str]
Rows = dict[str, Callable[[dict], list[Row]]]
GIB = 2**30


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
