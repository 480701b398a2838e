"""Write the measurements of an experiment, with its command, machine and versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich
from rich.table import Table
from scipy import stats

import hagd_jax
from hagd_jax.files import finite

_ROOT = Path(__file__).resolve().parents[2]


def record(
    file: Path,
    rows: Sequence[dict[str, Any]],
    *,
    seconds: float,
    seed: int | Sequence[int] | None = None,
    packages: Sequence[str] = (),
    **more: Any,
) -> None:
    """Write a record and print its rows as a table.

    Args:
        file: The record, such as `config.results / "complexity.json"`.
        rows: The measurements, one flat dict per row.
        seconds: Runtime of the experiment, in seconds.
        seed: Seed of all random numbers, if the experiment uses any.
        packages: Further distributions whose versions are recorded.
        **more: Further entries of the record, such as targets, units and notes.
    """
    seeded = {} if seed is None else {"seed": seed}
    write(file, conditions(seconds, packages) | seeded | more | {"rows": list(rows)})
    rich.print(_table(file.stem, rows))


def conditions(seconds: float, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return the command, machine, date, runtime and package versions of this process."""
    return {
        "command": command(sys.argv),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds, 1),
        "versions": {p: _version(p) for p in ("hagd-jax", "jax", "flax", *packages)},
    }


def write(file: Path, result: dict[str, Any]) -> None:
    """Write a record as JSON; non-finite numbers become null, and paths begin in the repository.

    Messages that are recorded may name files in the folder of runs.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain(result), indent=1, allow_nan=False)
    file.write_text(text.replace(f"{_ROOT}{os.sep}", "") + "\n")


def plain(value: Any) -> Any:
    """Return a value as JSON reads it back: lists, texts, and None for non-finite numbers."""
    return json.loads(json.dumps(finite(value), default=_path))


def _path(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} cannot be written as JSON")


def share(part: float, whole: float) -> float | None:
    """Return part / whole, rounded to four places; None if the whole is 0."""
    return round(float(part / whole), 4) if whole else None


def half_interval(values: Sequence[float]) -> float:
    """Return the half-width of the 95% interval of a mean (Student's t); 0 for one value."""
    if len(values) < 2:
        return 0.0
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return float(stats.t.ppf(0.975, len(values) - 1) * error)


def command(argv: Sequence[str]) -> str:
    """Return the command in a form that works elsewhere: local paths keep their last component.

    Example:
        >>> command(["/me/experiments/speed/a.py", "--model=/me/m.gguf", "--rounds", "3"])
        'python -m experiments.speed.a --model=m.gguf --rounds 3'
    """
    script = Path(argv[0])
    module = f"experiments.{script.parent.name}.{script.stem}"
    return shlex.join(["python", "-m", module, *map(_short, argv[1:])])


def _short(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    elsewhere = path.is_absolute() or ".." in path.parts
    return option + equals + (path.resolve().name if elsewhere else value)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package == "hagd-jax":  # run from a checkout that is not installed
            return hagd_jax.__version__
        raise


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    wide = len(names) > len(rows)
    if wide:  # transpose a wide table, so that it fits the screen
        lines = list(zip(*lines, strict=True))
    table = Table(title=title, title_justify="left", show_header=not wide)
    for name in lines[0]:
        table.add_column(name)
    for line in lines if wide else lines[1:]:
        table.add_row(*line)
    return table


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
