"""Relations of the LRE data: "The capital city of Spain is" → " Madrid".

Hernandez et al., 2023 (arXiv:2308.09124). A file holds one relation: templates, subjects and their
objects. As there, the first token of an object is what must follow. The counterfactual names
another subject of as many tokens, whose object begins with another token: the distractor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError
from hagd_jax.files import Bounds, named, read_json_object
from hagd_jax.models.tokenizer import Tokenizer
from hagd_jax.tasks.benchmarks import rows as limits
from hagd_jax.tasks.benchmarks.pairs import Pair, by_split, following, ids_of, pair_task
from hagd_jax.tasks.benchmarks.rows import LeftOut, Record, Skipped, drawn
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text

_FILE = Bounds(size=2**24, depth=8, items=200_000)
_MOST_TEMPLATES = 32
# Which split each of the first templates is for, where there are enough for all.
_TURNS = ("discover", "test", "select")


class _Filled(NamedTuple):
    """A subject in a template, with the first tokens of its objects."""

    subject: str
    said: str
    ids: list[int]
    tokens: dict[int, str]


def lre(tokenizer: Tokenizer, source: str | Path, sizes: Sizes, seed: int) -> Task:
    """Make a task of a relation's JSON file.

    Subjects of the three splits are disjoint; so are the templates if there are three or more. With
    two, discover and select share one.

    Args:
        tokenizer: Of the model.
        source: The file, with `name`, `prompt_templates`, perhaps `prompt_templates_zs`, and
            `samples` of `subject` and `object`.
        sizes: Prompts in each split.
        seed: Of the draw.

    Returns:
        The task; an answer is correct if it beats the first token of every other object.

    Raises:
        InputError: If a field is broken, naming it, or too few rows fit.
    """
    where = named(source)
    whole = Record(where, read_json_object(source, _FILE, InputError))
    name, templates = whole.text("name"), _templates(whole)
    samples, total = drawn(_samples(whole), limits.MOST_ROWS)
    objects: dict[str, list[str]] = {}
    for subject, word in samples:
        objects.setdefault(subject, []).append(word)
    shares, notes = _shares(templates)
    notes += LeftOut(len(samples), total).notes()
    keys = [frozenset([subject.lower()]) for subject in objects]
    splits = by_split(list(objects), keys, LeftOut(0))
    left = LeftOut(sum(len(shares[s]) * len(splits[s]) for s in SPLITS), what="prompts")
    rng, pairs, candidates = np.random.default_rng(seed), {}, set()
    for split in SPLITS:
        pairs[split] = []
        for template in shares[split]:
            filled = _filled(tokenizer, template, {s: objects[s] for s in splits[split]}, left)
            pairs[split] += _pairs(filled, template, name, rng, left)
            candidates |= {token for one in filled for token in one.tokens}
    return pair_task(
        "lre", f"Name the object of a subject, in the relation {quoted(name)}.", tokenizer, pairs,
        sizes, seed, left, candidates=tuple(sorted(candidates)), notes=notes,
    )  # fmt: skip


def _templates(whole: Record) -> list[str]:
    """Those that ask without examples first, each once."""
    found: list[str] = []
    for field in ("prompt_templates_zs", "prompt_templates"):
        listed = whole.values.get(field, [] if field.endswith("zs") else None)
        if not isinstance(listed, list) or len(listed) > _MOST_TEMPLATES:
            whole.refuse(field, f"a list of at most {_MOST_TEMPLATES} texts")
        for i, _ in enumerate(listed):
            one = Record(whole.place, {f"{field}[{i}]": listed[i]})
            text = one.text(f"{field}[{i}]").rstrip()
            if text.count("{}") != 1:
                one.refuse(f"{field}[{i}]", "a text with one {} for the subject")
            found.append(text)
    if not found:
        whole.refuse("prompt_templates", "at least one template")
    return list(dict.fromkeys(found))


def _samples(whole: Record) -> list[tuple[str, str]]:
    """Subjects and objects, each pair once."""
    listed = whole.values.get("samples")
    if not isinstance(listed, list) or not listed:
        whole.refuse("samples", "a list of subjects and objects")
    found = []
    for i, sample in enumerate(listed):
        place = f"{whole.place}: samples[{i}]"
        if not isinstance(sample, Mapping):
            raise InputError(place, got=quoted(sample), expected="a JSON object")
        one = Record(place, sample)
        found.append((one.text("subject").strip(), one.text("object").strip()))
    return list(dict.fromkeys(found))


def _shares(templates: Sequence[str]) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """The templates of each split, and what to say if splits share some."""
    if len(templates) >= len(SPLITS):
        turns = {split: [t for i, t in enumerate(templates) if _TURNS[i % 3] == split]
                 for split in SPLITS}  # fmt: skip
        return turns, ()
    first, last = templates[0], templates[-1]
    shares = {"discover": [first], "select": [first], "test": [last]}
    who = "discover and select share a template" if first != last else "all splits share a template"
    return shares, (f"{who}: the file has {len(templates)}",)


def _filled(
    tokenizer: Tokenizer, template: str, objects: Mapping[str, Sequence[str]], left: LeftOut
) -> list[_Filled]:
    """The subjects in one template, with the tokens of their objects there."""
    found = []
    for subject, words in objects.items():
        said = template.replace("{}", subject)
        try:
            ids = ids_of(tokenizer, said)
            tokens = {following(tokenizer, said, f" {word}", whole=False): word for word in words}
        except Skipped as reason:
            left.add(reason)
            continue
        found.append(_Filled(subject, said, ids, tokens))
    return found


def _pairs(
    filled: Sequence[_Filled], template: str, name: str, rng: np.random.Generator, left: LeftOut
) -> list[Pair]:
    """A prompt for each subject, with another subject of as many tokens."""
    by_length: dict[int, list[_Filled]] = {}
    for one in filled:
        by_length.setdefault(len(one.ids), []).append(one)
    made = []
    for one in filled:
        others = by_length[len(one.ids)]
        start = int(rng.integers(len(others)))
        turned = (*others[start:], *others[:start])
        other = next((x for x in turned if not x.tokens.keys() & one.tokens.keys()), None)
        if other is None:
            left.add("no other subject of as many tokens with another object")
            continue
        # Prompts of one subject are near-copies of each other.
        text = Text(one.said, other.said, _words(one), _words(other), f"{name}: {one.subject}")
        made.append(
            Pair(one.ids, other.ids, tuple(one.tokens), tuple(other.tokens), text, template)
        )
    return made


def _words(one: _Filled) -> str:
    return "|".join(one.tokens.values())
