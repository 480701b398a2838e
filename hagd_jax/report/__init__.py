"""What a reader sees of a run: a page that works offline, and tables for the terminal."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hagd_jax.report.boxes import svg
    from hagd_jax.report.record import Report
    from hagd_jax.report.table import circuit_table, verdict_table

__all__ = [
    "Report",
    "circuit_table",
    "svg",
    "verdict_table",
]
_HOMES = {"Report": "record", "circuit_table": "table", "svg": "boxes", "verdict_table": "table"}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: `report.progress` alone needs no JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"hagd_jax.report.{_HOMES[name]}"), name)
