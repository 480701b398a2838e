"""How do time and memory grow with the number of nodes?

    pip install -e '.[plots]'
    python -m experiments.scale.complexity  # about ten minutes on two cores

Random transformers of four layers, width 64, with 256 to 16,384 heads and neurons. Each stage is
run twice in a process of its own, and the second time counts: compilation, which does not grow, is
left out. `graph` scores all n² edges, not those of candidates alone; `coarsen` makes all levels, a
sixteenth of the nodes each; `search` is 50 steps of masks that open through two levels. The
exponent is the slope of the logarithms, over all sizes, and over the upper half of them, where what
does not grow weighs less. Memory is the peak of the process above what it took to import.
Expected: exponents of at most 2.2 and 2. Writes results/complexity.json and complexity.png.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments.common.record import RESULTS, record
from hagd_jax import meta, models
from hagd_jax.hierarchy import HierarchyConfig, clusters_of
from hagd_jax.scores import GradientConfig, mean_scores, node_graph
from hagd_jax.search import MaskConfig, Tree, search_masks
from hagd_jax.tasks.prompts import make_prompts

SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)
LAYERS, HEADS, PROMPTS, LENGTH = 4, 4, 16, 12
GRADIENTS = GradientConfig(steps=(0.3, 0.6, 0.9), batch_size=16)
STAGES = ("scores", "graph", "coarsen", "prior", "search")


def measure(nodes: int) -> dict:
    start = peak()
    config = models.DecoderConfig(
        vocab_size=32, n_layers=LAYERS, d_model=64, n_heads=HEADS, d_mlp=nodes // LAYERS - HEADS,
        max_positions=16,
    )  # fmt: skip
    model = models.init(config, jax.random.key(0))
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 32, (PROMPTS, LENGTH)).tolist() for _ in range(2)]
    prompts = make_prompts(*rows, [1] * PROMPTS, [2] * PROMPTS, vocab_size=32)
    scores, took = timed(lambda: mean_scores(model, prompts, GRADIENTS))
    row = {"nodes": nodes, "scores": took}
    graph, row["graph"] = timed(lambda: node_graph(model, prompts, GRADIENTS))
    row["edges"] = len(graph.weights)
    levels, row["coarsen"] = timed(lambda: clusters_of(graph, HierarchyConfig(ratio=1 / 16)))
    learner = meta.learner.init(meta.LearnerConfig(), jax.random.key(0))
    _, row["prior"] = timed(lambda: meta.score(learner, meta.describe(graph, scores)))
    masks = MaskConfig(steps=50, check_every=50)
    _, row["search"] = timed(
        lambda: search_masks(
            model, prompts, scores, [nodes // 20], masks, tree=Tree.of(levels[-2:])
        )
    )
    row["all"] = sum(row[stage] for stage in STAGES)
    return row | {"bytes": peak() - start}


def timed(act: Callable) -> tuple:
    jax.block_until_ready(jax.tree.leaves(act()))
    began = time.perf_counter()
    found = act()
    jax.block_until_ready(jax.tree.leaves(found))
    return found, time.perf_counter() - began


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def slope(rows: list[dict], name: str, least: int = 0) -> float:
    own = [row for row in rows if row["nodes"] >= least]
    return float(
        np.polyfit(np.log([r["nodes"] for r in own]), np.log([r[name] for r in own]), 1)[0]
    )


def draw(rows: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 4))
    nodes = [row["nodes"] for row in rows]
    for stage in (*STAGES, "all"):
        axes.loglog(nodes, [row[stage] for row in rows], marker="o", label=stage,
                    linewidth=2.5 if stage == "all" else 1)  # fmt: skip
    last = rows[-1]["all"]
    axes.loglog(nodes, [last * (n / nodes[-1]) ** 2 for n in nodes], "k:", label="n²")
    axes.set_xlabel("nodes")
    axes.set_ylabel("seconds")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", type=int, help="measure this size alone; used by this script")
    parser.add_argument("--most", type=int, default=SIZES[-1])
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    began, rows = time.monotonic(), []
    for nodes in (n for n in SIZES if n <= args.most):
        command = [sys.executable, "-m", "experiments.scale.complexity", "--one", str(nodes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print({k: round(v, 3) for k, v in rows[-1].items()}, flush=True)
    half = rows[len(rows) // 2]["nodes"]
    names = (*STAGES, "all", "bytes")
    exponents = {
        name: {"all sizes": slope(rows, name), f"from {half}": slope(rows, name, half)}
        for name in names
    }
    draw(rows, RESULTS / "complexity.png")
    rounded = [{k: round(v, 4) for k, v in row.items()} for row in rows]
    record("complexity", rounded, seconds=time.monotonic() - began, seed=0, exponents=exponents)
    print(exponents)


if __name__ == "__main__":
    main()
