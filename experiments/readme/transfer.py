"""Make the README's rows about transfer between models; see `readme/tables.py`."""

from __future__ import annotations

from experiments.readme.rows import Row, Rows

_KNOWN = "transfer/known.py"
_WHAT = {
    "programs": "Known circuits beside the same computation in a larger model, permuted",
    "roles": "Models written by hand in the blocks of four families",
    "blocks": "The same, with neurons of a layer and role as one unit",
}


def known(result: dict) -> list[Row]:
    """Make the rows of matching where it is known which units correspond."""
    made: list[Row] = []
    for part, what in _WHAT.items():
        rows = [row for row in result["rows"] if row["part"] == part and row["known"]]
        total = sum(row["known"] for row in rows)
        if not total:
            continue
        share = {name: sum(row[name] for row in rows) / total
                 for name in ("right", "right_by_role", "right_permuted")}  # fmt: skip
        chance = sum(row["chance"] for row in rows) / total
        made.append(
            (f"{what}: units matched with their counterpart, {total:,} in {len(rows)} pairs",
             f"{share['right']:.1%} (by roles alone {share['right_by_role']:.1%}, with signatures "
             f"permuted {share['right_permuted']:.1%}, chance {chance:.1%})", "≥ 90%", _KNOWN)
        )  # fmt: skip
    made += [_alike(row) for row in result["rows"] if row["part"] == "alike"]
    return made


def _alike(row: dict) -> Row:
    """One behaviour in two families beside two behaviours."""
    own, others = row["similarity"], row["of_others"]
    what = _WHAT[row["of"]]
    return (f"{what}, seed {row['seed']}: similarity of one behaviour in two families, and of two "
            "behaviours",
            f"AUROC {row['auroc']:.3f}; {row['same']} pairs, median {own[0]:.2f}, least "
            f"{own[1]:.2f}; {row['others']} pairs, median {others[0]:.2f}, most {others[1]:.2f}",
            "≥ .95", _KNOWN)  # fmt: skip


def speed(result: dict) -> list[Row]:
    """Make the row of the time of matching."""
    said = []
    for row in result["rows"]:
        compared = row.get("compare_seconds")
        more = "" if compared is None else f", with 99 permutations {compared:.1f} s"
        said.append(f"{row['units']:,} units {row['match_seconds']:.2f} s{more}")
    peak = max(row["peak_gb"] for row in result["rows"])
    return [("Matching two circuits whose portraits are known",
             f"{'; '.join(said)}; peak memory {peak:.1f} GB",
             "150 units compared ≤ 60 s, 1,000 matched ≤ 600 s", "transfer/speed.py")]  # fmt: skip


def calibrated(result: dict) -> list[Row]:
    """Make the row of p-values of circuits that share nothing."""
    (row,) = result["rows"]
    return [(f"{row['pairs']} pairs of random circuits of {row['units']} units, of "
             f"{row['models']} models: p-values uniform, and pairs more similar than a circuit is "
             "to itself on other prompts",
             f"Kolmogorov-Smirnov p {row['ks']:.2f}, at most .05 in {row['at_05']:.1%}; "
             f"{row['above']} pairs", "> 0.01, none", "transfer/calibrated.py")]  # fmt: skip


ROWS: Rows = {
    "transfer_known": known,
    "transfer_calibrated": calibrated,
    "transfer_speed": speed,
}
