"""Make the README's table of what each stage of the method contributes."""

from __future__ import annotations

from experiments.readme.smollm2 import interval

TEXT = (
    "The method with one stage switched off at a time (`circuits/ablation_study.py`), for circuits "
    "of one size over neurons and heads. Faithfulness, and KL as a share of the empty circuit's, "
    "are of the test split, under the ablation that masks were trained under (counterfactual) and "
    "under another one (mean). Seconds are those of finding the circuit:"
)
HEAD = (
    "task, nodes", "variant", "seeds", "faithfulness, counterfactual", "KL, counterfactual",
    "faithfulness, mean", "KL, mean", "seconds",
)  # fmt: skip


def rows(result: dict) -> list[tuple[str, ...]]:
    """Make a row for each task and variant."""
    made = []
    every = result["rows"]
    for task, variant in dict.fromkeys((r["task"], r["variant"]) for r in every):
        own = [r for r in every if (r["task"], r["variant"]) == (task, variant)]
        measured = []
        for ablation in ("counterfactual", "mean"):
            under = [r for r in own if r["ablation"] == ablation]
            shares = interval([100 * r["kl_share"] for r in under], "{:.0f}")
            measured += [interval([r["faithfulness"] for r in under]), f"{shares}%"]
        seconds = {r["seed"]: r["found_in_s"] for r in own}
        made.append((
            f"{task}, {own[0]['nodes']:,} of {own[0]['of']:,}", variant, str(len(seconds)),
            *measured, interval(list(seconds.values()), "{:.0f}"),
        ))  # fmt: skip
    return made
