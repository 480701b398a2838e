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

import argparse
import json
from functools import cache

from experiments.common.cells import Row, measure_cells
from experiments.common.record import RESULTS, write
from experiments.common.small_models import circuit_of, features_of, judged, summary, trained
from hagd_jax import tasks, units
from hagd_jax.tasks import Sizes

SIZES = Sizes(discover=512, select=128, test=256)
WHOLE = {1: 28, 2: 16}  # features a layer
SEARCHED = {1: 48, 2: 24}
NODES = (32, 40, 49)


@cache
def model_of(p: int, layers: int, seed: int) -> tuple:
    algorithm = tasks.small_algorithm("modular_addition", p=p)
    assert algorithm is not None
    model = trained(algorithm, seed, layers)
    task = tasks.task("modular_addition", model, sizes=SIZES, seed=seed)
    return algorithm, model, task


def measure(cell: Row) -> list[Row]:
    p, layers, seed = cell["p"], cell["layers"], cell["seed"]
    algorithm, model, task = model_of(p, layers, seed)
    rows = []
    for by, count in (("whole", WHOLE[layers]), ("searched", SEARCHED[layers])):
        found = features_of(model, algorithm, count, seed)
        nodes = units.as_dictionary(model, found, keep_error=False)
        for size in NODES if by == "searched" else (nodes.space.nodes,):
            mask, seconds = circuit_of(model, task, nodes, size, seed)
            own = {"by": by, "search_seconds": round(seconds, 1)}
            rows += [own | row for row in judged(model, task, nodes, mask, seed)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    cells = [{"p": p, "layers": layers, "seed": seed}
             for seed in seeds for p in (53, 113) for layers in (1, 2)]  # fmt: skip
    more = {"split": "test", "sizes": [SIZES.discover, SIZES.select, SIZES.test]}
    rows = measure_cells("modular_arithmetic", cells, measure, **more)
    held = json.loads((RESULTS / "modular_arithmetic.json").read_text())
    by = ("p", "layers", "by", "nodes", "ablation")
    write("modular_arithmetic", held | {"summary": summary(rows, *by)})


if __name__ == "__main__":
    main()
