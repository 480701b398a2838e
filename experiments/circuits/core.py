"""Which units are in most discoveries, whichever few prompts change? Certified cores.

    python -m experiments.circuits.core  # about ten minutes on two cores
    python -m experiments.circuits.core --model smollm2-135m --tasks ioi greater-than --by mean

Without `--model` the models are small ones, trained on the task's algorithm. Every discover prompt
is scored by itself: integrated gradients of all heads and neurons from the counterfactual. Then
units are discovered from `kept` prompts, `subsets` times: those of the highest `mean`, those whose
means are furthest from zero (`magnitude`), or those that a search for masks opens (`masks`, which
runs `searches` times). The circuit is what the same rule finds on all prompts.

There is a row for each certified radius: how many units no change of so many prompts can evict,
and what they keep alone on the test split, beside the circuit and as many random members of it.
`overlap` is the mean Jaccard index of discoveries from prompts of which no two share any, and
`chance` that of random units with the same number in each layer. `seconds` are those of the
discoveries. Writes results/core.json, or results/core_smollm2.json; a stopped run continues.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

import hagd_jax as hagd
from experiments.circuits.smollm2 import limited, loaded
from experiments.circuits.stability import by_chance, jaccard
from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from experiments.common.small_models import Small, learnt
from hagd_jax import tasks
from hagd_jax.causal import Circuit
from hagd_jax.scores import GradientConfig, mean_scores
from hagd_jax.search import (
    Core,
    CoreConfig,
    MaskConfig,
    core,
    core_keeps,
    core_of_rule,
    search_masks,
)
from hagd_jax.search.discoveries import found_in
from hagd_jax.tasks import Sizes
from hagd_jax.units import Dictionary, Nodes, Scores, Selection

By = Literal["mean", "magnitude", "masks"]


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring certified cores.

    Attributes:
        model: Name or folder of the model; small trained ones if empty.
        tasks: Names of the tasks; of algorithms without a model.
        seeds: Number of seeds of models, prompts and subsets.
        by: Rules that discover.
        shares: Circuit sizes, as shares of all nodes.
        kept: Numbers of prompts in a subset.
        prompts: Number of discover prompts.
        subsets: Number of discoveries by scores.
        searches: Number of discoveries by masks.
        radii: Radii that are reported, as far as units have them.
        draws: Number of random parts of the circuit.
        ablation: What replaces nodes when cores are tested.
        gradient: Steps of the integrated gradients; one prompt a call.
        masks: Training of the masks.
        small: Training of small models.
        batch_size: Prompts per call when cores are tested.
    """

    model: str = ""
    tasks: tuple[str, ...] = ("modular_addition",)
    seeds: int = 2
    by: tuple[By, ...] = ("mean", "magnitude", "masks")
    shares: tuple[float, ...] = (0.1, 0.3)
    kept: tuple[int, ...] = (8, 32)
    prompts: int = 256
    subsets: int = 1000
    searches: int = 64
    radii: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    draws: int = 16
    ablation: str = "counterfactual"
    gradient: GradientConfig = GradientConfig(batch_size=1)
    masks: MaskConfig = MaskConfig()
    small: Small = Small()
    batch_size: int = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """Work is a model and a task with the scores of each discover prompt.

    Attributes:
        model: The model.
        task: The task.
        nodes: Its heads and neurons.
        scores: (P, N) float32 integrated gradients.
        each: What the scores of all prompts have seen, on their mean.
        seconds: Runtime of the scores.
    """

    model: hagd.models.LanguageModel
    task: tasks.Task
    nodes: Dictionary
    scores: np.ndarray
    each: Scores
    seconds: float


@cache
def work(name: str, seed: int, config: Config) -> Work:
    """Load or train a model, and score each discover prompt by itself."""
    if config.model:
        model, nodes = loaded(config.model, "")
        sizes = limited(name, Sizes(config.prompts, 64, 64))
        task = tasks.task(name, model, sizes=sizes, seed=seed)
    else:
        model, task, _ = learnt(name, seed, config.small)
        nodes = hagd.units.neurons(model)
    began, prompts = time.monotonic(), task.splits["discover"][: config.prompts]
    rows = [mean_scores(model, prompts[i : i + 1], config.gradient) for i in range(len(prompts))]
    seen = rows[0].seen
    for row in rows[1:]:
        seen |= row.seen
    scores = np.stack([row.flat() for row in rows])
    each = Scores(Nodes.from_flat(nodes.space, scores.mean(0)), seen)
    return Work(model, task, nodes, scores, each, time.monotonic() - began)


