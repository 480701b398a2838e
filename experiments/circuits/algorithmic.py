"""How few nodes compute parity, and how few sort? Circuits over transcoder features and heads.

    python -m experiments.circuits.algorithmic

There is a model of each task. Circuits of parity consist of heads and neurons (32 of 516), those of
sorting of heads and features (32 of 260). The search, the tests and the rows are those of
`modular_arithmetic.py`. A model that does not reach 95% on the select split is trained again with
another seed, and the number of such failures is recorded. Expected: 97% and more under the worst of
four ablations. Writes results/algorithmic.json.
"""

from __future__ import annotations

import dataclasses

from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from experiments.common.small_models import (
    Small,
    algorithm_of,
    features_of,
    learnt,
    rows_of,
    summarise,
)
from hagd_jax import units
from hagd_jax.search import EliminateConfig
from hagd_jax.tasks import Sizes


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for finding circuits of parity and sorting.

    Attributes:
        seeds: Number of models of each algorithm.
        tasks: Names of the algorithms.
        neurons: Those whose circuits consist of neurons; all others consist of features.
        nodes: Size of the circuits for each layer of a model, in nodes.
        small: Settings of training and search.
    """

    seeds: int = 1
    tasks: tuple[str, ...] = ("parity", "sorting")
    neurons: tuple[str, ...] = ("parity",)
    nodes: int = 32
    small: Small = Small(
        feature_batch=128, sizes=Sizes(discover=256, select=128, test=256),
        eliminate=EliminateConfig(at_once=0.25, swaps=2, least=0.02),
    )  # fmt: skip


def measure(cell: Row, config: Config) -> list[Row]:
    """Train a model and its dictionary, find circuits, and test them."""
    seed, small = cell["seed"], config.small
    model, task, failed = learnt(cell["task"], seed, small)
    if cell["task"] in config.neurons:
        nodes = units.neurons(model)
    else:
        nodes = features_of(model, algorithm_of(cell["task"]), seed, small)
    own = {"layers": model.config.n_layers, "not_learnt": failed, "dictionary": nodes.label}
    size = config.nodes * model.config.n_layers
    return [own | row for row in rows_of(model, task, nodes, size, seed, small)]


def main(config: Config) -> None:
    """Measure all models, and summarise over seeds."""
    cells = [{"task": name, "seed": seed} for seed in range(config.seeds) for name in config.tasks]
    rows = measure_cells(
        "algorithmic", cells, lambda cell: measure(cell, config), config,
        varied=("seeds", "tasks"), split="test",
    )  # fmt: skip
    summarise(config.results / "algorithmic.json", rows, "task", "by", "dictionary", "ablation")


if __name__ == "__main__":
    run(main, Config, __doc__)
