"""The README's table of circuits of SmolLM2; see `readme/tables.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from experiments.common.record import half_interval
from hagd_jax.causal.gates import FAITHFULNESS_GATE

NAMES = {"smollm2": "neurons", "smollm2_features": "features", "smollm2_mean": "neurons, mean"}
TEXT = (
    "Circuits of SmolLM2-135M (46,350 neurons and heads, or 138,510 features and heads; "
    "`circuits/smollm2.py`, `--features FOLDER`, `--mean 0.5`), trained under counterfactual "
    "ablation alone (“mean”: and under mean), judged on the test split. A circuit holds if it has"
    " faithfulness ≥ .9, accuracy ≥ 85% of the model's and KL ≤ 30% of the empty circuit's; "
    "“near”: with faithfulness from .7 to 1.3, as the judge asks among other things. Shares of "
    "all nodes; of two seeds both ends; of more, mean ± half of the 95% interval (Student's t):"
)
HEAD = (
    "task, nodes", "ablation", "seeds", "masks hold from", "EAP-IG holds from",
    "signed IG holds from", "masks near from", "EAP-IG near from",
    "masks of 5%: faithfulness", "their KL, of the empty circuit's", "EAP-IG of 5%: faithfulness",
    "its KL", "CMD of masks", "CMD of EAP-IG", "CMD of signed IG",
    "seeds in which masks' CMD is below EAP-IG's",
)  # fmt: skip


def rows(results: dict[str, dict]) -> list[tuple[str, ...]]:
    """A row a task, kind of nodes and ablation, of results by name."""
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
                made.append((
                    f"{task.replace('_', ' ')}, {NAMES[name]}", ablation,
                    str(len(_seeds(own))), _holds(ours), _holds(theirs), _holds(ig) if ig else "",
                    _holds(ours, near), _holds(theirs, near),
                    *(_at_5(side, of) for side in (ours, theirs) for of in ("faithfulness", "kl")),
                    *(interval(list(of.values())) for of in (cmd, cmd_eap, cmd_ig)),
                    f"{lower} of {len(cmd)}",
                ))  # fmt: skip
    return made


def _seeds(found: Iterable[dict]) -> list[int]:
    return sorted({r["seed"] for r in found})


def enough(faithfulness: float) -> bool:
    return faithfulness >= 0.9


def near(faithfulness: float) -> bool:
    return abs(faithfulness - 1) <= FAITHFULNESS_GATE


def _holds(found: list[dict], fit: Callable[[float], bool] = enough) -> str:
    """The least share of nodes that passes the gates and is faithful, over seeds."""
    least = [_least((r for r in found if r["seed"] == seed), fit) for seed in _seeds(found)]
    some = [share for share in least if share is not None]
    if not some:
        return "100%"
    said = " to ".join(dict.fromkeys(f"{share:.1%}" for share in (min(some), max(some))))
    missing = len(least) - len(some)
    return said + (f" ({missing} of {len(least)} 100%)" if missing else "")


def _least(found: Iterable[dict], fit: Callable[[float], bool]) -> float | None:
    """The least share of nodes that holds; None if none but all nodes does."""
    shares = [r["share"] for r in found
              if r["gates"] and fit(r["faithfulness"]) and r["share"] < 1]  # fmt: skip
    return min(shares, default=None)


def _at_5(found: list[dict], of: str) -> str:
    own = [r for r in found if round(r["share"], 3) == 0.05]
    if of == "kl":
        return interval([100 * r["kl_share"] for r in own], "{:.0f}") + "%"
    return interval([r[of] for r in own])


def interval(values: list[float], form: str = "{:.2f}") -> str:
    """The one value, both ends of two, mean ± half of the 95% interval (Student's t) of more."""
    if not values:
        return ""
    if len(values) == 1:
        return form.format(values[0])
    if len(values) == 2:
        return f"{form.format(min(values))} to {form.format(max(values))}"
    half = half_interval(values)
    return f"{form.format(np.mean(values))} ± {form.format(half)}"
