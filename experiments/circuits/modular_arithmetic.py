"""How few nodes compute addition modulo a prime? Circuits over transcoder features and heads.

    python -m experiments.circuits.modular_arithmetic

There is a model for each of p = 53, 113, 59 and 97 with one and two layers; settings were chosen on
p = 53 with one layer. The dictionary has 256 features per layer beside 4 heads, and its errors are
in no circuit. Its training adds the reconstruction errors of the first 16, 32, 64 and 128 features.
Nodes are eliminated by the largest of the losses under four ablations, on the discover split,
without knowledge of their order. Rows by `asked` are circuits of 32 of 260 nodes (64 of 520 in two
layers); rows by `smallest` are the smallest circuits on the way that keep 98% on the select split;
rows by `first` are as large as `asked`, with the first features of each layer. All are tested on
the test split, beside random circuits with as many heads and features. Expected: `asked` keeps 97%
and more under the worst of the four ablations, and `first` about as much: training for prefixes
makes a small circuit exist, and the search finds one. The cell of p = 53 with one layer took twelve
minutes on two busy cores. Writes results/modular_arithmetic.json.
"""

from __future__ import annotations

import dataclasses

from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from experiments.common.small_models import (
    Small,
    algorithm_of,
    features_of,
    rows_of,
    summarise,
    trained,
)
from hagd_jax import tasks


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for finding circuits of modular addition.

    Attributes:
        seeds: Number of models for each prime and depth.
        primes: Moduli.
        layers: Numbers of layers.
        nodes: Size of the circuits for each layer of a model, in nodes.
        small: Settings of training and search.
    """

    seeds: int = 1
    primes: tuple[int, ...] = (53, 113, 59, 97)
    layers: tuple[int, ...] = (1, 2)
    nodes: int = 32
    small: Small = Small()


def measure(cell: Row, config: Config) -> list[Row]:
    """Train a model and its dictionary, find circuits, and test them."""
    p, layers, seed = cell["p"], cell["layers"], cell["seed"]
    algorithm = algorithm_of("modular_addition", p=p)
    model = trained(algorithm, seed, config.small, layers)
    task = tasks.task("modular_addition", model, sizes=config.small.sizes, seed=seed)
    nodes = features_of(model, algorithm, seed, config.small)
    return rows_of(model, task, nodes, config.nodes * layers, seed, config.small)


def main(config: Config) -> None:
    """Measure all models, and summarise over seeds."""
    cells = [
        {"p": p, "layers": layers, "seed": seed}
        for seed in range(config.seeds)
        for p in config.primes
        for layers in config.layers
    ]
    sizes = config.small.sizes
    rows = measure_cells(
        "modular_arithmetic", cells, lambda cell: measure(cell, config), config,
        varied=("seeds", "primes", "layers"), split="test",
        sizes=[sizes.discover, sizes.select, sizes.test],
    )  # fmt: skip
    summarise(config.results / "modular_arithmetic.json", rows, "p", "layers", "by", "ablation")


if __name__ == "__main__":
    run(main, Config, __doc__)
