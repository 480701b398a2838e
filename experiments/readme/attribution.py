"""Make the README's rows about attribution graphs; `readme/tables.py` puts them together."""

from __future__ import annotations

from typing import Any

from experiments.readme.rows import GIB, Row, Rows


def parity(result: dict[str, Any]) -> list[Row]:
    """Make the rows of the comparison with circuit-tracer's graphs."""
    rows, script = result["rows"], "parity/attribution.py"
    cases = len(rows)
    weights, edits = (max(row[name] for row in rows) for name in ("weights", "edits"))
    rest = max(max(row[name] for name in ("influence", "scores", "identity")) for row in rows)
    differ = sum(value for row in rows for name, value in row.items() if "differ" in name)
    return [
        (f"Attribution graphs against circuit-tracer's, {cases} cases: weights",
         f"at most {weights:.1e} apart", "≤ 2e-5", script),
        ("the same: influence, scores, rows summed", f"at most {rest:.1e} apart", "≤ 1e-5", script),
        ("the same: features, outputs, pruned and exported nodes and links that differ",
         f"{differ}", "0", script),
        ("the same: logits after edits under three regimes", f"at most {edits:.1e} apart",
         "≤ 1e-4", script),
    ]  # fmt: skip


def families(result: dict[str, Any]) -> list[Row]:
    """Make the row of the graphs in small models of every family."""
    rows = result["rows"]
    identity, differences = (max(r[name] for r in rows) for name in ("identity", "differences"))
    what = f"Graphs in small models of {len({row['family'] for row in rows})} families: rows summed"
    return [
        (f"{what} against targets, edges against moving their source",
         f"at most {identity:.1e} and {differences:.1e} of the largest apart", "≤ 1e-5",
         "parity/attribution_families.py"),
    ]  # fmt: skip


def speed(result: dict[str, Any]) -> list[Row]:
    """Make the rows of the speed comparison with circuit-tracer."""
    out: list[Row] = []
    for kind in dict.fromkeys(row["transcoder"] for row in result["rows"]):
        ours, *theirs = [row for row in result["rows"] if row["transcoder"] == kind]
        aim = "≥ 5, first ≥ 1.5, memory ≤ 0.5" if kind == "per-layer" else "≥ 10, aim 30"
        for row in theirs:
            measured = (
                f"{row['ours_faster']:.1f} ({row['range']}): {ours['seconds']:.2f} s against "
                f"{row['seconds']:.1f} s; first call {row['first_faster']:.1f}; peak memory "
                f"{row['our_peak_share']:.2f} ({ours['peak_gb']:.2f} of {row['peak_gb']:.2f} GB)"
            )
            what = (f"Graph of {result['tokens']} tokens, {result['feature_nodes']:,} features "
                    f"({kind}): times as fast as {row['by']}")  # fmt: skip
            out.append((what, measured, aim, "speed/attribution.py"))
        limit = f"{ours['seconds'] / ours['limit_seconds']:.1f} ({ours['limit_seconds']:.2f} s for "
        limit += f"{ours['gflop']:.0f} GFLOP)"
        same = (
            f"{ours['nodes_in_common']} features, weights within {ours['largest_difference']:.0e}"
        )
        out += [
            ("the same graph", same, "2e-5", "speed/attribution.py"),
            ("the same, over its arithmetic limit", limit, "aim 2", "speed/attribution.py"),
        ]
    return out


def growth(result: dict[str, Any]) -> list[Row]:
    """Make the rows of the growth exponents and the long prompt."""
    fits, limits = result["exponents"], result["limits"]
    script, long = "scale/attribution.py", result["long_prompt"]
    powers = ", ".join(f"{power:.2f} in {what}" for what, power in fits.items())
    most = ", ".join(f"{limit:.0f}" for limit in limits.values())
    out: list[Row] = [("Time of a graph grows with power", powers, f"≤ {most}", script)]
    if long:
        what = f"Graph of {long['tokens']:,} tokens, {long['feature_nodes']:,} of "
        what += f"{long['active_features']:,} features, {long['edges']:,} edges"
        measured = f"{long['peak_gb']:.1f} GB at most, {long['seconds']:.0f} s"
        out.append((what, measured, "≤ 6 GB", script))
    return out


def smollm2(result: dict[str, Any]) -> list[Row]:
    """Make the rows of SmolLM2's graphs."""
    return [
        (
            f"SmolLM2, {row['prompt']} prompt over {row['over']}: graph of "
            f"{result['feature_nodes']:,} features",
            f"{row['first_seconds']:.0f} s with compiling, {row['seconds']:.0f} s after; "
            f"replacement {row['replacement']:.2f}, completeness {row['completeness']:.2f}",
            "≤ 60 s",
            "circuits/smollm2_graphs.py",
        )
        for row in result["rows"]
    ]


def plan(result: dict[str, Any]) -> list[Row]:
    """Make the rows of the memory plans for Llama-2-70B."""
    out: list[Row] = []
    for topology in dict.fromkeys(row["topology"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["topology"] == topology]
        sizes = ", ".join(f"{row['program']} {row['total'] / GIB:.1f}" for row in rows)
        what = f"Llama-2-70B, graph of {result['tokens']:,} tokens and "
        what += f"{result['settings']['max_feature_nodes']:,} features, {topology}"
        limit = f"< {rows[0]['memory'] / GIB:.2f} GiB"
        out.append((what, f"{sizes} GiB a chip", limit, "scale/plan_attribution.py"))
    return out


ROWS: Rows = {
    "attribution_parity": parity,
    "attribution_families": families,
    "attribution_speed": speed,
    "attribution_growth": growth,
    "attribution_smollm2": smollm2,
    "plan_attribution": plan,
}
