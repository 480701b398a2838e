"""Circuits of parity and sorting: how much of the accuracy do 49 nodes keep?

    python -m experiments.circuits.algorithmic --seeds 5  # about half an hour on two cores

Five models of each. Nodes are heads and neurons (516 in all), or heads and all 40 features of a
transcoder whose errors are in no circuit. Found on the discover split under counterfactual ablation
by masks and swaps, judged on the test split under that and three that nobody optimised for.
Training that does not reach 95% on the select split is begun anew with another seed, and counted.
Expected: 97% and more. Writes results/algorithmic.json.
"""

from __future__ import annotations

import argparse
import json

from experiments.common.cells import Row, measure_cells
from experiments.common.record import RESULTS, write
from experiments.common.small_models import circuit_of, features_of, judged, learnt, summary
from hagd_jax import tasks, units
from hagd_jax.tasks import Sizes

SIZES = Sizes(discover=512, select=128, test=256)
NAMES = ("parity", "sorting")
FEATURES, NODES = 40, (32, 49)


def measure(cell: Row) -> list[Row]:
    seed = cell["seed"]
    algorithm = tasks.small_algorithm(cell["task"])
    assert algorithm is not None
    model, task, failed = learnt(cell["task"], seed, SIZES)
    features = features_of(model, algorithm, FEATURES, seed)
    kinds = {
        "neurons": (units.neurons(model), NODES),
        "features": (units.as_dictionary(model, features, keep_error=False), NODES[1:]),
    }
    rows = []
    for kind, (nodes, sizes) in kinds.items():
        for size in sizes:
            mask, seconds = circuit_of(model, task, nodes, min(size, nodes.space.nodes), seed)
            own = {"kind": kind, "layers": model.config.n_layers, "not_learnt": failed,
                   "search_seconds": round(seconds, 1)}  # fmt: skip
            rows += [own | row for row in judged(model, task, nodes, mask, seed)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    cells = [{"task": name, "seed": seed} for seed in seeds for name in NAMES]
    rows = measure_cells("algorithmic", cells, measure, split="test")
    held = json.loads((RESULTS / "algorithmic.json").read_text())
    made = summary(rows, "task", "kind", "nodes", "ablation")
    write("algorithmic", held | {"summary": made})


if __name__ == "__main__":
    main()
