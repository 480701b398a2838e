"""HellaSwag (Zellers et al., 2019, arXiv:1905.07830): which of four endings goes on?

Endings are scored after the context, cleaned as lm-evaluation-harness does. The counterfactual is
another item's context of as many tokens, so that no ending is favoured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hagd_jax.tasks.benchmarks.items import Item, number_of, text_of
from hagd_jax.tasks.benchmarks.rows import Skipped

# The end of a sentence, and what separates it from the next one.
_STOP = re.compile(r"[.!?][\"')\]]*\s+")


def hellaswag(row: Mapping[str, Any]) -> Item:
    """Read one row of HellaSwag.

    Args:
        row: With `ctx_a` and `ctx_b` (or `ctx`), four `endings`, `label` and perhaps
            `activity_label` and `source_id`.

    Returns:
        The item.

    Raises:
        Skipped: If something is missing or does not fit, saying what.

    Example:
        >>> row = {"ctx": "A man sits. then he", "endings": ["stands.", "flies."], "label": 0}
        >>> hellaswag(row).begins[0]
        'A man sits. Then he'
    """
    endings = row.get("endings")
    if not isinstance(endings, Sequence) or isinstance(endings, str) or len(endings) < 2:
        raise Skipped("endings are not a list of two or more")
    if not all(isinstance(ending, str) and ending.strip() for ending in endings):
        raise Skipped("an ending is no text")
    answer = number_of(row, "label", 0, len(endings) - 1)
    if isinstance(row.get("ctx_a"), str) and isinstance(row.get("ctx_b"), str):
        context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}"
    else:
        context = begun(text_of(row, "ctx"))
    label = row.get("activity_label")
    context = cleaned(f"{label}: {context}" if isinstance(label, str) else context)
    if not context:
        raise Skipped("ctx is empty")
    group = str(row.get("source_id") or context)
    ends = tuple(" " + cleaned(ending) for ending in endings)
    if not all(map(str.strip, ends)):
        raise Skipped("an ending is no text")
    return Item(group, (context,) * len(ends), ends, (), answer, tuple(map(str.strip, ends)))


def begun(context: str) -> str:
    """Capitalise the sentence that a context breaks off in, where `ctx_a` and `ctx_b` are joined.

    The harness joins `ctx_a` and the capitalised `ctx_b`; in `ctx` they are joined as they are.

    Args:
        context: The field `ctx`.

    Returns:
        The same, with the last sentence capitalised if it is not complete.

    Example:
        >>> begun("A man sits. then the man in Red"), begun("All is said. the end.")
        ('A man sits. Then the man in red', 'All is said. the end.')
    """
    end = 0
    for found in _STOP.finditer(context):
        end = found.end()
    last = context[end:]
    complete = last.rstrip(" \"')]")[-1:] in (".", "!", "?")
    if not end or complete or not last[:1].islower():
        return context
    return context[:end] + last.capitalize()


def cleaned(text: str) -> str:
    """Remove the marks of the how-to pages that contexts were taken from, as the harness does.

    That is: " [title]" is a full stop, other brackets go, and each two blanks become one.

    Args:
        text: A context or an ending.

    Returns:
        The text without them.

    Example:
        >>> cleaned("[header] How to sew [title] Take a needle. [step] It is sharp.")
        ' How to sew. Take a needle. It is sharp.'
    """
    lines = text.strip().replace(" [title]", ". ").split("\n")
    return "\n".join(map(_without_brackets, lines)).replace("  ", " ")


def _without_brackets(line: str) -> str:
    """Without what stands in brackets, up to the next closing one; in linear time."""
    kept, start = [], 0
    while (opened := line.find("[", start)) >= 0 and (closed := line.find("]", opened)) >= 0:
        kept.append(line[start:opened])
        start = closed + 1
    return "".join([*kept, line[start:]])
