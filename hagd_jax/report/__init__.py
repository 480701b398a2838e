"""What a reader sees of a run: a page that works offline, and tables for the terminal."""

from hagd_jax.report.record import Report
from hagd_jax.report.table import circuit_table, verdict_table

__all__ = [
    "Report",
    "circuit_table",
    "verdict_table",
]