def finder(given: Work, by: By, size: int, config: Config) -> Callable[[np.ndarray, int], Any]:
    """Return the rule that discovers units from prompts."""
    if by != "masks":
        return lambda rows, _: np.concatenate(
            list(found_in(given.scores, rows[None], size, by=by))
        )[0]  # fmt: skip

    def by_masks(rows: np.ndarray, seed: int) -> Selection:
        start = given.each.like(given.scores[rows].mean(0))
        prompts = given.task.splits["discover"][rows]
        found = search_masks(given.model, prompts, start, [size], config.masks, seed=seed)
        return found.circuits[size]

    return by_masks


def discovered(given: Work, cell: Row, size: int, config: Config) -> Core:
    """Discover from random subsets."""
    subsets = config.searches if cell["by"] == "masks" else config.subsets
    settings = CoreConfig(kept=cell["kept"], subsets=subsets)
    if cell["by"] == "masks":
        rule = finder(given, "masks", size, config)
        prompts, units = given.scores.shape
        return core_of_rule(rule, prompts, units, settings, seed=cell["seed"])
    settings = dataclasses.replace(settings, by=cell["by"])
    return core(given.scores, size, settings, seen=given.each.seen, seed=cell["seed"])


def overlap(given: Work, cell: Row, size: int, config: Config) -> Row:
    """Return the overlap of discoveries from disjoint prompts, and of random units."""
    rule, prompts = finder(given, cell["by"], size, config), len(given.scores)
    order = np.random.default_rng([cell["seed"], 3]).permutation(prompts)
    blocks = order[: prompts // cell["kept"] * cell["kept"]].reshape(-1, cell["kept"])[:10]
    found = [rule(np.sort(block), seed) for seed, block in enumerate(blocks)]
    masks = [mask.flat() if isinstance(mask, Selection) else mask for mask in found]
    space = given.nodes.space
    place = np.arange(space.nodes)
    layer = np.where(place < space.layers * space.heads, space.layer, space.layers + space.layer)
    return {"overlap": jaccard(masks), "chance": jaccard(by_chance(masks, layer))}


def measure(cell: Row, config: Config) -> list[Row]:
    """Return a row for each radius that a unit has."""
    given = work(cell["task"], cell["seed"], config)
    size = max(1, round(cell["share"] * given.nodes.space.nodes))
    began = time.monotonic()
    found = discovered(given, cell, size, config)
    seconds = time.monotonic() - began
    everything = np.arange(len(given.scores))
    whole = finder(given, cell["by"], size, config)(everything, cell["seed"])
    mask = whole.mask if isinstance(whole, Selection) else given.each.values.like(whole)
    circuit = Circuit.from_mask(mask, given.each, model=given.model.name, task=cell["task"])
    sizes, rows = found.sizes(), []
    shared: Row = {
        "nodes": size, "of": given.nodes.space.nodes, "prompts": len(everything),
        "subsets": found.subsets, "score_seconds": round(given.seconds, 1),
        "seconds": round(seconds, 2), **overlap(given, cell, size, config),
        "found_ever": int((found.counts > 0).sum()),
    }  # fmt: skip
    for radius in config.radii:
        row: Row = {"radius": radius, "certified": sizes.get(radius, 0)}
        row["barred"] = int((found.barred >= radius).sum())
        if 1 <= row["certified"] <= size:
            keeps = core_keeps(
                given.model, given.task, circuit, found, radius=radius, draws=config.draws,
                dictionary=given.nodes, ablation=config.ablation, batch_size=config.batch_size,
                seed=cell["seed"],
            )  # fmt: skip
            row |= {name: float(f"{value:.4g}") for name, value in keeps.row().items()}
        rows.append(shared | row)
    return rows


def main(config: Config) -> None:
    """Measure all models, rules, sizes and numbers of prompts."""
    cells = [
        {"task": task, "seed": seed, "by": by, "share": share, "kept": kept}
        for seed in range(config.seeds)
        for task in config.tasks
        for by in config.by
        for share in config.shares
        for kept in config.kept
    ]
    name = f"core_{Path(config.model).name.partition('-')[0]}" if config.model else "core"
    measure_cells(
        name, cells, lambda cell: measure(cell, config), config,
        varied=("seeds", "tasks", "by", "shares", "kept"), split="test",
        confidence=1 - CoreConfig().alpha, threshold=CoreConfig().threshold,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
