"""Make the README's rows about the judge; see `readme/tables.py`."""

from __future__ import annotations

from experiments.readme.rows import Row, Rows


def edges(result: dict) -> list[Row]:
    """Make the rows of compiled programs: their accuracy, and the edges they need."""
    rows, script = result["rows"], "judge/ground_truth_edges.py"
    exact = sum(row["accuracy"] == 1 for row in rows)
    counted = [row for row in rows if row["published zero"] is not None]
    said = "; ".join(
        f"{row['program']} {row['zero']} and {row['resample']}" for row in counted
    )  # fmt: skip
    wanted = "; ".join(
        f"{row['published zero']} and {row['published resample']}" for row in counted
    )
    return [
        ("RASP programs compiled into our decoder, right on all inputs of all lengths",
         f"{exact} of {len(rows)}", "all", script),
        ("Edges they need under zero and under resample ablation", said, wanted, script),
    ]  # fmt: skip


def known(result: dict) -> list[Row]:
    """Make the row of the proofs of known circuits."""
    circuits = len(result["rows"])
    right = sum(row["accuracy"] == 1 for row in result["rows"])
    what = f"Known circuits of {result['models']} models: the circuit alone gives every answer"
    least = (
        f"{right} of {circuits} (model and ablation), the metric within {result['off']:.0e}; "
        f"without any one unit it moves by {result['least']:.2f} at least"
    )
    return [(what, least, "all", "judge/known_models.py")]


def mutations(result: dict) -> list[Row]:
    """Make the row of planted lies that the judge caught."""
    lies = [row for row in result["rows"] if row["lie"] != "none"]
    caught = sum(row["caught"] for row in lies)
    honest = next(row["verdict"] for row in result["rows"] if row["lie"] == "none")
    what = f"Lies told to the judge of a true circuit that, told honestly, is {honest}: caught"
    return [(what, f"{caught} of {len(lies)}", "all", "judge/mutations.py")]


def judged(result: dict) -> list[Row]:
    """Make the rows of the judge's verdicts on known circuits: how often decisions are right."""
    wanted = {
        "true": ("true circuits accepted", "accepted", "98%, none rejected"),
        "random": ("random circuits of their size rejected", "rejected", "95%"),
        "one unit less": ("true circuits without one unit rejected", "rejected", "95%"),
        "one idle unit more": ("true circuits with an idle unit rejected", "rejected", "95%"),
        "permuted weights": ("true circuits on permuted weights rejected", "rejected", "100%"),
    }
    models = len({row["model"] for row in result["rows"]})
    counts = sorted({row["prompts"] for row in result["rows"]})
    made = []
    for kind, (words, verdict, target) in wanted.items():
        parts = []
        for count in counts:
            own = [r for r in result["rows"] if (r["kind"], r["prompts"]) == (kind, count)]
            decided = [r for r in own if r["verdict"] != "not enough data"]
            if decided:
                right = sum(r["verdict"] == verdict for r in decided) / len(decided)
                parts.append(f"{count} prompts {right:.1%} of {len(decided)} (of {len(own)})")
            elif own:
                parts.append(f"{count} prompts: never enough data, of {len(own)}")
        what = f"{models} models of known circuits: {words}, where there is enough data"
        made.append((what, "; ".join(parts), target, "judge/judged.py"))
    return made


def calibrated(result: dict) -> list[Row]:
    """Make the rows of the calibration of p-values and intervals."""
    rows, script = result["rows"], "judge/calibrated.py"
    uniform = [row for row in rows if row["kind"] == "p-value"]
    errors = [row for row in rows if row["kind"] == "error"]
    covers = [row for row in rows if row["kind"] == "interval"]
    count = f"{result['circuits']:,} simulated circuits"
    return [
        (f"P-values of false claims uniform, {count}: Kolmogorov-Smirnov p",
         ", ".join(f"{row['what']} {row['ks_p']:.2f}" for row in uniform), "> 0.01", script),
        ("the same: rejected at 0.05",
         ", ".join(f"{row['what']} {row['below_0.05']:.1%}" for row in (*uniform, *errors)),
         "≤ 5%", script),
        ("95% intervals cover the truth",
         ", ".join(f"{row['what']} {row['covers']:.1%}" for row in covers), "93 to 97%", script),
    ]  # fmt: skip


def speed(result: dict) -> list[Row]:
    """Make the row of the judge's speed beside plain forward passes."""
    plain, answers = result["rows"]
    what = f"{plain['circuits']:,} circuits of SmolLM2's heads, 32 IOI prompts: speed of passes"
    measured = (
        f"{plain['ratio']:.2f} ({plain['low']:.2f} to {plain['high']:.2f}); of passes that give "
        f"the answer's logits alone {answers['ratio']:.2f}"
    )
    return [(what, measured, "≥ 0.8", "speed/judge.py")]


ROWS: Rows = {
    "ground_truth_edges": edges,
    "known_models": known,
    "judge_known": judged,
    "judge_mutations": mutations,
    "judge_calibrated": calibrated,
    "judge_speed": speed,
}
