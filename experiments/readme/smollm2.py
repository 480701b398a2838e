"""Make the README's table of circuits of SmolLM2; see `readme/tables.py`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from experiments.common.record import half_interval

NAMES = {"smollm2": "neurons", "smollm2_features": "features", "smollm2_mean": "neurons, mean"}
# The judge's gate on |1 − faithfulness|; the records hold the gates on accuracy and KL.
NEAR = 0.3
TEXT = (
    "Circuits of SmolLM2-135M (46,350 neurons and heads; `circuits/smollm2.py`). Masks were "
    "trained under counterfactual ablation alone and tested on the test split. A circuit is within "
    "the gates if its mean faithfulness is .7 to 1.3, its accuracy at least 85% of the model's and "
    "its KL at most 30% of the empty circuit's. These are some of the judge's gates and none of "
    "its tests: random controls, necessity, minimality and the spread over prompts were not "
    "measured here, and no circuit in this table is accepted by the judge. “One-sided” asks for "
    "faithfulness of .9 or more instead of .7 to 1.3. Sizes are shares of all nodes. Of two seeds "
    "both values are given, of more the mean ± half of the 95% interval (Student's t):"
)
HEAD = (
    "task, nodes", "ablation", "masks within the gates from", "EAP-IG within the gates from",
    "signed IG within the gates from", "masks of 5%: seeds within the gates", "one-sided",
    "masks of 5%: faithfulness", "KL, of the empty circuit's", "EAP-IG of 5%: faithfulness",
    "KL, of the empty circuit's", "CMD of masks", "CMD of EAP-IG", "CMD of signed IG",
    "seeds in which masks' CMD is below EAP-IG's",
)  # fmt: skip


def rows(results: dict[str, dict]) -> list[tuple[str, ...]]:
    """Make a row for each task, kind of nodes and ablation, from records by name."""
    made = []
    for name, result in results.items():
        every = result["rows"]
        for task in dict.fromkeys(r["task"] for r in every):
            for ablation in dict.fromkeys(r["ablation"] for r in every):
                own = [r for r in every if (r["task"], r["ablation"]) == (task, ablation)]
                by = ("hagd", "eap_ig", "ig")
                ours, theirs, ig = ([r for r in own if r["by"] == name] for name in by)
                cmd, cmd_eap, cmd_ig = (
                    {r["seed"]: r["cmd"] for r in side} for side in (ours, theirs, ig)
                )
                lower = sum(cmd[seed] < cmd_eap[seed] for seed in cmd)
                at_five, seeds = at_5(ours), len(_seeds(own))
                made.append((
                    f"{task.replace('_', ' ')}, {NAMES[name]}", ablation,
                    *(_from(side) if side else "" for side in (ours, theirs, ig)),
                    f"{sum(map(within, at_five))} of {seeds}",
                    f"{sum(map(one_sided, at_five))} of {seeds}",
                    *(_mean(at_5(side), of) for side in (ours, theirs)
                      for of in ("faithfulness", "kl")),
                    *(interval(list(of.values())) for of in (cmd, cmd_eap, cmd_ig)),
                    f"{lower} of {len(cmd)}",
                ))  # fmt: skip
    return made


def _seeds(found: Iterable[dict]) -> list[int]:
    return sorted({r["seed"] for r in found})


def within(row: dict) -> bool:
    """Return whether a circuit is within the gates."""
    return row["gates"] and abs(row["faithfulness"] - 1) <= NEAR


def one_sided(row: dict) -> bool:
    """Return whether a circuit is within the gates if faithfulness has no upper gate."""
    return row["gates"] and row["faithfulness"] >= 0.9


def at_5(found: Iterable[dict]) -> list[dict]:
    """Return the circuits that have 5% of the nodes."""
    return [r for r in found if round(r["share"], 3) == 0.05]


def _from(found: list[dict]) -> str:
    """Format the smallest share of nodes within the gates, as a range over seeds."""
    least = [least_share(r for r in found if r["seed"] == seed) for seed in _seeds(found)]
    some = [share for share in least if share is not None]
    if not some:
        return "100%"
    said = " to ".join(dict.fromkeys(f"{share:.1%}" for share in (min(some), max(some))))
    missing = len(least) - len(some)
    return said + (f" ({missing} of {len(least)} 100%)" if missing else "")


def least_share(found: Iterable[dict]) -> float | None:
    """Return the smallest share of nodes within the gates; None if only the whole model is."""
    return min((r["share"] for r in found if within(r) and r["share"] < 1), default=None)


def _mean(own: list[dict], of: str) -> str:
    """Format faithfulness, or KL in percent, over seeds."""
    if of == "kl":
        return interval([100 * r["kl_share"] for r in own], "{:.0f}") + "%"
    return interval([r[of] for r in own])


def interval(values: list[float], form: str = "{:.2f}") -> str:
    """Format one value, the range of two, or mean ± half of the 95% interval (Student's t)."""
    if not values:
        return ""
    if len(values) == 1:
        return form.format(values[0])
    if len(values) == 2:
        return f"{form.format(min(values))} to {form.format(max(values))}"
    half = half_interval(values)
    return f"{form.format(np.mean(values))} ± {form.format(half)}"
