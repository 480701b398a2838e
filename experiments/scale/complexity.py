"""How do time and memory grow with the number of nodes?

    pip install -e '.[plots]'
    python -m experiments.scale.complexity  # about ten minutes on two cores

The models are random transformers with four layers, width 64, and 256 to 16,384 heads and neurons.
Each size runs in a separate process. Each stage runs twice and the second time counts, which leaves
out compilation. `graph` scores all n² edges, not only those of candidates; `coarsen` makes all
levels, each with a sixteenth of the nodes; `search` is 50 steps of masks that open through two
levels. An exponent is the slope of log time against log nodes, over all sizes and over the upper
half of them, where constant costs weigh less. Memory is the peak of the process minus its memory
after the imports. Expected: exponents of at most 2.2 and 2. Writes results/complexity.json and
complexity.png.
"""

from __future__ import annotations

import dataclasses
import json
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.processes import own_process
from experiments.common.record import record
from experiments.common.script import Places, need, run
from hagd_jax import meta, models
from hagd_jax.hierarchy import HierarchyConfig, clusters_of
from hagd_jax.scores import GradientConfig, mean_scores, node_graph
from hagd_jax.search import MaskConfig, Tree, search_masks
from hagd_jax.tasks import Prompts, make_prompts

STAGES = ("scores", "graph", "coarsen", "prior", "search")


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for measuring how time and memory grow with the number of nodes.

    Attributes:
        sizes: Numbers of nodes (heads and neurons).
        one: Measure only this number of nodes in this process and print it; used internally.
        apart: Measure each size in a separate process, so that its peak memory is its own.
        plot: Draw results/complexity.png; needs matplotlib.
        layers: Number of transformer blocks.
        heads: Attention heads per layer.
        width: Width of the residual stream.
        prompts: Number of random prompts.
        length: Tokens per prompt.
        gradient: Integration steps and batch size of scores and graph.
        masks: Training of the masks.
    """

    sizes: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16384)
    one: int = 0
    apart: bool = True
    plot: bool = True
    layers: int = 4
    heads: int = 4
    width: int = 64
    prompts: int = 16
    length: int = 12
    gradient: GradientConfig = GradientConfig(steps=(0.3, 0.6, 0.9), batch_size=16)
    masks: MaskConfig = MaskConfig(steps=50, check_every=50)


def subject(nodes: int, config: Config) -> tuple[models.LanguageModel, Prompts]:
    """Return a random model with `nodes` heads and neurons, and random prompts."""
    decoder = models.DecoderConfig(
        vocab_size=32, n_layers=config.layers, d_model=config.width, n_heads=config.heads,
        d_mlp=nodes // config.layers - config.heads, max_positions=16,
    )  # fmt: skip
    rng, count = np.random.default_rng(0), config.prompts
    clean, other = rng.integers(0, 32, (2, count, config.length)).tolist()
    prompts = make_prompts(clean, other, [1] * count, [2] * count, vocab_size=32)
    return models.init(decoder, jax.random.key(0)), prompts


def measure(nodes: int, config: Config) -> dict[str, Any]:
    """Return the seconds of each stage, and the peak memory of all of them in bytes."""
    start, path = peak(), config.gradient
    model, prompts = subject(nodes, config)
    row: dict[str, Any] = {"nodes": nodes}
    scores, row["scores"] = timed(lambda: mean_scores(model, prompts, path))
    graph, row["graph"] = timed(lambda: node_graph(model, prompts, path))
    row["edges"] = len(graph.weights)
    levels, row["coarsen"] = timed(lambda: clusters_of(graph, HierarchyConfig(ratio=1 / 16)))
    learner = meta.init(meta.LearnerConfig(), jax.random.key(0))
    _, row["prior"] = timed(lambda: meta.score(learner, meta.describe(graph, scores)))
    size, tree = nodes // 20, Tree.of(levels[-2:])
    _, row["search"] = timed(
        lambda: search_masks(model, prompts, scores, [size], config.masks, tree=tree)
    )
    row["all"] = sum(row[stage] for stage in STAGES)
    return row | {"bytes": peak() - start}


def timed(act: Callable) -> tuple:
    """Call a function twice; return the second result and its seconds."""
    jax.block_until_ready(jax.tree.leaves(act()))
    began = time.perf_counter()
    found = act()
    jax.block_until_ready(jax.tree.leaves(found))
    return found, time.perf_counter() - began


def peak() -> int:
    """Return the peak resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def slope(rows: list[dict], name: str, least: int = 0) -> float:
    """Return the slope of log time against log nodes, from `least` nodes on; NaN for one size."""
    own = [row for row in rows if row["nodes"] >= least]
    if len(own) < 2:
        return math.nan
    return float(
        np.polyfit(np.log([r["nodes"] for r in own]), np.log([r[name] for r in own]), 1)[0]
    )


def draw(rows: list[dict], path: Path) -> None:
    """Plot the seconds of each stage against the number of nodes."""
    import matplotlib.pyplot as plt  # pyright: ignore[reportMissingImports]

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


def main(config: Config) -> None:
    """Measure all sizes, and fit the exponents."""
    if config.one:
        return print(json.dumps(measure(config.one, config)))
    if config.plot:
        need("matplotlib", install="pip install 'hagd-jax[plots]'")
    began, rows = time.monotonic(), []
    for nodes in config.sizes:
        rows.append(own_measure(nodes) if config.apart else measure(nodes, config))
        print({k: round(v, 3) for k, v in rows[-1].items()}, flush=True)
    half = rows[len(rows) // 2]["nodes"]
    exponents = {
        name: {"all sizes": slope(rows, name), f"from {half}": slope(rows, name, half)}
        for name in (*STAGES, "all", "bytes")
    }
    if config.plot:
        draw(rows, config.results / "complexity.png")
    rounded = [{k: round(v, 4) for k, v in row.items()} for row in rows]
    record(
        config.results / "complexity.json", rounded, seconds=time.monotonic() - began, seed=0,
        exponents=exponents,
    )  # fmt: skip
    print(exponents)


def own_measure(nodes: int) -> dict[str, Any]:
    """Run `measure` in a fresh process, so that its peak memory is its own."""
    said = own_process("experiments.scale.complexity", "--one", nodes)
    return json.loads(said.splitlines()[-1])


if __name__ == "__main__":
    run(main, Config, __doc__)
