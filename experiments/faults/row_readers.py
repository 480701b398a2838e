"""Made-up files of benchmarks in their published layouts, each with what reads it.

Names stand for what a row is about: those of one split are in no other.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hagd_jax import models
from hagd_jax.tasks import Sizes, benchmarks

NAMES = [f"{letter}{end}" for letter in "BDFGKLMP" for end in ("ana", "ori", "ulu")]
TOWNS = [f"{letter}{end}" for letter in "BDFGKLMP" for end in ("erg", "ibo", "alt")]
VERBS = "walk", "sing", "fall"
OTHERS = (
    "Then and were out. gave it to The the seat of is king lives in Now ruled from big Seeing: "
    "did not see sees as _ was tired."
)
WORDS = models.Tokenizer.words(list(dict.fromkeys([
    *NAMES, *(f"{name}s" for name in NAMES), *TOWNS, *VERBS, *(f"{verb}s" for verb in VERBS),
    *OTHERS.split(),
])))  # fmt: skip
SIZES = Sizes(4, 2, 2)


def written(rows: Callable[[], Iterable[Any]]) -> Callable[[Path], list[Path]]:
    """Make what writes rows as lines of JSON."""

    def make(folder: Path) -> list[Path]:
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
        return [folder / "rows.jsonl"]

    return make


def asked(name: str, file: str = "rows.jsonl") -> Callable[[Path], Any]:
    """Make what reads the file of a benchmark, and gives the texts and tokens of its prompts."""

    def read(folder: Path) -> Any:
        found = benchmarks.task(name, WORDS, folder / file, sizes=SIZES)
        return found.texts, found.splits

    return read


def winogrande() -> Iterable[Any]:
    """Make rows whose gap means either of two names."""
    for i, (a, b) in enumerate(itertools.permutations(NAMES[:8], 2)):
        yield {"sentence": f"{a} did not see {b} as _ was tired.", "option1": a, "option2": b,
               "answer": str(1 + i % 2), "qID": f"id{a}{b}-1"}  # fmt: skip


def hellaswag() -> Iterable[Any]:
    """Make rows of four endings."""
    for i, name in enumerate(NAMES):
        ends = [f"{a} {verb}s" for a, verb in zip((name, *NAMES), (*VERBS, "see"), strict=False)]
        ends[3] = f"{name} was tired."
        yield {"ind": i, "activity_label": "Seeing", "ctx_a": f"Then {name} was big", "ctx_b": "",
               "ctx": f"Then {name} was big", "endings": ends, "label": str(i % 4),
               "source_id": f"activitynet~v_{name}"}  # fmt: skip


def blimp() -> Iterable[Any]:
    """Make sentences that a word makes acceptable, each with one that asks for the other word."""
    for name, verb in itertools.product(NAMES[:12], VERBS):
        for subject, good, bad in ((name, f"{verb}s", verb), (f"{name}s", verb, f"{verb}s")):
            sentences = f"Then {subject} {good}", f"Then {subject} {bad}"
            yield {"sentence_good": sentences[0], "sentence_bad": sentences[1],
                   "one_prefix_method": True, "UID": "agreement"}  # fmt: skip


def made_eap(folder: Path) -> list[Path]:
    """Write a table of prompts with two names, and with another one in the counterfactual."""
    with (folder / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("clean", "corrupted", "correct_idx", "incorrect_idx"))
        for names in (NAMES[i : i + 3] for i in range(0, 18, 3)):
            for a, b, other in itertools.permutations(names):
                begun = f"Then {a} and {b} were out."
                ids = [WORDS.encode(name)[0] for name in (a, b)]
                table.writerow((f"{begun} {b} gave it to", f"{begun} {other} gave it to", *ids))
    return [folder / "rows.csv"]


def made_lre(folder: Path) -> list[Path]:
    """Write a relation of lands and their towns."""
    templates = ["The seat of {} is", "Now the king of {} lives in", "Now {} is ruled from"]
    samples = [{"subject": a, "object": b} for a, b in zip(NAMES, TOWNS, strict=True)]
    relation = {"name": "seat", "prompt_templates": [*templates[1:]],
                "prompt_templates_zs": templates[:1], "samples": samples}  # fmt: skip
    (folder / "relation.json").write_text(json.dumps(relation))
    return [folder / "relation.json"]


MAKERS: dict[str, tuple[Callable[[Path], list[Path]], Callable[[Path], Any]]] = {
    "winogrande": (written(winogrande), asked("winogrande")),
    "hellaswag": (written(hellaswag), asked("hellaswag")),
    "blimp": (written(blimp), asked("blimp")),
    "eap": (made_eap, asked("eap", "rows.csv")),
    "lre": (made_lre, asked("lre", "relation.json")),
}
