"""BLiMP (Warstadt et al., 2020, arXiv:1912.00582): which of two sentences is acceptable?

Where the paradigm's authors say that the choice follows from what stands before a word
(`one_prefix_method`), and the sentences differ in one token, the words before it are the prompt and
the two tokens answer and distractor. The counterfactual is another row's prompt of as many tokens
after which the distractor is right: one with answer and distractor exchanged, or one whose answer
has its final s where this one's distractor has it ("walks", "cups").

Other sentences are scored whole, by their log-probability, as lm-evaluation-harness does; the
counterfactual of either sentence is the other one, of as many tokens. A file is one or the other,
by what most of its rows are.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.tasks.benchmarks import rows as limits
from hagd_jax.tasks.benchmarks.division import own_words, shared_words
from hagd_jax.tasks.benchmarks.items import Scored
from hagd_jax.tasks.benchmarks.pairs import (
    OTHER_LENGTH,
    Pair,
    by_split,
    changed,
    ids_of,
    pair_task,
)
from hagd_jax.tasks.benchmarks.rows import (
    LeftOut,
    Record,
    Skipped,
    drawn,
    json_rows,
    require_room,
)
from hagd_jax.tasks.choices import Choice, make_choices
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text


def scored_sentences(
    tokenizer: Tokenizer, source: str | Path
) -> tuple[list[Scored], tuple[str, ...]]:
    """Read all rows of a BLiMP file as choices between whole sentences, for a model's accuracy.

    As in lm-evaluation-harness, every token of a sentence is scored, after one that begins a text.

    Args:
        tokenizer: Of the model.
        source: The file.

    Returns:
        The rows in the order of the file, and a note for each reason to leave some out.

    Raises:
        InputError: If a row is broken, naming its line and field.
    """
    found, total = drawn(json_rows(source), limits.MOST_ROWS)
    left, kept = LeftOut(len(found), total), []
    for record in found:
        texts = [record.text(field).strip() for field in ("sentence_good", "sentence_bad")]
        try:
            ids = [_opened(tokenizer, ids_of(tokenizer, text)) for text in texts]
            if min(map(len, ids)) < 2 or ids[0][0] != ids[1][0]:
                raise Skipped("no token that begins a text")
        except Skipped as reason:
            left.add(reason)
            continue
        units = [float(len(text)) for text in texts]
        both = (Choice(own, own, (1, len(own)), unit) for own, unit in zip(ids, units, strict=True))
        kept.append(Scored(tuple(both), 0, texts[0]))
    return kept, left.notes()


class _Row(NamedTuple):
    """A row: its sentences as texts and tokens, and the first token in which they differ."""

    uid: str
    texts: tuple[str, str]
    ids: tuple[list[int], list[int]]
    first: int
    by_word: bool

    @property
    def tokens(self) -> tuple[int, int]:
        """The token of either sentence in which they differ first."""
        return self.ids[0][self.first], self.ids[1][self.first]


def blimp(tokenizer: Tokenizer, source: str | Path, sizes: Sizes, seed: int) -> Task:
    """Make a task of JSON lines with `sentence_good`, `sentence_bad`, `UID`, `one_prefix_method`.

    No word with a meaning is in two splits, but for those that more than a tenth of the rows have;
    `Task.notes` names these.

    Args:
        tokenizer: Of the model.
        source: The file.
        sizes: Prompts in each split.
        seed: Of the draw.

    Returns:
        The task.

    Raises:
        InputError: If a row is broken, naming its line and field, or too few rows fit.
    """
    found, total = drawn(json_rows(source), limits.MOST_ROWS)
    left, rows = LeftOut(len(found), total), []
    for record in found:
        try:
            rows.append(_row(tokenizer, record))
        except Skipped as reason:
            left.add(reason)
    by_word = 2 * sum(row.by_word for row in rows) > len(rows)
    kept = [row for row in rows if row.by_word == by_word]
    for _ in range(len(rows) - len(kept)):
        left.add("most rows are scored in another way")
    splits = by_split(kept, own_words([([], _texts_of(row)) for row in kept]), left)
    notes = shared_words({s: [_texts_of(row)[0] for row in own] for s, own in splits.items()})
    if not by_word:
        return _sentences(tokenizer, splits, sizes, seed, left, notes)
    rng = np.random.default_rng(seed)
    pairs = {split: _pairs(tokenizer, splits[split], rng, left) for split in SPLITS}
    return pair_task(
        "blimp", "Choose the word that makes a sentence acceptable.", tokenizer, pairs, sizes, seed,
        left, notes=notes,
    )  # fmt: skip


def _texts_of(row: _Row) -> list[str]:
    """The texts that tell what a row is about; where one word decides, those up to it."""
    if not row.by_word:
        return list(row.texts)
    change = changed(*row.texts)
    return [change.before, *change.words, *change.others]


def _row(tokenizer: Tokenizer, record: Record) -> _Row:
    good, bad = (record.text(field).strip() for field in ("sentence_good", "sentence_bad"))
    uid = record.text("UID") if "UID" in record.values else ""
    prefix = record.flag("one_prefix_method")
    if good == bad:
        record.refuse("sentence_bad", "another sentence than sentence_good")
    ids = ids_of(tokenizer, good), ids_of(tokenizer, bad)
    if not prefix:
        ids = _opened(tokenizer, ids[0]), _opened(tokenizer, ids[1])
    if len(ids[0]) != len(ids[1]):
        raise Skipped(OTHER_LENGTH)
    places = [i for i, (a, b) in enumerate(zip(*ids, strict=True)) if a != b]
    if not places:
        raise Skipped("both sentences are the same tokens")
    if places[0] == 0:
        raise Skipped("nothing before the first difference, and no token that begins a text")
    if prefix and len(places) > 1:
        raise Skipped("the words that differ are several tokens")
    return _Row(uid, (good, bad), ids, places[0], prefix)


def _opened(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """With a token before the sentence, as lm-evaluation-harness scores it, if there is one."""
    begin = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    return ids if begin is None or ids[0] == begin else [begin, *ids]


def _pairs(
    tokenizer: Tokenizer, rows: Sequence[_Row], rng: np.random.Generator, left: LeftOut
) -> list[Pair]:
    """A prompt for each row, with another row's after which the distractor is right."""
    exchanged: dict[tuple, list[_Row]] = {}
    by_ending: dict[tuple, list[_Row]] = {}
    for row in rows:
        exchanged.setdefault((row.first, *row.tokens), []).append(row)
        by_ending.setdefault((row.first, row.uid, _ending(row)), []).append(row)
    made = []
    for row in rows:
        others = exchanged.get((row.first, *row.tokens[::-1]), [])
        if not others and _ending(row):
            others = by_ending.get((row.first, row.uid, -_ending(row)), [])
        if not others:
            left.add("no row of as many tokens after which its distractor is right")
            continue
        other = others[int(rng.integers(len(others)))]
        clean, corrupted = row.ids[0][: row.first], other.ids[0][: row.first]
        answer, distractor = row.tokens
        begun = len(tokenizer.begin)
        text = Text(
            tokenizer.decode(clean[begun:]), tokenizer.decode(corrupted[begun:]),
            tokenizer.decode([answer]).strip(), tokenizer.decode([distractor]).strip(),
            f"blimp: {row.texts[0]}",
        )  # fmt: skip
        made.append(Pair(clean, corrupted, (answer,), (distractor,), text, row.uid))
    return made


