"""Make the README's table of two-hop models; see `readme/tables.py`."""

from __future__ import annotations

TEXT = (
    "Boolean models whose chains A → B → C are known (`transcoders/two_hop.py`, 20 models). The "
    "skip share is the part of A's effect on C that a transcoder attributes past B; the truth is "
    "0. The Jacobian mismatch compares the transcoder's Jacobian with the MLPs' (0: equal, 1: no "
    "better than nothing). Both are measured on inputs left out of training:"
)
HEAD = (
    "features", "window", "prediction head", "Jacobian loss", "FVU", "Jacobian mismatch",
    "skip share",
)  # fmt: skip


def rows(result: dict) -> list[tuple[str, ...]]:
    """Make a row for each training variant that the README shows."""
    shown = [
        row
        for row in result["rows"]
        if row["pressure"] in ("k=2", "l1=.1") and row["jacobian"] in (0.0, 0.3)
    ]
    return [
        (
            "TopK" if row["pressure"] == "k=2" else "ReLU",
            row["window"],
            "yes" if row["head"] else "no",
            ("no" if not row["jacobian"] else "all tokens" if row["every"] == 1 else "1 in 8"),
            f"{row['fvu']:.4f}",
            f"{row['jacobian_random']:.3f}",
            f"{row['skip_share']:.3f} ± {row['skip_share_se']:.3f}",
        )
        for row in shown
    ]
