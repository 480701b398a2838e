"""Spans: the parts of a prompt that its template names, and which of them each token is in.

In "When Mary and John went to the store, John gave a drink to" the spans are the indirect object's
name, both mentions of the subject, and the last token, where the answer is read. Circuits whose
units are split by span are smaller at equal faithfulness (Haklay et al., 2025, arXiv:2502.04577).
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError, require_list
from hagd_jax.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hagd_jax.tasks.definition import Text
    from hagd_jax.tasks.prompts import Prompts

# Where the answer is read, and all that no other span holds.
END, REST = "end", "rest"
# More spans than a person names.
MOST = 64
P = TypeVar("P", bound="Prompts")
# Slot of a template → name of its span, the same for all texts or read off each.
Named = Mapping[str, str] | Callable[["Text"], Mapping[str, str]]


def span_names(names: Any) -> tuple[str, ...]:
    """Read the names of spans.

    Args:
        names: At least one name, none twice, of letters, digits, `_` and `-`.

    Returns:
        The names.

    Raises:
        InputError: If there is none, one comes twice, or one has other characters.

    Example:
        >>> span_names(["io", "end", "rest"])
        ('io', 'end', 'rest')
    """
    listed = require_list("names of spans", names, 'names, such as ("subject", "end", "rest")')
    if not 1 <= len(listed) <= MOST:
        raise InputError(
            "names of spans",
            got=f"{len(listed)} names",
            expected=f"1 to {MOST}",
            mend='Tasks with spans name them in `task.spans`; those of "ioi" do.',
        )
    for name in listed:
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]{1,40}", name, re.ASCII):
            raise InputError("name of a span", got=quoted(name),
                             expected="1 to 40 letters, digits, _ or -")  # fmt: skip
    if len(set(listed)) < len(listed):
        raise InputError("names of spans", got=quoted(listed), expected="each name once")
    return tuple(listed)


def with_spans(prompts: P, span: Iterable[Iterable[int]], names: Iterable[str]) -> P:
    """Record which span each token of some prompts is in.

    Args:
        prompts: N prompts of one row each.
        span: For each prompt the number of the span of each of its tokens, or an (N, T) array.
        names: S names of spans; the last holds the padding and all that nothing was named in.

    Returns:
        The same prompts with `span` and `spans`.

    Raises:
        InputError: If there is not one number for each token, a number is not below S, a name
            comes twice, or the prompts are answered by choosing.

    Example:
        >>> from hagd_jax.tasks import make_prompts
        >>> prompts = make_prompts([[1, 2], [3]], [[1, 4], [5]], [6, 7], [8, 9], vocab_size=10)
        >>> with_spans(prompts, [[0, 1], [0]], ("subject", "rest")).span.tolist()
        [[0, 1], [0, 1]]
    """
    names = span_names(names)
    if np.ndim(prompts.clean) != 2:
        raise InputError("prompts with spans", got="prompts of several rows each",
                         expected="prompts of one row, see `make_prompts`")  # fmt: skip
    count, width = np.shape(prompts.clean)
    rows = require_list("span", span, "the span of each token, one row for each prompt")
    if len(rows) != count:
        raise InputError(
            "span", got=f"{len(rows)} rows", expected=f"one for each of {count} prompts"
        )
    whole = np.full((count, width), len(names) - 1, np.int64)
    for i, (row, length) in enumerate(zip(rows, np.asarray(prompts.length).tolist(), strict=True)):
        found = np.asarray(row)
        if found.shape not in ((length,), (width,)) or not np.issubdtype(found.dtype, np.integer):
            raise InputError(f"span of prompt {i}", got=f"shape {found.shape} of {found.dtype}",
                             expected=f"{length} whole numbers, one for each token")  # fmt: skip
        whole[i, : len(found)] = found
    made = dataclasses.replace(prompts, span=whole, spans=names)
    require_spans(made)
    return dataclasses.replace(made, span=whole.astype(np.int32))


def require_spans(prompts: Prompts) -> None:
    """Refuse spans that do not fit their prompts.

    Args:
        prompts: The prompts, as concrete arrays.

    Raises:
        InputError: If there are names without numbers or numbers without names, a shape is another
            than that of the tokens, or a number has no name.
    """
    if prompts.span is None and not prompts.spans:
        return
    names, span = span_names(prompts.spans), np.asarray(prompts.span)
    if span.shape != np.shape(prompts.clean) or not np.issubdtype(span.dtype, np.integer):
        raise InputError("span", got=f"shape {span.shape} of {span.dtype}",
                         expected=f"{np.shape(prompts.clean)} whole numbers, one for each token",
                         mend="Make it with tasks.with_spans.")  # fmt: skip
    wrong = span[(span < 0) | (span >= len(names))]
    if len(wrong):
        raise InputError("span", got=int(wrong[0]), expected=f"0 to {len(names) - 1}, one of "
                         f"the {len(names)} spans {', '.join(names)}")  # fmt: skip


def slots(template: str, text: str) -> dict[str, tuple[int, int]]:
    """Find what fills the slots of a template in a text that was made of it.

    Args:
        template: With slots in braces, such as `The {thing} is`.
        text: What `template.format(...)` gave.

    Returns:
        Slot → the first character of its first place, and the one after its last.

    Raises:
        InputError: If the text was not made of the template.

    Example:
        >>> slots("The {thing} is", "The deep sea is")
        {'thing': (4, 12)}
    """
    pattern, known = "", set()
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        parts = [(template, None, None, None)]
    for literal, slot, *_ in parts:
        pattern += re.escape(literal)
        if slot is not None and slot.isidentifier():
            pattern += f"(?P={slot})" if slot in known else f"(?P<{slot}>.+?)"
            known.add(slot)
    found = re.fullmatch(pattern, text, re.DOTALL)
    if found is None:
        raise InputError("text with spans", got=quoted(text),
                         expected=f"one of the template {quoted(template)}")  # fmt: skip
    return {slot: found.span(slot) for slot in found.groupdict()}


def text_spans(
    tokenizer: Tokenizer, texts: Sequence[Text], named: Named
) -> tuple[list[list[int]], tuple[str, ...]]:
    """Find the span of each token of some texts.

    A token is in a slot's span if it holds a character of it; a blank before a word goes with the
    word. The last token, where the answer is read, is `end`, whatever it is in, and all others are
    `rest`. A span may be empty in a text.

    Args:
        tokenizer: Of the model.
        texts: The texts, of templates with slots.
        named: Slot → name of its span, in the order of the spans; or a function from a text to
            this, with the same names in the same order for all.

    Returns:
        A number for each token of each text, and the names, `end` and `rest` last.

    Raises:
        InputError: If a text was not made of its template, lacks a slot, or its names differ.

    Example:
        >>> from hagd_jax.tasks import Text
        >>> words = Tokenizer.words("The sky sea is blue green".split())
        >>> text = Text("The sky is", "The sea is", "blue", "green", "The {thing} is")
        >>> text_spans(words, [text], {"thing": "thing"})
        ([[2, 0, 1]], ('thing', 'end', 'rest'))
    """
    names: tuple[str, ...] = ()
    rows = []
    for text in texts:
        own = named(text) if callable(named) else named
        told = span_names((*own.values(), END, REST))
        names = names or told
        if told != names:
            raise InputError(f"spans of {quoted(text.clean)}", got=quoted(told),
                             expected=f"{quoted(names)}, as in the other texts")  # fmt: skip
        rows.append(_numbers(tokenizer, text, tuple(own)))
    return rows, names


def _numbers(tokenizer: Tokenizer, text: Text, wanted: tuple[str, ...]) -> list[int]:
    """The span of each token of a text, from the slots that have one."""
    ids, found = tokenizer.encode(text.clean, end=False), slots(text.template, text.clean)
    numbers = [len(wanted) + 1] * len(ids)
    for i, slot in enumerate(wanted):
        if slot not in found:
            raise InputError("slot of a span", got=quoted(slot),
                             expected=f"one of those in {quoted(text.template)}")  # fmt: skip
        first, last = found[slot]
        before = tokenizer.encode(text.clean[:first].rstrip(), end=False)
        through = tokenizer.encode(text.clean[:last], end=False)
        start, stop = _shared(before, ids), _shared(through, ids)
        # A token that goes on behind the slot begins inside it.
        stop += stop < len(through)
        numbers[start:stop] = [i] * (stop - start)
    numbers[-1] = len(wanted)
    return numbers


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
