"""WinoGrande and HellaSwag, from files in their own JSONL schema.

WinoGrande (Sakaguchi et al., 2019, arXiv:1907.10641): which of two referents fills the gap? As by
Trinh & Le (2018), the words after the gap are scored with either referent in it. The counterfactual
exchanges the referents everywhere else in the sentence, so that the other one is right.

HellaSwag (Zellers et al., 2019, arXiv:1905.07830): which of four endings goes on? Endings are
scored after the context, cleaned as lm-evaluation-harness does. The counterfactual is another
item's context of as many tokens, so that no ending is favoured.

Texts are cleaned and scored as lm-evaluation-harness does: `acc` goes by the log-probability of a
choice, `acc_norm` by that a character of it, the blank before it not counted. A prompt counts as
right by `acc_norm`, since endings differ in length; in WinoGrande both are the same, as the choices
share their words.
"""

from __future__ import annotations

import collections
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.errors import InputError, MissingDependencyError, require_is
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.tasks.choices import Choice, make_choices
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text, read_draw

# Of ten parts that rows fall into by their group, those of each split.
_PARTS = {"discover": (0, 1, 2, 3), "select": (4, 5), "test": (6, 7, 8, 9)}
_HUB = {
    "winogrande": ("allenai/winogrande", "winogrande_xl"),
    "hellaswag": ("Rowan/hellaswag", None),
}


class Skipped(Exception):
    """A row of a benchmark is left out for the reason given."""


class Item(NamedTuple):
    """An item is one row of a benchmark.

    Attributes:
        group: Rows of one group share words, so they stay in one split.
        begins: What stands before the scored words, one a choice.
        ends: The scored words, one a choice.
        others: The counterfactual of `begins` and `ends`, joined; empty if it is another item's
            context.
        answer: Number of the right choice.
        options: The choices as a person reads them.
    """

    group: str
    begins: tuple[str, ...]
    ends: tuple[str, ...]
    others: tuple[str, ...]
    answer: int
    options: tuple[str, ...]


def winogrande(row: Mapping[str, Any]) -> Item:
    """Read one row of WinoGrande.

    Args:
        row: With `sentence`, `option1`, `option2`, `answer` ("1" or "2") and perhaps `qID`.

    Returns:
        The item.

    Raises:
        Skipped: If something is missing or does not fit, saying what.

    Example:
        >>> row = {"sentence": "The cup broke the plate as _ fell.", "option1": "cup"}
        >>> winogrande(row | {"option2": "plate", "answer": "1"}).others[0]
        'The plate broke the cup as cup fell.'
    """
    sentence, *options = (_text(row, name) for name in ("sentence", "option1", "option2"))
    answer = _number(row, "answer", 1, 2) - 1
    if sentence.count("_") != 1:
        raise Skipped(f"{sentence.count('_')} gaps in the sentence, not 1")
    if options[0] == options[1]:
        raise Skipped("both options are the same")
    words = re.compile("|".join(rf"\b{re.escape(o)}\b" for o in sorted(options, key=len)[::-1]))
    if set(words.findall(sentence)) != set(options):
        raise Skipped("an option is not in the sentence, so referents cannot be exchanged")
    exchanged = words.sub(lambda found: options[found[0] == options[0]], sentence)
    before, after = sentence.split("_")
    if not after.strip():
        raise Skipped("nothing after the gap")
    group = re.sub(r"-\d+$", "", str(row.get("qID") or before))
    return Item(
        group,
        tuple(before + option for option in options),
        (after, after),
        tuple(exchanged.replace("_", option) for option in options),
        answer,
        tuple(options),
    )


def hellaswag(row: Mapping[str, Any]) -> Item:
    """Read one row of HellaSwag.

    Args:
        row: With `ctx` (or `ctx_a` and `ctx_b`), four `endings`, `label` and perhaps
            `activity_label` and `source_id`.

    Returns:
        The item.

    Raises:
        Skipped: If something is missing or does not fit, saying what.
    """
    endings = row.get("endings")
    if not isinstance(endings, Sequence) or isinstance(endings, str) or len(endings) < 2:
        raise Skipped("endings are not a list of two or more")
    if not all(isinstance(ending, str) and ending.strip() for ending in endings):
        raise Skipped("an ending is no text")
    answer = _number(row, "label", 0, len(endings) - 1)
    if isinstance(row.get("ctx_a"), str) and isinstance(row.get("ctx_b"), str):
        context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}"
    else:
        context = _text(row, "ctx")
    label = row.get("activity_label")
    context = _cleaned(f"{label}: {context}" if isinstance(label, str) else context)
    if not context:
        raise Skipped("ctx is empty")
    group = str(row.get("source_id") or context)
    ends = tuple(" " + _cleaned(ending) for ending in endings)
    if not all(map(str.strip, ends)):
        raise Skipped("an ending is no text")
    return Item(group, (context,) * len(ends), ends, (), answer, tuple(map(str.strip, ends)))


READERS: dict[str, Callable[[Mapping[str, Any]], Item]] = {
    "winogrande": winogrande, "hellaswag": hellaswag,
}  # fmt: skip


