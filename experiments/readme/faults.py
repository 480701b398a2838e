"""Make the README's rows about interrupted runs and tampered files; see `readme/tables.py`."""

from __future__ import annotations

from collections import Counter

from experiments.readme.rows import Row, Rows


def interrupts(result: dict) -> list[Row]:
    """Make the rows of commands that are killed or asked to end."""
    killed = [row for row in result["rows"] if row["how"] == "kill"]
    asked = [row for row in result["rows"] if row["how"] != "kill"]
    stages = Counter(row["stage"] for row in killed)
    fewest = min(stages.values(), default=0)
    script = "faults/interrupts.py"
    return [
        (f"Commands killed at random, each of {len(stages)} stages at least {fewest} times",
         f"{_count(killed, 'identical')} end with what a whole run finds", "all", script),
        ("Commands sent SIGINT or SIGTERM",
         f"{_count(asked, 'ended_well')} end with a sentence and 130 or 143; run again, "
         f"{_count(asked, 'identical')} end with what a whole run finds", "all", script),
    ]  # fmt: skip


def inputs(result: dict) -> list[Row]:
    """Make the row of tampered files."""
    rows = result["rows"]
    kinds = Counter[str]()
    for row in rows:
        kinds.update({k: n for k, n in row.items() if isinstance(n, int) and k != "files"})
    said = ", ".join(f"{name} {count:,}" for name, count in kinds.most_common())
    return [(
        f"Tampered files over {len(rows)} readers: crashes, hangs, untyped errors, silent changes",
        f"{result['bad']} of {sum(row['files'] for row in rows):,} ({said})", "0",
        "faults/inputs.py",
    )]  # fmt: skip


def _count(rows: list[dict], name: str) -> str:
    return f"{sum(row[name] for row in rows)} of {len(rows)}"


ROWS: Rows = {"interrupts": interrupts, "inputs": inputs}
