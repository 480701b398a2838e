"""Experiments that run cell by cell and resume: finished cells are not measured again."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.common.record import conditions, plain, write
from experiments.common.script import Places
from hagd_jax.errors import ConfigError
from hagd_jax.files import read_json_object

Row = dict[str, Any]
# Fields that name folders.
_PLACES = tuple(field.name for field in dataclasses.fields(Places))


def measure_cells(
    name: str,
    cells: Iterable[Row],
    measure: Callable[[Row], list[Row]],
    config: Places,
    *,
    varied: Sequence[str],
    **more: Any,
) -> list[Row]:
    """Measure the cells one by one, and write `<results>/<name>.json` after each.

    Cells of other seeds or tasks that earlier calls measured stay in the results; so do those that
    the results hold, measured elsewhere with the same settings.

    Args:
        name: Name of the experiment; finished cells are kept in `<runs>/<name>.jsonl`.
        cells: Settings of each measurement as JSON values, such as the task and the seed.
        measure: Maps a cell to its rows; each row is prefixed with the cell's own values.
        config: The script's configuration.
        varied: Configuration fields that choose cells, such as `seeds`. All other fields except
            folders are settings that every cell shares, and are recorded.
        **more: Further entries of the record.

    Returns:
        The rows of these cells.

    Raises:
        ConfigError: If earlier cells were measured with other settings.
    """
    path, cells = config.runs / f"{name}.jsonl", list(cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = settings_of(config, varied)
    done = _done(path, settings)
    known = {json.dumps(cell, sort_keys=True) for cell in cells} | done.keys()
    if cells:
        fields = list(cells[0])
        file = config.results / f"{name}.json"
        record = read_json_object(file) if file.exists() else {}
        if _agree(record.get("settings"), config, varied):
            done = _elsewhere(record, fields, settings, known) | done
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


def _agree(old: Any, value: Any, hidden: Collection[str] = ()) -> bool:
    """Tell whether settings of a record are those of now.

    A field that there was not yet must have its default: the record was measured so.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return old == plain(value)
    hidden = (*hidden, *(_PLACES if isinstance(value, Places) else ()))
    fields = {field.name: field for field in dataclasses.fields(value) if field.name not in hidden}
    if not isinstance(old, dict) or not old.keys() <= fields.keys():
        return False
    return all(
        _agree(old[name], getattr(value, name)) if name in old
        else getattr(value, name) == _default(field)
        for name, field in fields.items()
    )  # fmt: skip


def _default(field: Any) -> Any:
    """What a field has where nothing is said."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _elsewhere(
    record: dict[str, Any], fields: Sequence[str], settings: dict[str, Any], known: Collection[str]
) -> dict[str, Any]:
    """Read the cells of a record that are none of those known, by key; they are not measured again.

    How long each took is not in a record; all its cells are taken to be alike.
    """
    found: dict[str, Any] = {}
    for row in record["rows"]:
        if any(field not in row for field in fields):
            continue
        cell = {field: row[field] for field in fields}
        key = json.dumps(cell, sort_keys=True)
        if key not in known:
            own = {"cell": cell, "seconds": 0.0, "rows": [], "settings": settings}
            found.setdefault(key, own)["rows"].append(row)
    share = len(found) / max(record.get("cells", len(found)), 1)
    for own in found.values():
        own["seconds"] = share * record["seconds"] / len(found)
    return found


def settings_of(config: Places, varied: Sequence[str]) -> dict[str, Any]:
    """Return the configuration fields that every cell shares, as JSON values.

    Folders are left out, those of configurations within it too: they differ between machines.
    """
    names = [field.name for field in dataclasses.fields(config) if field.name not in varied]
    return plain({name: _without_places(getattr(config, name)) for name in names
                  if name not in _PLACES})  # fmt: skip


def _without_places(value: Any) -> Any:
    """A configuration as a dictionary without its folders."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    hidden = _PLACES if isinstance(value, Places) else ()
    return {field.name: _without_places(getattr(value, field.name))
            for field in dataclasses.fields(value) if field.name not in hidden}  # fmt: skip


def _done(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Read the finished cells, by key; raise if they were measured with other settings."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # the process was killed while it wrote this line
            continue
        if row.get("settings") != settings:
            raise ConfigError(
                f"cells in {path}", got=f"settings {row.get('settings')}", expected=str(settings),
                mend="Name another folder with --runs, or delete the file.",
            )  # fmt: skip
        found[json.dumps(row["cell"], sort_keys=True)] = row
    return found
