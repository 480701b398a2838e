"""WinoGrande and HellaSwag as tasks, and all their rows as choices whose accuracy is measured.

Texts are cleaned and scored as lm-evaluation-harness does: `acc` goes by the log-probability of a
choice, `acc_norm` by that a character of it, the blank before it not counted. A prompt counts as
right by `acc_norm`, since endings differ in length; in WinoGrande both are the same, as the choices
share their words.

Rows with a field that is not as published are left out and counted, as those that do not fit are:
published test files have no answers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hagd_jax.errors import InputError, MissingDependencyError
from hagd_jax.files import read_jsonl
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.tasks.benchmarks import rows as limits
from hagd_jax.tasks.benchmarks.hellaswag import hellaswag
from hagd_jax.tasks.benchmarks.items import Item, Scored
from hagd_jax.tasks.benchmarks.pairs import OTHER_LENGTH, ids_of
from hagd_jax.tasks.benchmarks.rows import LeftOut, Skipped, drawn, require_room
from hagd_jax.tasks.benchmarks.winogrande import winogrande
from hagd_jax.tasks.choices import Choice, make_choices
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text

# Of ten parts that rows fall into by their group, those of each split.
_PARTS = {"discover": (0, 1, 2, 3), "select": (4, 5), "test": (6, 7, 8, 9)}
_HUB = {
    "winogrande": ("allenai/winogrande", "winogrande_xl"),
    "hellaswag": ("Rowan/hellaswag", None),
}
_DESCRIPTIONS = {
    "winogrande": "Which of two things or people does the gap mean?",
    "hellaswag": "Which of four endings goes on from what was said? Right is meant by acc_norm.",
}
READERS: dict[str, Callable[[Mapping[str, Any]], Item]] = {
    "winogrande": winogrande, "hellaswag": hellaswag,
}  # fmt: skip
_Pool = list[tuple[Item, list[Choice]]]


def choosing_task(
    name: str, tokenizer: Tokenizer, source: str | Path, sizes: Sizes, seed: int
) -> Task:
    """Make a task of WinoGrande or HellaSwag, see `benchmarks.task`.

    Which split a row may be in depends on its text alone, and rows that share words (twins, one
    source) are in the same.

    Args:
        name: `winogrande` or `hellaswag`.
        tokenizer: Of the model.
        source: A JSONL file; the validation split on the Hugging Face hub if empty.
        sizes: Prompts in each split.
        seed: Of which rows are taken.

    Returns:
        The task.

    Raises:
        InputError: If the file cannot be read, or too few of its rows fit.
        MissingDependencyError: If there is no file, and no package `datasets`.
    """
    found, total = drawn(_lines(name, source), limits.MOST_ROWS)
    left, rng = LeftOut(len(found), total), np.random.default_rng(seed)
    items = _by_split(READERS[name], found, tokenizer, left)
    # A context of another item is needed for each.
    require_room(name, sizes, {split: len(own) for split, own in items.items()}, left, least=2)
    splits, texts = {}, {}
    for split in SPLITS:
        pool = [items[split][i] for i in rng.permutation(len(items[split]))]
        if not pool[0][0].others:
            pool = _with_other_contexts(pool)
        chosen = pool[: getattr(sizes, split)]
        splits[split] = make_choices(
            [choices for _, choices in chosen], [item.answer for item, _ in chosen],
            vocab_size=tokenizer.vocab_size,
        )  # fmt: skip
        texts[split] = tuple(_said(tokenizer, name, item, own) for item, own in chosen)
    return Task(name, _DESCRIPTIONS[name], splits, texts, notes=left.notes())


def scored_items(
    name: str, tokenizer: Tokenizer, source: str | Path
) -> tuple[list[Scored], tuple[str, ...]]:
    r"""Read all rows of WinoGrande or HellaSwag as choices, for a model's accuracy.

    No counterfactual is needed, and no split is made. Rows are cut into context and scored tokens
    as lm-evaluation-harness does it, also where a token reaches across.

    Args:
        name: `winogrande` or `hellaswag`.
        tokenizer: Of the model.
        source: A JSONL file; the validation split on the hub if empty.

    Returns:
        The rows in the order of the file, and a note for each reason to leave some out.

    Raises:
        InputError: If the file cannot be read.
        MissingDependencyError: If there is no file, and no package `datasets`.

    Example:
        >>> row = '{"sentence": "a b as _ fell.", "option1": "a", "option2": "b", "answer": "1"}'
        >>> written = Path("one.jsonl").write_text(row)
        >>> words = Tokenizer.words(["a", "b", "as", "fell."])
        >>> scored_items("winogrande", words, "one.jsonl")[0][0].choices[0].clean
        [0, 1, 2, 0, 3]
    """
    found, total = drawn(_lines(name, source), limits.MOST_ROWS)
    left, kept = LeftOut(len(found), total), []
    for row in found:
        try:
            item = READERS[name](_mapping(row))
            kept.append(Scored(tuple(_harness(tokenizer, item)), item.answer, item.group))
        except Skipped as reason:
            left.add(reason)
    return kept, left.notes()


def _harness(tokenizer: Tokenizer, item: Item) -> Iterator[Choice]:
    """The choices of an item, cut where the context alone would end."""
    for begin, end in zip(item.begins, item.ends, strict=True):
        before, whole = (ids_of(tokenizer, text) for text in (begin, begin + end))
        if len(before) >= len(whole):
            raise Skipped("no token of their own for the scored words")
        yield Choice(whole, whole, (len(before), len(whole)), characters(end))


def characters(end: str) -> float:
    """Count the characters of scored words as lm-evaluation-harness does, without blanks."""
    return float(len(end.strip(" ")))


def _by_split(
    reader: Callable[[Mapping[str, Any]], Item],
    rows: list[Any],
    tokenizer: Tokenizer,
    left: LeftOut,
) -> dict[str, _Pool]:
    """The usable rows of each split, with their tokens."""
    seen: set[tuple] = set()
    items: dict[str, _Pool] = {split: [] for split in SPLITS}
    for row in rows:
        try:
            item = reader(_mapping(row))
            if item.lacks:
                raise Skipped(item.lacks)
            choices = _choices(tokenizer, item)
        except Skipped as reason:
            left.add(reason)
            continue
        key = (item.begins, item.ends)
        if key in seen:
            left.add("the same prompt as another row")
            continue
        seen.add(key)
        part = zlib.crc32(item.group.encode()) % 10
        items[next(split for split in SPLITS if part in _PARTS[split])].append((item, choices))
    return items


def _lines(name: str, source: str | Path) -> Iterable[Any]:
    """Every line of a file as JSON; of one that is not, what is wrong with it."""
    if not source:
        return _hub(name)
    lines = read_jsonl(
        Path(source), bounds=limits.ROW, broken=lambda number, problem: problem, error=InputError
    )
    return (row for _, row in lines)


def _hub(name: str) -> Iterable[Any]:
    path, config = _HUB[name]
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} without a file needs the package datasets", got="none installed",
            mend=f"Name a file, as {name}:dev.jsonl, or pip install 'hagd-jax[data]'.",
        ) from error  # fmt: skip
    return datasets.load_dataset(path, config, split="validation")


def _mapping(row: Any) -> Mapping[str, Any]:
    if isinstance(row, InputError):
        raise Skipped("the line is not JSON in Unicode")
    if not isinstance(row, Mapping):
        raise Skipped("not a JSON object")
    return row


def _choices(tokenizer: Tokenizer, item: Item) -> list[Choice]:
    """The choices of an item as tokens; the corrupted side of a context comes later."""
    made = []
    for i, (begin, end) in enumerate(zip(item.begins, item.ends, strict=True)):
        before, whole = (ids_of(tokenizer, text) for text in (begin, begin + end))
        if whole[: len(before)] != before or len(whole) == len(before):
            raise Skipped("the tokenizer has a token across the start of the scored words")
        other = ids_of(tokenizer, item.others[i]) if item.others else whole
        if len(other) != len(whole):
            raise Skipped(OTHER_LENGTH)
        made.append(Choice(whole, other, (len(before), len(whole)), characters(end)))
    return made


def _with_other_contexts(pool: _Pool) -> _Pool:
    """Contexts of the items that come next, their last tokens, as many as the own one has."""
    contexts = [choices[0].clean[: choices[0].scored[0]] for _, choices in pool]
    # A token that begins all of them, such as BOS, stays where it is.
    fixed = int(len({context[0] for context in contexts}) == 1)
    changed = []
    for i, (item, choices) in enumerate(pool):
        size, tail, turn = len(contexts[i]), [], i
        while len(tail) < size - fixed:
            turn += 1
            tail = [*tail, *contexts[turn % len(pool)][fixed:]]
            if turn > i + len(pool) * size:
                raise InputError("contexts", got="only empty ones", expected="some words")
        other = [*contexts[i][:fixed], *tail[len(tail) - (size - fixed) :]]
        changed.append((item, [c._replace(corrupted=[*other, *c.clean[size:]]) for c in choices]))
    return changed


def _said(tokenizer: Tokenizer, name: str, item: Item, choices: list[Choice]) -> Text:
    right = choices[item.answer]
    others = [option for i, option in enumerate(item.options) if i != item.answer]
    clean, corrupted = (tokenizer.decode(list(ids)) for ids in (right.clean, right.corrupted))
    # Rows of one source are near each other; `Task.clusters` goes by this.
    cluster = f"{name}: {item.group}"
    return Text(clean, corrupted, item.options[item.answer], "|".join(others), cluster)
