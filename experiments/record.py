"""How an experiment writes down what it measured, and under which conditions."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def record(name: str, rows: Sequence[dict[str, Any]], *, seconds: float, **more: Any) -> Path:
    """Write `results/<name>.json` and print its rows as a table.

    Args:
        name: Of the experiment.
        rows: What was measured, one flat dict a row.
        seconds: Runtime of the experiment.
        **more: Whatever else a reader needs: seeds, targets, notes.

    Returns:
        The file.
    """
    result = {
        "command": " ".join(
            ["python", *(Path(arg).name if not i else arg for i, arg in enumerate(sys.argv))]
        ),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds, 1),
        "versions": {p: importlib.metadata.version(p) for p in ("hagd-jax", "jax", "flax")},
        **more,
        "rows": list(rows),
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    table = Table(title=name, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    rich.print(table)
    return path
