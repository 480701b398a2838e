"""Make the README's rows about interrupts, broken disks and tampered files; see `tables.py`."""

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


def damage(result: dict) -> list[Row]:
    """Make the row of damaged files of runs."""
    rows = result["rows"]
    kinds = Counter(row["outcome"] for row in rows)
    bad, works = kinds["other"] + kinds["untyped"], len({row["work"] for row in rows})
    return [(
        f"Damages to what {works} kinds of work leave: taken for whole, or an untyped error",
        f"{bad} of {len(rows)} (made again {kinds['again']}, refused {kinds['refused']}, decides "
        f"nothing {kinds['same']})", "0", "faults/damage.py",
    )]  # fmt: skip


def races(result: dict) -> list[Row]:
    """Make the row of pairs of processes."""
    return [(
        "Pairs of processes that write to one folder or cache",
        f"{_count(result['rows'], 'well')} leave what one alone leaves; who loses is told who runs",
        "all", "faults/races.py",
    )]  # fmt: skip


def full_disk(result: dict) -> list[Row]:
    """Make the rows of disks that fail."""
    feigned = [row for row in result["rows"] if "call" in row]
    real = [row for row in result["rows"] if "room" in row]
    calls = len({(row["work"], row["call"]) for row in feigned})
    errors = ", ".join(dict.fromkeys(row["error"] for row in feigned))
    rows = [(
        f"Disks that fail at one of {calls} calls that write ({errors})",
        f"{_count(feigned, 'well')} end with one sentence, and are gone on with", "all",
        "faults/full_disk.py",
    )]  # fmt: skip
    if real:
        rows.append((
            "Real disks that are too small", f"{_count(real, 'well')} the same", "all",
            "faults/full_disk.py",
        ))  # fmt: skip
    return rows


def rows(result: dict) -> list[Row]:
    """Make the rows about what checks cost."""
    parts = {part: [row for row in result["rows"] if row["part"] == part]
             for part in ("rows", "help", "page", "loading")}  # fmt: skip
    script, made = "faults/rows.py", list[Row]()
    for row in parts["rows"]:
        made.append((f"{result['settings']['rows']:,} rows ({row['kind']}), read and checked",
                     f"{row['seconds']:.0f} s, {row['peak_gb']:.2f} GB", "≤ 60 s, ≤ 1 GB",
                     script))  # fmt: skip
    for row in parts["help"]:
        made.append(("`hagd --help` in a fresh process, median", f"{row['seconds']:.1f} s",
                     "≤ 2 s", script))  # fmt: skip
    for row in parts["page"]:
        made.append((f"Page of a graph of {result['settings']['nodes']:,} nodes",
                     f"{row['seconds']:.1f} s, {row['mb']:.1f} MB", "", script))  # fmt: skip
    for row in parts["loading"]:
        made.append((f"Loading {row['kind']} with checks, of the time without",
                     f"{row['ratio']:.2f}", "≤ 1.1", script))  # fmt: skip
    return made


def _count(rows: list[dict], name: str) -> str:
    return f"{sum(row[name] for row in rows)} of {len(rows)}"


ROWS: Rows = {
    "interrupts": interrupts, "inputs": inputs, "damage": damage, "races": races,
    "full_disk": full_disk, "rows": rows,
}  # fmt: skip
