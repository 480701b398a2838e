"""Circuits of parity and sorting: how much of the accuracy do 49 nodes keep?

    python experiments/algorithmic.py --seeds 5        # about a quarter of an hour on two cores

Five models of each; features of a transcoder of 24 a layer, whose errors are in no circuit, and
heads. Found on the discover split under counterfactual ablation, judged on the test split under
that and three that nobody optimised for. Expected: 97% and more. Writes results/algorithmic.json.
"""

from __future__ import annotations

import argparse
import json

from cells import Row, measure_cells
from record import RESULTS, write
from small_models import circuit_of, features_of, judged, summary, trained

from hagd_jax import tasks, transcoders
from hagd_jax.tasks import Sizes

SIZES = Sizes(discover=512, select=128, test=256)
NAMES = ("parity", "sorting")
FEATURES, NODES = 24, (32, 49)


def measure(cell: Row) -> list[Row]:
    seed = cell["seed"]
    algorithm = tasks.small_algorithm(cell["task"])
    assert algorithm is not None
    model = trained(algorithm, seed)
    task = tasks.task(cell["task"], model, sizes=SIZES, seed=seed)
    nodes = transcoders.as_dictionary(
        model, features_of(model, algorithm, FEATURES, seed), keep_error=False
    )
    rows = []
    for size in sorted({min(size, nodes.space.nodes) for size in NODES}):
        mask, seconds = circuit_of(model, task, nodes, size, seed)
        own = {"layers": model.config.n_layers, "search_seconds": round(seconds, 1)}
        rows += [own | row for row in judged(model, task, nodes, mask, seed)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    cells = [{"task": name, "seed": seed} for seed in seeds for name in NAMES]
    rows = measure_cells("algorithmic", cells, measure, split="test")
    held = json.loads((RESULTS / "algorithmic.json").read_text())
    write("algorithmic", held | {"summary": summary(rows, "task", "nodes", "ablation")})


if __name__ == "__main__":
    main()
