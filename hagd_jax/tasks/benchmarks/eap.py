"""Clean and corrupted prompts in the CSV files of the EAP-IG project.

Hanna et al., 2024 (arXiv:2403.17806). Every file has `clean` and `corrupted`; which other columns
it has says what is asked:

- `correct_idx`, `incorrect_idx`: the tokens of two names of the prompt (indirect objects);
- `clean_answer_idx`, `corrupted_answer_idx`: the tokens of two pronouns (gender bias);
- `answers`, `corrupted_answers`: lists of words (hypernyms);
- `country`, `corrupted_country`: words (facts);
- `label` or `correct_idx` alone: the last two digits of a year (greater-than).

Token ids are those of one tokenizer. They are taken where they say, in all rows, what the prompt
expects; if not, the words are taken from the prompt.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hagd_jax.errors import InputError
from hagd_jax.files import named
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.tasks import greater_than
from hagd_jax.tasks.benchmarks import rows as limits
from hagd_jax.tasks.benchmarks.division import content, own_words, shared_words
from hagd_jax.tasks.benchmarks.pairs import (
    Pair,
    aligned,
    by_split,
    changed,
    following,
    ids_of,
    pair_task,
)
from hagd_jax.tasks.benchmarks.rows import LeftOut, Record, Skipped, csv_rows, drawn
from hagd_jax.tasks.definition import Sizes, Task, Text

_MOST_ID = 2**31 - 1
_LIST = re.compile(r"\[(?:'[^'\[\]]*'|\"[^\"\[\]]*\"|[\s,])*\]")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_YEAR = re.compile(r"(?<!\d)\d\d(\d\d)(?!\d)")


class _Form(NamedTuple):
    """What a kind of file asks, known by its columns.

    `words` gives the answers and the distractors of a row as texts that follow its prompt, or None
    for years. `ids` names the columns of token ids, and `expected` the words that they may be.
    """

    columns: tuple[str, ...]
    description: str
    words: Callable[[Record], tuple[list[str], list[str]]] | None
    ids: tuple[str, ...] = ()
    expected: Callable[[Record], frozenset[str]] = lambda row: frozenset()


def eap(tokenizer: Tokenizer, source: str | Path, sizes: Sizes, seed: int) -> Task:
    """Make a task of a CSV file of clean and corrupted prompts.

    What a prompt is about is in one split: the words that differ in its counterfactual and the
    answers that it names; or else all of its words, but for those that more than a tenth of the
    rows have.
    `Task.notes` names the words that splits share.

    Args:
        tokenizer: Of the model.
        source: The file.
        sizes: Prompts in each split.
        seed: Of the draw.

    Returns:
        The task; an answer is correct if the right tokens are likelier together than the others.

    Raises:
        InputError: If the file has other columns, a row is broken, naming its line and field, or
            too few rows fit.
    """
    rows, total = drawn(csv_rows(source), limits.MOST_ROWS)
    left = LeftOut(len(rows), total)
    form = _form(rows, named(source))
    for row in rows:
        _check(row, form)
    known = bool(form.ids) and all(_ids_fit(tokenizer, row, form) for row in rows)
    usable, notes = [], []
    for row in rows:
        try:
            usable.append(_pair(tokenizer, row, form, known))
        except Skipped as reason:
            left.add(reason)
    if form.ids and not known:
        notes.append("answers are words of the prompts: the file's ids are of another tokenizer")
    keys = own_words([_words_of(pair) for pair in usable])
    usable = [
        pair._replace(plan=_plan(pair.plan, own)) for pair, own in zip(usable, keys, strict=True)
    ]
    splits = by_split(usable, keys, left)
    notes += shared_words(
        {split: [pair.text.clean for pair in own] for split, own in splits.items()}
    )
    return pair_task(
        "eap", form.description, tokenizer, splits, sizes, seed, left, notes=tuple(notes)
    )


def _words_of(pair: Pair) -> tuple[list[str], list[str]]:
    """The texts that tell what a prompt is about: what differs and who is named, or all of it."""
    text = pair.text
    _, words, others = changed(text.clean, text.corrupted)
    said = {*text.answer.split("|"), *text.distractor.split("|")} & _in_text(text.clean)
    return [*words, *others, *said], [text.clean, text.corrupted]


def _plan(clean: str, own: frozenset[str]) -> str:
    """The template of a prompt: its words, without those that are its own, and numbers."""
    words = clean.split()
    return " ".join("{}" if content(w) & own or w.strip(",.").isdigit() else w for w in words)


def _form(rows: Sequence[Record], where: str) -> _Form:
    """What the columns say is asked."""
    columns = set(rows[0].values) if rows else set()
    for form in _FORMS:
        if columns >= {"clean", "corrupted", *form.columns}:
            return form
    listed = "; ".join(", ".join(form.columns) for form in _FORMS)
    raise InputError(
        f"{where}: columns", got=", ".join(sorted(columns))[:200] or "no rows",
        expected=f"clean, corrupted and one of: {listed}",
    )  # fmt: skip


def _check(row: Record, form: _Form) -> None:
    """Refuse a row with a field that is not as published, whether it is used or not."""
    if row.text("clean") == row.text("corrupted"):
        row.refuse("corrupted", "another text than clean")
    for field in form.ids:
        row.whole(field, _MOST_ID)
    if form.words is None:
        field = form.columns[0]
        year = _YEAR.findall(row.text("clean"))
        if not year or row.whole(field, 99) != int(year[-1]):
            row.refuse(field, "the last two digits of the last year of four digits in clean")
    elif not form.ids:
        form.words(row)


def _ids_fit(tokenizer: Tokenizer, row: Record, form: _Form) -> bool:
    """Whether the ids of a row are the tokens of words that its prompt expects."""
    ids = [row.whole(field, _MOST_ID) for field in form.ids]
    if max(ids) >= tokenizer.vocab_size:
        return False
    words = [tokenizer.decode([token]).strip() for token in ids]
    return words[0] != words[1] and set(words) <= form.expected(row)


def _pair(tokenizer: Tokenizer, row: Record, form: _Form, known: bool) -> Pair:
    clean, corrupted = row.text("clean"), row.text("corrupted")
    ids = aligned(tokenizer, clean, corrupted)
    if form.words is None:
        year = row.whole(form.columns[0], 99)
        answer, distractor = map(tuple, greater_than.sides(*_digits(tokenizer, clean), year))
        said = f"after {year:02d}", f"before {year:02d}"
        if not answer or not distractor:
            raise Skipped("no token for a later year, or none for an earlier one")
    elif known:
        tokens = [row.whole(field, _MOST_ID) for field in form.ids]
        answer, distractor = (tokens[0],), (tokens[1],)
        said = tuple(tokenizer.decode([token]).strip() for token in tokens)
    else:
        words = form.words(row)
        answer, distractor = (_tokens(tokenizer, clean, own, form) for own in words)
        if set(answer) & set(distractor):
            raise Skipped("a token that is both right and wrong")
        said = tuple("|".join(own) for own in words)
    # No two rows are of one source; prompts that differ are draws of their own.
    text = Text(clean, corrupted, said[0], said[1], f"eap: {clean}")
    return Pair(*ids, answer, distractor, text, clean)


def _digits(tokenizer: Tokenizer, clean: str) -> tuple[int, Mapping[int, int]]:
    """The tokens that may complete a prompt's year; they depend on its last word alone."""
    digits, tokens = _after_word(tokenizer, clean.split()[-1])
    before, both = ids_of(tokenizer, clean), ids_of(tokenizer, f"{clean}{0:0{digits}d}")
    if both != [*before, tokens[0]]:
        raise Skipped("a year whose digits are joined in another way")
    return digits, tokens