def task(
    name: str,
    tokenizer: Tokenizer,
    source: str | Path = "",
    *,
    sizes: Sizes | None = None,
    seed: int = 0,
) -> Task:
    r"""Make a task of a benchmark; rows that do not fit are left out, and `Task.notes` says why.

    Args:
        name: `winogrande` or `hellaswag`.
        tokenizer: Of the model.
        source: A JSONL file; the validation split on the Hugging Face hub if empty.
        sizes: Prompts in each split. Which split a row may be in depends on its text alone, and
            rows that share words (twins, one source) are in the same.
        seed: Of which rows are taken.

    Returns:
        The task; a prompt is right if the right choice has the best score a character (`acc_norm`
        of lm-evaluation-harness); `Choices.acc` gives the other one.

    Raises:
        InputError: If the file cannot be read, or too few of its rows fit.
        MissingDependencyError: If there is no file, and no package `datasets`.

    Example:
        >>> import json
        >>> row = {"option1": "a", "option2": "b", "answer": "1"}
        >>> rows = [row | {"sentence": f"{letter} a b as _ fell."} for letter in "cdefghijklmn"]
        >>> written = Path("dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
        >>> words = Tokenizer.words([*"abcdefghijklmn", "as", "fell."])
        >>> task("winogrande", words, "dev.jsonl", sizes=Sizes(2, 2, 2)).texts["test"][0].clean
        'l a b as a fell.'
    """
    if not isinstance(name, str) or name not in READERS:
        expected = f"one of {', '.join(READERS)}"
        raise InputError("benchmark", got=repr(name)[:80], expected=expected)
    require_is("tokenizer", tokenizer, Tokenizer)
    if source is not None:
        require_is("source", source, str, Path)
    sizes, rng = read_draw(sizes, seed), np.random.default_rng(seed)
    rows = list(_lines(Path(source)) if source else _hub(name))
    items, notes = _by_split(READERS[name], rows, tokenizer)
    splits, texts = {}, {}
    for split in SPLITS:
        size, there = getattr(sizes, split), items[split]
        # A context of another item is needed for each.
        if len(there) < max(size, 2):
            raise InputError(f"size of the {split} split of {name}", got=size,
                             expected=f"at most {len(there)} of its {len(rows)} rows",
                             mend=f"{notes[0].capitalize()}." if notes else None)  # fmt: skip
        order = rng.permutation(len(there))
        pool = [there[i] for i in order]
        if not pool[0][0].others:
            pool = _with_other_contexts(pool)
        chosen = pool[:size]
        splits[split] = make_choices(
            [choices for _, choices in chosen], [item.answer for item, _ in chosen],
            vocab_size=tokenizer.vocab_size,
        )  # fmt: skip
        texts[split] = tuple(_said(tokenizer, name, item, own) for item, own in chosen)
    return Task(name, _DESCRIPTIONS[name], splits, texts, notes=notes)


def _by_split(
    reader: Callable[[Mapping[str, Any]], Item], rows: list[Any], tokenizer: Tokenizer
) -> tuple[dict[str, list[tuple[Item, list[Choice]]]], tuple[str, ...]]:
    """The usable rows of each split, with their tokens; and a note for each reason to skip some."""
    why: collections.Counter[str] = collections.Counter()
    seen: set[tuple] = set()
    items: dict[str, list[tuple[Item, list[Choice]]]] = {split: [] for split in SPLITS}
    for row in rows:
        try:
            item = reader(_mapping(row))
            _require_unicode(item.group, *item.begins, *item.ends, *item.others, *item.options)
            choices = _choices(tokenizer, item)
        except Skipped as reason:
            why[str(reason)] += 1
            continue
        key = (item.begins, item.ends)
        if key in seen:
            why["the same prompt as another row"] += 1
            continue
        seen.add(key)
        part = zlib.crc32(item.group.encode()) % 10
        items[next(split for split in SPLITS if part in _PARTS[split])].append((item, choices))
    return items, tuple(f"left out {n} of {len(rows)} rows: {x}" for x, n in why.most_common())


_DESCRIPTIONS = {
    "winogrande": "Which of two things or people does the gap mean?",
    "hellaswag": "Which of four endings goes on from what was said? Right is meant by acc_norm.",
}


def _lines(path: Path) -> Iterable[Any]:
    """Every line of a file as JSON; what is not comes as None."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(str(path), got=str(error), expected="a JSONL file in UTF-8") from error
    return [_parsed(line) for line in text.splitlines() if line.strip()]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


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
    if not isinstance(row, Mapping):
        raise Skipped("not a JSON object")
    return row


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Skipped(f"{name} is no text")
    return value.strip()


def _require_unicode(*texts: str) -> None:
    """Refuse half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise Skipped("a text is no Unicode") from error


def _number(row: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = row.get(name)
    plain = isinstance(value, int | str) and not isinstance(value, bool)
    if not plain or str(value) not in map(str, range(low, high + 1)):
        raise Skipped(f"{name} is not a number from {low} to {high}")
    return int(str(value))


def _cleaned(text: str) -> str:
    """Without the marks of the how-to pages that contexts were taken from, as the harness does it.

    That is: " [title]" is a full stop, other brackets go, and each two blanks become one.
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


def _choices(tokenizer: Tokenizer, item: Item) -> list[Choice]:
    """The choices of an item as tokens; the corrupted side of a context comes later."""
    made = []
    for i, (begin, end) in enumerate(zip(item.begins, item.ends, strict=True)):
        before, whole = (tokenizer.encode(text, end=False) for text in (begin, begin + end))
        if whole[: len(before)] != before or len(whole) == len(before) or not before:
            raise Skipped("the tokenizer has a token across the start of the scored words")
        other = tokenizer.encode(item.others[i], end=False) if item.others else whole
        if len(other) != len(whole):
            raise Skipped("the counterfactual has another number of tokens")
        # Characters of the words alone, as lm-evaluation-harness divides by.
        made.append(Choice(whole, other, (len(before), len(whole)), float(len(end.strip(" ")))))
    return made


def _with_other_contexts(
    pool: list[tuple[Item, list[Choice]]],
) -> list[tuple[Item, list[Choice]]]:
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
