"""Experiments in pieces: what was measured before a stop is not measured again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from experiments.common.record import conditions, write
from hagd_jax.files import finite

RUNS = Path("runs") / "experiments"
Row = dict[str, Any]


def measure_cells(
    name: str, cells: Iterable[Row], measure: Callable[[Row], list[Row]], **more: Any
) -> list[Row]:
    """Measure cell after cell, and write `results/<name>.json` after each.

    What earlier calls measured, of other seeds or tasks, stays in the results.

    Args:
        name: Of the experiment; finished cells are kept in `runs/experiments/<name>.jsonl`.
        cells: What to measure, as JSON values: the task, the seed and whatever else decides.
        measure: Cell → rows; the cell's own values are put in front of each.
        **more: Whatever else a reader of the results needs.

    Returns:
        The rows of these cells.
    """
    path = RUNS / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = list(cells)
    done = _done(path)
    for place, cell in enumerate(cells):
        key = json.dumps(cell, sort_keys=True)
        if key not in done:
            began = time.monotonic()
            rows = [finite(cell | row) for row in measure(cell)]
            done[key] = {"cell": cell, "seconds": time.monotonic() - began, "rows": rows}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[key]) + "\n")
            print(f"{name}: {place + 1} of {len(cells)} cells, {key}", flush=True)
        seconds = sum(found["seconds"] for found in done.values())
        rows = [row for found in done.values() for row in found["rows"]]
        write(name, conditions(seconds) | more | {"cells": len(done), "rows": rows})
    return [row for c in cells for row in done[json.dumps(c, sort_keys=True)]["rows"]]


def _done(path: Path) -> dict[str, Any]:
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        found[json.dumps(row["cell"], sort_keys=True)] = row
    return found
