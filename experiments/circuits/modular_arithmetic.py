"""How few nodes compute addition modulo a prime? Circuits over transcoder features and heads.

    python -m experiments.circuits.modular_arithmetic --seeds 5  # about half an hour on two cores

There are five models for each of p = 53 and 113 with one and two layers. The transcoder's errors
are in no circuit, so the circuit of all nodes is the replacement model. `whole` is a dictionary
with so few features that all its nodes are the circuit (32 nodes with the heads; 40 in two layers).
`searched` is a dictionary with 48 features (24 per layer in two layers), from which masks and
measured swaps choose. Circuits are found on the discover split under counterfactual ablation, and
tested on the test split under that and three ablations that the search did not optimise for.
Expected: `whole` keeps 97% and more under all four; `searched` with 40 nodes does so for p = 53.
Writes results/modular_arithmetic.json.
"""

from __future__ import annotations

import dataclasses
from functools import cache

from experiments.common.cells import Row, measure_cells
from experiments.common.script import Places, run
from experiments.common.small_models import (
    Small,
    algorithm_of,
    circuit_of,
    features_of,
    judged,
    summarise,
    trained,
)
from hagd_jax import tasks, units


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for finding circuits of modular addition.

    Attributes:
        seeds: Number of models for each prime and depth.
        primes: Moduli.
        layers: Numbers of layers.
        whole: Features per layer, for each depth, of the dictionary whose nodes are the circuit.
        searched: Features per layer, for each depth, of the dictionary that is searched.
        nodes: Sizes of the searched circuits, in nodes.
        small: Settings of training and search.
    """

    seeds: int = 5
    primes: tuple[int, ...] = (53, 113)
    layers: tuple[int, ...] = (1, 2)
    whole: tuple[int, ...] = (28, 16)
    searched: tuple[int, ...] = (48, 24)
    nodes: tuple[int, ...] = (32, 40, 49)
    small: Small = Small()


@cache
def model_of(p: int, layers: int, seed: int, small: Small) -> tuple:
    """Return the algorithm, a model trained on it, and its task."""
    algorithm = algorithm_of("modular_addition", p=p)
    model = trained(algorithm, seed, small, layers)
    task = tasks.task("modular_addition", model, sizes=small.sizes, seed=seed)
    return algorithm, model, task


def measure(cell: Row, config: Config) -> list[Row]:
    """Find and test circuits of one model over the small and the larger dictionary."""
    seed, small = cell["seed"], config.small
    algorithm, model, task = model_of(cell["p"], cell["layers"], seed, small)
    at, rows = config.layers.index(cell["layers"]), []
    for by, count in (("whole", config.whole[at]), ("searched", config.searched[at])):
        found = features_of(model, algorithm, count, seed, small)
        nodes = units.as_dictionary(model, found, keep_error=False)
        for size in config.nodes if by == "searched" else (nodes.space.nodes,):
            mask, seconds = circuit_of(model, task, nodes, size, seed, small)
            own = {"by": by, "search_seconds": round(seconds, 1)}
            rows += [own | row for row in judged(model, task, nodes, mask, seed, small)]
    return rows


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
        varied=("seeds", "primes"), split="test",
        sizes=[sizes.discover, sizes.select, sizes.test],
    )  # fmt: skip
    by = ("p", "layers", "by", "nodes", "ablation")
    summarise(config.results / "modular_arithmetic.json", rows, *by)


if __name__ == "__main__":
    run(main, Config, __doc__)
