"""Make the README's rows about circuits of units of a real model; see `readme/tables.py`."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.readme.rows import Row, Rows

# What tells circuits of a record apart.
_CIRCUIT = ("pair", "task", "seed", "leaves", "asked", "kept")
_GATES = "faithfulness .7 to 1.3, .5 to 1.5 on ≥ 80%, accuracy ≥ 85%, KL ≤ 30%"


def units(result: dict) -> list[Row]:
    """Make a row for each circuit: its gates under every ablation."""
    return [
        (f"{what}: {first['units']} units with {first['heads']} heads, {_nodes(first)}; gates",
         said, _GATES, "circuits/units.py")
        for what, first, said in _gated(result)
    ]  # fmt: skip


def pruned(result: dict) -> list[Row]:
    """Make a row for each pruned circuit: what is left of it, and its gates."""
    return [
        (f"{what}: {first['units']} of {first['searched']} units left by pruning, {_nodes(first)}; "
         "gates", said, "all hold", "circuits/pruned_units.py")
        for what, first, said in _gated(result)
    ]  # fmt: skip


def edges(result: dict) -> list[Row]:
    """Make a row for the edges of each circuit: their gates under every ablation."""
    return [
        (f"{what}: {first['edges']} of {first['of']:,} edges between {first['units']} units "
         f"({first['edges_a_unit']:.1f} a unit); gates", said, "all hold, ≤ 4 a unit",
         "circuits/unit_edges.py")
        for what, first, said in _gated(result)
    ]  # fmt: skip


def judged(result: dict) -> list[Row]:
    """Make a row for each judged circuit: the verdict, and the claims that decide."""
    made = []
    for rows in _circuits(result):
        first, claims = rows[0], [row for row in rows if row["decides"]]
        said = ", ".join(
            f"{row['claim']} {row['found']}" + f" under {row['ablation']}" * bool(row["ablation"])
            for row in claims
        )
        what = (f"{_name(first)}: the judge on {first['units']} units with {_nodes(first)}, "
                f"{first['prompts']} prompts")  # fmt: skip
        made.append((what, f"{first['verdict']}: {said}", "accepted", "circuits/judged_units.py"))
    return made


def others(result: dict) -> list[Row]:
    """Make a row for each circuit on other authors' prompts: its gates under every ablation."""
    made = []
    for rows in _circuits(result):
        pair = rows[0]["pair"]
        name, _, source = pair.partition("=")
        what = (f"SmolLM2, {name}: {rows[0]['units']} units on {rows[0]['prompts']} prompts of "
                f"{source.partition(':')[2]}; gates")  # fmt: skip
        said = "; ".join(f"{row['ablation']} {_kept(row)}" for row in rows)
        made.append((what, said, "all hold", "circuits/other_authors.py"))
    return made


def _circuits(result: dict) -> list[list[dict]]:
    """The rows of each circuit."""
    found: dict[tuple, list[dict]] = {}
    for row in result["rows"]:
        found.setdefault(tuple(row.get(name) for name in _CIRCUIT), []).append(row)
    return list(found.values())


def _name(row: dict) -> str:
    return f"SmolLM2, {row['task']}, seed {row['seed']}"


def _gated(result: dict) -> Iterator[tuple[str, dict, str]]:
    """What each circuit is called, its first row, and what it keeps under every ablation."""
    for rows in _circuits(result):
        said = "; ".join(f"{row['ablation']} {_kept(row)}" for row in rows)
        yield _name(rows[0]), rows[0], said


def _nodes(row: dict) -> str:
    return f"{row['nodes']:,} of {row['of']:,} nodes"


def _kept(row: dict) -> str:
    """Tell which gates a circuit misses, and of which the interval alone reaches beyond."""
    if row["failed"]:
        said = f"fails {', '.join(row['failed'])}"
    else:
        said = f"none fails, {', '.join(row['open'])} open" if row["open"] else "all hold"
    ratio, spread, right, far = (
        "undefined" if row[name] is None else format(row[name], form)
        for name, form in (("faithfulness", ".2f"), ("spread", ".0%"), ("accuracy", ".0%"),
                           ("kl_share", ".0%"))
    )  # fmt: skip
    return (f"{said} (faithfulness {ratio}, on {spread} of the prompts .5 to 1.5, accuracy "
            f"{right}, KL {far})")  # fmt: skip


ROWS: Rows = {
    "units": units,
    "pruned_units": pruned,
    "judged_units": judged,
    "unit_edges": edges,
    "other_authors": others,
}
