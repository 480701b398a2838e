"""Make the README's rows about the method itself; see `readme/tables.py`."""

from __future__ import annotations

import numpy as np

from experiments.readme.rows import GIB, Row, Rows


def modular(result: dict) -> list[Row]:
    """Make the rows of modular addition, for each size: what each model's circuit keeps."""
    made = []
    for by in _WHICH:
        said = []
        for row in _worst(result, by):
            deep = f"{row['layers']} layer{'s' * (row['layers'] > 1)}"
            said.append(f"p = {row['p']}, {deep}: {_kept(row)}")
        if said:
            target = "≥ 97% with ≤ 32 of 260 and ≤ 64 of 520" if by == "asked" else "—"
            made.append((f"Modular addition, {_WHICH[by]}: {_WORST}{_seeds(result)}",
                         "; ".join(said), target, "circuits/modular_arithmetic.py"))  # fmt: skip
    return made


def algorithmic(result: dict) -> list[Row]:
    """Make the rows of parity and sorting."""
    return [
        (f"{row['task'].title()}, {_which(row)}: {_WORST}{_seeds(result)}", _kept(row),
         "≥ 97%" if by == "asked" else "—", "circuits/algorithmic.py")
        for by in _WHICH for row in _worst(result, by)
    ]  # fmt: skip


_WHICH = {"asked": "circuits of heads and features",
          "smallest": "smallest circuits that keep 98% on the select split",
          "first": "the first features in the order of training, without a search"}  # fmt: skip
_WORST = (
    "accuracy kept under the worst of four ablations (mean and best of 20 random circuits with as "
    "many heads and features)"
)


def _which(row: dict) -> str:
    """Say what the circuits are, over neurons or over features."""
    said = _WHICH[row["by"]]
    return said.replace("features", "neurons") if row["dictionary"] == "neurons" else said


def _worst(result: dict, by: str) -> list[dict]:
    return [row for row in result["summary"] if (row["by"], row["ablation"]) == (by, "worst")]


def _kept(row: dict) -> str:
    def several(values: list[int]) -> str:
        return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"

    nodes, heads, of = (several(row[name]) for name in ("nodes", "heads", "of"))
    return (f"{nodes} of {of} nodes, {heads} of them heads: {_spread(row)} "
            f"({row['random']:.0%}, {row['random_best']:.0%})")  # fmt: skip


def _spread(row: dict) -> str:
    if row["seeds"] == 1:
        return f"{row['preservation']:.1%}"
    return f"{row['preservation']:.1%} ({row['low']:.1%} to {min(row['high'], 1):.1%})"


def _seeds(result: dict) -> str:
    counts = {row["seeds"] for row in result["summary"]}
    return ", one seed" if counts == {1} else f", {max(counts)} seeds"


def ground_truth(result: dict) -> list[Row]:
    """Make the rows of known circuits: AUROC 1.0 and exact recovery, beside EAP-IG."""
    made = []
    kinds = {"nodes": ("by hand", "nodes"), "edges": ("by hand", "edges"),
             "edges of compiled programs": ("compiled", "edges")}  # fmt: skip
    for what, (family, of) in kinds.items():
        own = [r for r in result["rows"] if (r["family"], r["of"]) == (family, of)]
        said = []
        for by, name in (("hagd", "masks and swaps"), ("masks", "masks alone"),
                         ("eap_ig", "EAP-IG"), ("|eap_ig|", "EAP-IG's magnitude")):  # fmt: skip
            mine = [r for r in own if r["by"] == by]
            if mine:
                perfect = sum(r["auroc"] == 1 for r in mine)
                exact = sum(r["exact"] for r in mine)
                said.append(f"{name} {perfect} and {exact}")
        if said:
            count = len(own) // len({r["by"] for r in own})
            made.append((f"Known circuits of {what}, {count} cases: AUROC 1.0 and found exactly",
                         "; ".join(said), "≥ 90% and ≥ 80%",
                         "circuits/ground_truth.py"))  # fmt: skip
    return made


def random_programs(result: dict) -> list[Row]:
    """Make a row for each half of the random programs: circuits that were found exactly."""
    made = []
    names = {"hagd": "search that begins at measured cuts", "smallest": "size not given",
             "cuts": "cuts alone", "|eap_ig|": "EAP-IG's magnitude"}  # fmt: skip
    for half, target in (("seen", "—"), ("unseen", "≥ 95%")):
        own = [row for row in result["rows"] if row["half"] == half]
        said = [f"{name} {sum(r['exact'] for r in own if r['by'] == by)}"
                for by, name in names.items()]  # fmt: skip
        if own:
            count = sum(row["by"] == "hagd" for row in own)
            made.append((f"Edges of random programs, {count} {half} ones: found exactly",
                         "; ".join(said), target, "circuits/random_programs.py"))  # fmt: skip
    return made


def roles(result: dict) -> list[Row]:
    """Make rows for roles: units with a known purpose, and heads without any."""
    own = result["summary"]["held out"]
    right = f"{own['right']} of {own['units']} ({own['share_right']:.1%})"
    named = f"{own['random_named']} of {own['random_heads']} ({own['share_random_named']:.1%})"
    script = "judge/roles.py"
    return [
        ("Roles of units whose purpose is known, in models that tuned no rule: right", right,
         "≥ 85%", script),
        ("The same: random heads of models with permuted weights that are given a role", named,
         "≤ 5%", script),
    ]  # fmt: skip


