"""From words to aligned token ids, with any tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from hagd_jax.errors import HagdError, InputError, require_index, require_is, require_list
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.tasks.checks import require_same_length
from hagd_jax.tasks.definition import Task, Text, read_splits
from hagd_jax.tasks.duplicates import overlap
from hagd_jax.tasks.prompts import Prompts, make_prompts
from hagd_jax.tasks.spans import Named, text_spans, with_spans

# Templates of a task up to which its splits are compared when it is made.
_MOST_COMPARED = 300


def word_token(tokenizer: Tokenizer, word: str) -> int:
    """Find the token of a word that follows a space.

    Read off as what a second copy adds: encode("Mary Mary") minus encode("Mary").

    Args:
        tokenizer: Of the model.
        word: Without the space.

    Returns:
        Its id.

    Raises:
        InputError: If it takes several tokens (they are named), or is not in the vocabulary.
    """
    require_is("tokenizer", tokenizer, Tokenizer)
    require_is("word", word, str)
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
    """Select the words that are one token after a space, with their ids.

    Args:
        tokenizer: Of the model.
        words: Words to try.

    Returns:
        Word → id, in the order given, no id twice; what is no text is left out.

    Raises:
        InputError: If they are no list of words.
    """
    require_is("tokenizer", tokenizer, Tokenizer)
    kept: dict[str, int] = {}
    for word in require_list("words", words, "words, one token each"):
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
    spans: Named | None = None,
) -> Task:
    """Build a task from prompts written as text; all splits are padded to one width.

    A prompt begins with all that the tokenizer's template puts in front of a text. It goes on with
    the answer, so what the template puts behind a text is left out. A prompt that comes twice in a
    split is left out the second time. Notes say so, and where splits are near each other, as
    `overlap` measures it.

    Args:
        name: Of the task.
        tokenizer: Of the model.
        texts: The prompts by split; answers and distractors are single words, or several with
            `|` between them.
        description: One sentence for the report.
        candidates: See `Task`.
        spans: Which slots of the templates are spans, and what they are called, see
            `tasks.spans.text_spans`; then units can be split by span. None for no spans.

    Returns:
        The task.

    Raises:
        InputError: If the texts are no lists of `Text` by split, if an answer is not one token, if
            a counterfactual is not as long as its prompt, and as `make_prompts` says.

    Example:
        >>> text = Text("The sky is", "The sea is", "blue", "green", "The {thing} is")
        >>> words = Tokenizer.words("The sky sea is blue green".split())
        >>> text_task("colours", words, {"test": [text]}, description="A colour.").distinct("test")
        1
    """
    require_is("tokenizer", tokenizer, Tokenizer)
    read = read_splits(name, texts)
    rows, notes = {}, []
    for split, own in read.items():
        first: dict[str, Text] = {}
        for text in own:
            first.setdefault(text.clean, text)
        rows[split] = list(first.values())
        if not own:
            raise InputError(f"{split} texts of {name}", got="none", expected="at least one")
        if len(rows[split]) < len(own):
            left = len(own) - len(rows[split])
            notes.append(f"left out {left} of {len(own)} prompts of {split}: they come twice")
    clean = {s: [_encoded(tokenizer, t.clean) for t in own] for s, own in rows.items()}
    width = max((len(ids) for own in clean.values() for ids in own), default=0)
    splits = {s: _prompts(tokenizer, own, clean[s], width) for s, own in rows.items()}
    if spans is not None:
        splits = {s: with_spans(splits[s], *text_spans(tokenizer, own, spans))
                  for s, own in rows.items()}  # fmt: skip
    kept = {split: tuple(own) for split, own in rows.items()}
    made = Task(name, description, splits, kept, candidates, tuple(notes))
    for token in made.candidates or ():
        require_index("candidates", token, tokenizer.vocab_size)
    return dataclasses.replace(made, notes=(*made.notes, *_near(made)))


def _near(task: Task) -> tuple[str, ...]:
    """What to say of splits that are near each other; nothing of tasks that are very large."""
    if sum(len({text.template for text in own}) for own in task.texts.values()) > _MOST_COMPARED:
        return ()
    return tuple(f"splits are near each other: {said}" for said in overlap(task).problems())


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, end=False)


def _prompts(
    tokenizer: Tokenizer, rows: Sequence[Text], clean: list[list[int]], width: int
) -> Prompts:
    corrupted = [_encoded(tokenizer, t.corrupted) for t in rows]
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
        width=width,
    )


def _word_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> list[int] | list[list[int]]:
    """One token a row, or lists of them if a row has several."""
    found = [[word_token(tokenizer, word) for word in row.split("|")] for row in words]
    return found if any(len(row) > 1 for row in found) else [row[0] for row in found]
