"""From words to aligned token ids, with any tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from hagd_jax.errors import HagdError, InputError
from hagd_jax.tasks.checks import require_same_length
from hagd_jax.tasks.definition import Task, Text
from hagd_jax.tasks.prompts import Prompts, make_prompts

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer


def word_token(tokenizer: Tokenizer, word: str) -> int:
    """The token of a word that follows a space.

    Read off as what a second copy adds: encode("Mary Mary") minus encode("Mary").

    Args:
        tokenizer: Of the model.
        word: Without the space.

    Returns:
        Its id.

    Raises:
        InputError: If it takes several tokens (they are named), or is not in the vocabulary.
    """
    first, both = (
        tokenizer.encode(text, begin=False, end=False) for text in (word, f"{word} {word}")
    )
    rest = both[len(first) :]
    # An unknown-word token also counts one, but does not read as the word.
    whole = both[: len(first)] == first and len(rest) == 1
    if whole and tokenizer.decode(rest).strip() == word:
        return rest[0]
    pieces = [tokenizer.token(i) for i in rest]
    raise InputError(
        f"answer {word!r}",
        got=f"{len(pieces)} pieces {pieces}",
        expected="a word of one token",
        mend="Choose another word, or a tokenizer that knows this one.",
    )


def single_tokens(tokenizer: Tokenizer, words: Iterable[str]) -> dict[str, int]:
    """Those of the words that are one token after a space, with their ids.

    Args:
        tokenizer: Of the model.
        words: Words to try.

    Returns:
        Word → id, in the order given, no id twice.
    """
    kept: dict[str, int] = {}
    for word in words:
        try:
            token = word_token(tokenizer, word)
        except HagdError:
            continue
        if token not in kept.values():
            kept[word] = token
    return kept


def text_task(
    name: str,
    tokenizer: Tokenizer,
    texts: Mapping[str, Sequence[Text]],
    *,
    description: str,
    candidates: tuple[int, ...] | None = None,
) -> Task:
    """Build a task from prompts written as text; all splits are padded to one width.

    A prompt begins with all that the tokenizer's template puts in front of a text. It goes on with
    the answer, so what the template puts behind a text is left out.

    Args:
        name: Of the task.
        tokenizer: Of the model.
        texts: The prompts by split; answers and distractors are single words, or several with
            `|` between them.
        description: One sentence for the report.
        candidates: See `Task`.

    Returns:
        The task.

    Raises:
        InputError: If an answer is not one token or a counterfactual is not as long as its
            prompt, and as `make_prompts` says.
    """
    clean = {s: [tokenizer.encode(t.clean, end=False) for t in rows] for s, rows in texts.items()}
    width = max((len(ids) for rows in clean.values() for ids in rows), default=0)
    splits = {
        split: _prompts(tokenizer, rows, clean[split], width) for split, rows in texts.items()
    }
    kept = {split: tuple(rows) for split, rows in texts.items()}
    return Task(name, description, splits, kept, candidates)


def _prompts(
    tokenizer: Tokenizer, rows: Sequence[Text], clean: list[list[int]], width: int
) -> Prompts:
    corrupted = [tokenizer.encode(t.corrupted, end=False) for t in rows]
    for text, one, other in zip(rows, clean, corrupted, strict=True):
        require_same_length(
            f"prompt {text.clean!r} with counterfactual {text.corrupted!r}", one, other
        )
    return make_prompts(
        clean,
        corrupted,
        _word_tokens(tokenizer, [t.answer for t in rows]),
        _word_tokens(tokenizer, [t.distractor for t in rows]),
        vocab_size=tokenizer.vocab_size,
        group=[t.template for t in rows],
        pad_id=tokenizer.eos_id or 0,
        width=width,
    )


def _word_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> list[int] | list[list[int]]:
    """One token a row, or lists of them if a row has several."""
    found = [[word_token(tokenizer, word) for word in row.split("|")] for row in words]
    return found if any(len(row) > 1 for row in found) else [row[0] for row in found]