def _ending(row: _Row) -> int:
    """1 if the good word is the bad one with its final s, −1 if it is the other way round, else 0.

    Which number that is depends on the paradigm, and is the same in all of its rows.
    """
    words = zip(*(text.split() for text in row.texts), strict=False)
    good, bad = next(((a.strip(".,"), b.strip(".,")) for a, b in words if a != b), ("", ""))
    for longer, shorter, sign in ((good, bad, 1), (bad, good, -1)):
        stems = {shorter + "s", shorter + "es"}
        if longer in stems or (shorter.endswith("y") and longer == shorter[:-1] + "ies"):
            return sign
    return 0


def _sentences(
    tokenizer: Tokenizer,
    splits: dict[str, list[_Row]],
    sizes: Sizes,
    seed: int,
    left: LeftOut,
    notes: tuple[str, ...],
) -> Task:
    """Choices between whole sentences; what both begin with changes nothing, so is not scored."""
    different = {s: list({row.texts: row for row in own}.values()) for s, own in splits.items()}
    require_room("blimp", sizes, {s: len(own) for s, own in different.items()}, left)
    rng, made, texts = np.random.default_rng(seed), {}, {}
    for split in SPLITS:
        order = rng.permutation(len(different[split]))[: getattr(sizes, split)]
        chosen = [different[split][i] for i in order]
        # The good sentence is the first or the second, as its text decides.
        answers = [zlib.crc32(row.texts[0].encode()) % 2 for row in chosen]
        made[split] = make_choices(
            [_choices(row, answer) for row, answer in zip(chosen, answers, strict=True)], answers,
            vocab_size=tokenizer.vocab_size,
        )  # fmt: skip
        texts[split] = tuple(
            Text(good, bad, good, bad, f"blimp: {good}") for good, bad in (r.texts for r in chosen)
        )
    description = "Choose the sentence that is acceptable, by its probability."
    return Task("blimp", description, made, texts, notes=(*left.notes(), *notes))


def _choices(row: _Row, answer: int) -> list[Choice]:
    good, bad = row.ids
    scored = (row.first, len(good))
    both = [Choice(good, bad, scored, 1.0), Choice(bad, good, scored, 1.0)]
    return both[::-1] if answer else both
