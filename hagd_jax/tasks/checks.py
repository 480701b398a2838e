"""Checks that prompts fit together and fit the model, before anything is traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hagd_jax.errors import InputError, require_index, require_list, shown
from hagd_jax.tasks.spans import require_spans

if TYPE_CHECKING:
    from hagd_jax.tasks.prompts import Prompts


_WORDS = ("answer", "distractor")


def read_rows(what: str, rows: Any) -> list[list[int]]:
    """Read token ids, one sequence a prompt.

    Args:
        what: The argument, for messages.
        rows: Sequences of whole numbers; also arrays.

    Returns:
        The ids as Python integers.

    Raises:
        InputError: If it is something else.

    Example:
        >>> read_rows("clean", np.array([[1, 2], [3, 4]]))
        [[1, 2], [3, 4]]
    """
    listed = require_list(what, rows, "token ids, one sequence a prompt")
    return [read_ids(f"{what} of prompt {i}", row) for i, row in enumerate(listed)]


def read_ids(what: str, ids: Any) -> list[int]:
    """Read one sequence of token ids, as `read_rows` does."""
    if isinstance(ids, list) and all(type(token) is int and abs(token) < 2**31 for token in ids):
        return ids
    try:
        found = np.asarray(ids)
    except (ValueError, TypeError, OverflowError):
        found = np.zeros((), object)
    whole = found.dtype.kind == "i" or (found.dtype.kind == "u" and (found < 2**63).all())
    if found.ndim != 1 or (found.size and not whole):
        raise InputError(what, got=shown(ids), expected="a sequence of token ids")
    return [int(token) for token in found]


def on_host(prompts: Any) -> Any:
    """Copy prompts to the host as NumPy arrays; fields that are None stay None.

    Args:
        prompts: `Prompts` or `Choices`; their fields may be anything that NumPy reads.

    Returns:
        The same class.

    Raises:
        InputError: If a field is no array.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(prompts):
        if not field.metadata.get("pytree_node", True):
            continue
        value = getattr(prompts, field.name)
        try:
            found[field.name] = None if value is None else np.asarray(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(field.name, got=shown(value), expected="an array") from error
    return dataclasses.replace(prompts, **found)


def require_aligned(clean: Sequence[Sequence[int]], corrupted: Sequence[Sequence[int]]) -> None:
    """Refuse an empty batch, empty prompts, and counterfactuals of another length.

    Args:
        clean: Token ids, one sequence a prompt.
        corrupted: The counterfactuals.

    Raises:
        InputError: As `make_prompts` says.
    """
    if len(clean) == 0:
        raise InputError("prompts", got="none", expected="at least one")
    if len(clean) != len(corrupted):
        raise InputError(
            "corrupted", got=f"{len(corrupted)} prompts", expected=f"one for each of {len(clean)}"
        )
    for row, (one, other) in enumerate(zip(clean, corrupted, strict=True)):
        if len(one) == 0:
            raise InputError(f"prompt {row}", got="no tokens", expected="at least one")
        require_same_length(f"prompt {row}", one, other)


def require_same_length(what: str, clean: Sequence[int], corrupted: Sequence[int]) -> None:
    """Refuse a counterfactual of another length.

    Args:
        what: The prompt, for the message.
        clean: Its token ids.
        corrupted: Those of its counterfactual.

    Raises:
        InputError: If one of them is longer.
    """
    if len(clean) != len(corrupted):
        raise InputError(
            what,
            got=f"{len(clean)} clean and {len(corrupted)} corrupted tokens",
            expected="the same number",
            mend="Swap words only for words of as many tokens.",
        )


def check_prompts(prompts: Prompts, vocab_size: int) -> None:
    """Check that prompts fit together and fit a model's vocabulary.

    Args:
        prompts: The prompts, as concrete arrays.
        vocab_size: Of the model.

    Raises:
        InputError: As `make_prompts` says, and for arrays whose shapes do not agree.
    """
    require_index("vocab_size", vocab_size)
    if not hasattr(prompts, "per_row"):
        raise InputError("prompts", got=shown(prompts), expected="`Prompts`, see make_prompts")
    p = on_host(prompts)
    for field in ("clean", "corrupted", "position", "answer", "distractor", "length"):
        if getattr(p, field) is None:
            raise InputError(field, got="None", expected="an array")
    if p.clean.ndim != 2 or 0 in p.clean.shape or p.corrupted.shape != p.clean.shape:
        raise InputError(
            "clean and corrupted",
            got=f"shapes {p.clean.shape} and {p.corrupted.shape}",
            expected="one shape (N, T) with at least one prompt and one token",
        )
    for field in ("position", "answer", "distractor", "length"):
        sets = field in ("answer", "distractor") and getattr(p, field).ndim == 2
        if getattr(p, field).shape[: 1 if sets else None] != p.clean.shape[:1]:
            raise InputError(
                field, got=f"shape {getattr(p, field).shape}", expected=f"{p.clean.shape[:1]}"
            )
    if p.group is not None and p.group.shape != p.clean.shape[:1]:
        raise InputError("group", got=f"shape {p.group.shape}", expected=f"{p.clean.shape[:1]}")
    require_spans(p)
    for field in ("clean", "corrupted"):
        _require_range(field, getattr(p, field), 0, vocab_size)
    answer, distractor = (_alternatives(f, getattr(p, f), vocab_size) for f in _WORDS)
    _require_range("length", p.length, 1, p.clean.shape[1] + 1)
    _require_range("position", p.position, 0, p.length)
    same = (answer[:, :, None] == distractor[:, None]) & (answer[:, :, None] >= 0)
    if same.any():
        row, place, _ = np.argwhere(same)[0]
        raise InputError(
            f"prompt {row}",
            got=f"token {answer[row, place]} as answer and as distractor",
            expected="two different tokens",
        )


def _alternatives(field: str, tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Tokens as (N, A), after a look at them: one or more a row, −1 only where there is none."""
    if tokens.ndim == 1:
        _require_range(field, tokens, 0, vocab_size)
        return tokens[:, None]
    _require_range(field, tokens, -1, vocab_size)
    empty = np.flatnonzero((tokens < 0).all(axis=1))
    if empty.size:
        raise InputError(f"{field} of prompt {empty[0]}", got="none", expected="at least one token")
    return tokens


def _require_range(field: str, values: np.ndarray, low: int, high: int | np.ndarray) -> None:
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(field, got=f"dtype {values.dtype}", expected="integers")
    bad = np.argwhere((values < low) | (values >= high))
    if bad.size:
        row = int(bad[0][0])
        top = np.broadcast_to(high, values.shape)[tuple(bad[0])] - 1
        raise InputError(
            f"{field} of prompt {row}", got=values[tuple(bad[0])], expected=f"{low} to {top}"
        )
