"""Write the README's tables of results from the JSON files in results/.

    python -m experiments.readme.tables

Takes about a second. Replaces the text between the markers `<!-- results -->` and
`<!-- /results -->`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from experiments.common.script import ROOT, Places, run
from experiments.readme import (
    attribution,
    chains,
    faults,
    judge,
    machines,
    method,
    real,
    smollm2,
    stages,
    transfer,
    units,
)  # fmt: skip
from experiments.readme import transcoders as trained
from experiments.readme.rows import table
from hagd_jax.errors import InputError

START, END = "<!-- results -->\n", "<!-- /results -->"
# Files are read by name, and some have rows in several places.
ROWS = [
    row
    for part in (machines.ROWS, real.ROWS, trained.ROWS, machines.LAST, attribution.ROWS,
                 judge.ROWS, method.ROWS, units.ROWS, transfer.ROWS, faults.ROWS)
    for row in part.items()
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for writing the tables of results.

    Attributes:
        readme: File that the tables are written into.
    """

    readme: Path = ROOT / "README.md"


def main(config: Config) -> None:
    """Replace the tables in the README."""
    config.readme.write_text(rewritten(config.readme.read_text(), tables(config.results)))


def rewritten(text: str, body: str) -> str:
    """Return a text with another body between the markers."""
    if text.count(START) != 1 or text.count(END) != 1:
        raise InputError("README", expected=f"one {START.strip()} and one {END}")
    before, rest = text.split(START)
    return before + START + body + END + rest.split(END)[1]


def tables(results: Path) -> str:
    """Make all tables from the records that exist."""

    def load(name: str) -> dict:
        return json.loads((results / f"{name}.json").read_text())

    made = [(name, make) for name, make in ROWS if (results / f"{name}.json").exists()]
    rows = [row for name, make in made for row in make(load(name))]
    found = {n: load(n) for n in smollm2.NAMES if (results / f"{n}.json").exists()}
    parts = [table(("what", "measured", "target", "script"), rows)]
    for module, result in (
        (smollm2, found), (stages, load("ablation_study")), (chains, load("two_hop"))
    ):  # fmt: skip
        parts.append(f"{module.TEXT}\n\n{table(module.HEAD, module.rows(result))}")
    return "\n".join(parts)


if __name__ == "__main__":
    run(main, Config, __doc__)