def exhaustive(result: dict) -> list[Row]:
    """Make the row of the comparison with exhaustive search."""
    rows = result["rows"]
    within, spent = sum(r["within"] for r in rows), [r["evaluations"] for r in rows]
    worst = max(r["ratio"] for r in rows)
    ig = sum(r["ig"] <= 1.01 * r["least"] for r in rows)
    said = (f"{within} of {len(rows)} (worst {worst:.3f} times the least loss; signed IG {ig}); "
            f"{int(np.median(spent))} evaluations, {max(spent)} at most")  # fmt: skip
    return [("Random models of 16 nodes, all 65,536 circuits tried: loss within 1% of the best",
             said, "≥ 95%, ≤ 655 evaluations", "circuits/exhaustive.py")]  # fmt: skip


def growth(result: dict) -> list[Row]:
    """Make the row of the growth exponents of time and memory."""
    exponents = result["exponents"]
    said = ", ".join(f"{name} {list(e.values())[1]:.2f}" for name, e in exponents.items())
    first, last = result["rows"][0]["nodes"], result["rows"][-1]["nodes"]
    part = list(exponents["all"])[1]
    return [(f"Time and memory grow with nodes to the power of ({first} to {last:,}; {part})", said,
             "≤ 2.2, memory ≤ 2", "scale/complexity.py")]  # fmt: skip


def plans(result: dict) -> list[Row]:
    """Make the rows of the memory plans for the composed step on TPU slices."""
    return [
        (f"Composed step of {r['model']}, {r['topology']}",
         f"{r['total'] / GIB:.1f} GiB a chip{'' if r['fits'] else ', does not fit'}; "
         f"{r['flops_train'] / 1e15:.2f}, {r['flops_attribute'] / 1e15:.2f} and "
         f"{r['flops_search'] / 1e15:.2f} PFLOP a step of training, graph, search",
         f"< {r['memory'] / GIB:.2f} GiB", "scale/plan_pipeline.py")
        for r in result["rows"]
    ]  # fmt: skip


def learner(result: dict) -> list[Row]:
    """Make the rows of the meta-learner, one for each family left out, and of its masks."""
    made = []
    for row in result["rows"]:
        best = row["best single"]
        said = (
            f"{row['prior']:.3f}, adapted {row['adapted']:.3f}; {best.strip('|')} {row[best]:.3f}, "
            f"signed IG {row['ig']:.3f}, each node ablated {row['effects of all']:.3f}"
        )
        made.append((f"Meta-learner, family “{row['family left out']}” left out: AUROC of "
                     f"{row['graphs']} graphs", said, "0.05 above the best single score",
                     "circuits/meta_learning.py"))  # fmt: skip
    loss = {(r["family"], r["graph"], r["begins at"], r["steps"]): r["loss"]
            for r in result["starts"]}  # fmt: skip
    for family in dict.fromkeys(r["family"] for r in result["starts"]):
        graphs = dict.fromkeys(r["graph"] for r in result["starts"] if r["family"] == family)
        pairs = [(loss[family, g, "prior", n], loss[family, g, "ig", 2 * n])
                 for g in graphs for n in (25, 50, 100)]  # fmt: skip
        better = sum(ours < 0.99 * theirs for ours, theirs in pairs)
        equal = sum(abs(ours - theirs) <= 0.01 * theirs for ours, theirs in pairs)
        made.append((f"Masks that begin at its logits, {len(graphs)} graphs of “{family}”: loss "
                     "after 25, 50, 100 steps beside those from signed IG after twice as many",
                     f"lower {better}, equal {equal}, higher {len(pairs) - better - equal}",
                     "none higher", "circuits/meta_learning.py"))  # fmt: skip
    return made


def stability(result: dict) -> list[Row]:
    """Make the rows of the overlap of circuits found on disjoint prompts."""
    made, clusters = [], " and ".join(map(str, result["clusters"]))
    for row in result["rows"]:
        if row["share"] not in (0.05, 0.1):
            continue

        def both(name: str, row: dict = row) -> str:
            return f"{row[name]:.2f} (chance {row[f'chance of {name}']:.2f})"

        several = ", ".join(both(name) for name in row if name.startswith("level"))
        said = f"heads {both('heads')}, supernodes {several}; leaves {both('leaves')}, " + (
            f"of layer 0 {both('neurons of layer 0')}, later {both('later neurons')}"
        )
        what = f"{result['task']}, circuits of {row['share']:.0%}, {len(result['seeds'])} seeds"
        made.append((f"{what} of disjoint prompts: Jaccard, supernodes of {clusters}", said,
                     "≥ 0.7 on heads and supernodes", "circuits/stability.py"))  # fmt: skip
    return made


def executors(result: dict) -> list[Row]:
    """Make the row of the comparison of the staged and the fused executor."""
    rows = result["rows"]
    said = f"{result['same']} of {len(rows)} cases"
    other = [
        f"{row['case']} {row['differ']} of {row['members']} members, whose ranks are within "
        f"{row['gap']:.0e} of each other" for row in rows if row["differ"]
    ]  # fmt: skip
    return [
        ("Staged and fused executor end with the same circuit", "; ".join([said, *other]),
         "all but ties", "parity/executors.py")
    ]  # fmt: skip


ROWS: Rows = {
    "modular_arithmetic": modular,
    "algorithmic": algorithmic,
    "ground_truth": ground_truth,
    "random_programs": random_programs,
    "roles": roles,
    "exhaustive_check": exhaustive,
    "stability": stability,
    "meta_learning": learner,
    "complexity": growth,
    "plan_pipeline": plans,
    "executors": executors,
}
