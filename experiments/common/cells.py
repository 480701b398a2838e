"""Experiments in pieces: what was measured before a stop is not measured again."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.common.record import conditions, plain, write
from experiments.common.script import Places
from hagd_jax.errors import ConfigError

Row = dict[str, Any]


def measure_cells(
    name: str,
    cells: Iterable[Row],
    measure: Callable[[Row], list[Row]],
    config: Places,
    *,
    varied: Sequence[str],
    **more: Any,
) -> list[Row]:
    """Measure cell after cell, and write `<results>/<name>.json` after each.

    Cells that earlier calls measured, of other seeds or tasks, stay in the results.

    Args:
        name: Name of the experiment; finished cells are kept in `<runs>/<name>.jsonl`.
        cells: What to measure, as JSON values: the task, the seed and whatever else decides.
        measure: Maps a cell to its rows; the cell's own values are put in front of each.
        config: The script's configuration.
        varied: Its fields that choose cells, such as `seeds`. All others, but for folders, are the
            settings of every cell, and are recorded.
        **more: Whatever else a reader of the results needs.

    Returns:
        The rows of these cells.

    Raises:
        ConfigError: If earlier cells were measured with other settings.
    """
    path, cells = config.runs / f"{name}.jsonl", list(cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = settings_of(config, varied)
    done = _done(path, settings)
    for place, cell in enumerate(cells):
        key = json.dumps(cell, sort_keys=True)
        if key not in done:
            began = time.monotonic()
            rows = plain([cell | row for row in measure(cell)])
            seconds = time.monotonic() - began
            done[key] = {"cell": cell, "seconds": seconds, "rows": rows, "settings": settings}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[key]) + "\n")
            print(f"{name}: {place + 1} of {len(cells)} cells, {key}", flush=True)
        seconds = sum(found["seconds"] for found in done.values())
        rows = [row for found in done.values() for row in found["rows"]]
        written = more | {"settings": settings, "cells": len(done), "rows": rows}
        write(config.results / f"{name}.json", conditions(seconds) | written)
    return [row for c in cells for row in done[json.dumps(c, sort_keys=True)]["rows"]]


def settings_of(config: Places, varied: Sequence[str]) -> dict[str, Any]:
    """The fields of a configuration that decide every cell, as JSON values."""
    places = {field.name for field in dataclasses.fields(Places)}
    return plain(
        {
            name: value
            for name, value in dataclasses.asdict(config).items()
            if name not in places | set(varied)
        }
    )


def _done(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if row.get("settings") != settings:
            raise ConfigError(
                f"cells in {path}", got=f"settings {row.get('settings')}", expected=str(settings),
                mend="Name another folder with --runs, or delete the file.",
            )  # fmt: skip
        found[json.dumps(row["cell"], sort_keys=True)] = row
    return found