@functools.lru_cache(maxsize=1000)
def _after_word(tokenizer: Tokenizer, word: str) -> tuple[int, Mapping[int, int]]:
    return greater_than.following(tokenizer, f"to {word}")


def _tokens(tokenizer: Tokenizer, clean: str, words: Sequence[str], form: _Form) -> tuple[int, ...]:
    """The tokens of the words that are one token; of a country the first one."""
    found, reasons = {}, []
    for word in words:
        try:
            whole = form.columns[0] != "country"
            found[following(tokenizer, clean, f" {word}", whole=whole)] = word
        except Skipped as reason:
            reasons.append(reason)
    if not found:
        raise reasons[0]
    return tuple(found)


def _names(row: Record) -> tuple[list[str], list[str]]:
    """The indirect object and the subject: the subject is named twice, beside the other one."""
    _, own, others = changed(row.text("clean"), row.text("corrupted"))
    if len(own) != 1 or len(others) != 1:
        raise Skipped("its names are not found in the prompt")
    subject = own[0].strip(",.")
    words = [word.strip(",.") for word in row.text("clean").split()]
    for i in range(1, len(words) - 1):
        if words[i] == "and" and subject in (words[i - 1], words[i + 1]):
            beside = words[i + 1] if words[i - 1] == subject else words[i - 1]
            if beside and beside != subject:
                return [beside], [subject]
    raise Skipped("its names are not found in the prompt")


def _pronouns(row: Record) -> tuple[list[str], list[str]]:
    """The pronoun of the stereotype, and that of the man or woman in the counterfactual."""
    words = row.text("corrupted").lower().split()
    for word, own, other in (("man", "he", "she"), ("woman", "she", "he")):
        if word in words:
            return [other], [own]
    raise Skipped("neither a man nor a woman in the counterfactual")


def _hypernyms(row: Record) -> tuple[list[str], list[str]]:
    return _listed(row, "answers"), _listed(row, "corrupted_answers")


def _countries(row: Record) -> tuple[list[str], list[str]]:
    return [row.text("country").strip()], [row.text("corrupted_country").strip()]


def _listed(row: Record, field: str) -> list[str]:
    """A list of words as Python writes it."""
    text = row.text(field)
    words = [one or other for one, other in _QUOTED.findall(text)]
    if not _LIST.fullmatch(text) or not words or not all(word.strip() for word in words):
        row.refuse(field, "a list of words, such as ['gem', 'gems']")
    return words


def _in_prompt(row: Record) -> frozenset[str]:
    return _in_text(row.text("clean"))


def _in_text(text: str) -> frozenset[str]:
    return frozenset(word.strip(",.") for word in text.split())


_FORMS = (
    _Form(("correct_idx", "incorrect_idx"), "Name who is given something, not who gives it.",
          _names, ("correct_idx", "incorrect_idx"), _in_prompt),
    _Form(("clean_answer_idx", "corrupted_answer_idx"), "Go on with the pronoun of a stereotype.",
          _pronouns, ("clean_answer_idx", "corrupted_answer_idx"),
          lambda row: frozenset(("he", "she"))),
    _Form(("answers", "corrupted_answers"), "Name what things of a kind are.", _hypernyms),
    _Form(("country", "corrupted_country"), "Name the country of a capital.", _countries),
    _Form(("label",), "Continue with a number that is greater.", None),
    _Form(("correct_idx",), "Continue with a number that is greater.", None),
)  # fmt: skip
