"""How few nodes add modulo a prime? Features of a small transcoder, and heads.

    python -m experiments.circuits.modular_arithmetic --seeds 5  # about half an hour on two cores

Modular addition with p = 53 and 113, one and two layers, five models each. The transcoder's errors
are in no circuit: a circuit of all nodes is the replacement model. `whole`: a dictionary of so few
features that all its nodes are the circuit (32, heads counted; 40 in two layers). `searched`: one
of 48 features (24 a layer in two), from which masks and measured swaps choose. Found on the
discover split under counterfactual ablation, judged on the test split under that and three that
nobody optimised for. Expected: `whole` keeps 97% and more under all four; `searched` with 40 nodes
does so for p = 53. Writes results/modular_arithmetic.json.
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
    """Circuits of modular addition.

    Attributes:
        seeds: Models of each prime and depth.
        primes: Moduli.
        layers: Depths of the models.
        whole: Features a layer, for each depth, of a dictionary all of whose nodes are the circuit.
        searched: Features a layer, for each depth, of a dictionary that circuits are searched in.
        nodes: Sizes of the circuits that are searched.
        small: Training and search.
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
    """The algorithm, a model trained on it, and its task."""
    algorithm = algorithm_of("modular_addition", p=p)
    model = trained(algorithm, seed, small, layers)
    task = tasks.task("modular_addition", model, sizes=small.sizes, seed=seed)
    return algorithm, model, task


def measure(cell: Row, config: Config) -> list[Row]:
    """Circuits of one model, over a dictionary that is all circuit and over a larger one."""
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
