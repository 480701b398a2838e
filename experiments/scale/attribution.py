"""How time and memory of an attribution graph grow, and whether a long prompt fits.

    python -m experiments.scale.attribution

Takes some ten minutes on two otherwise idle CPU cores, and 6 GB of memory. Expected: time grows no
faster than linearly in features that become nodes and in layers, and quadratically in the prompt;
a prompt of 2,048 tokens with 4,096 features takes at most 6 GB. Writes
results/attribution_growth.json.

The model and the transcoder are those of `speed/attribution.py`, one of which is varied at a time
from 12 layers, 32 tokens and 2,048 features (the prompt: from 256 tokens and 256 features). Each
time is the better of two calls after the first. Exponents are the slopes of log time against log
size, by least squares over all sizes: small sizes, where what does not grow counts, pull them down.
Every node keeps its 1,024 strongest edges, and the sums of the others: all edges are as many as
pairs of nodes. The long prompt runs in a process of its own, whose peak memory is recorded.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from typing import Any

import numpy as np

from experiments.common.processes import few_programs, own_process
from experiments.common.random_models import Shape, random_model, random_prompt, random_transcoder
from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax.graphs import AttributionConfig, attribute, graph_scores

LIMITS = {"features": 1.0, "layers": 1.0, "tokens": 2.0}


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Growth of an attribution graph's time and memory.

    Attributes:
        features: Numbers of features that become nodes; two at least, here and below, or none.
        layers: Numbers of layers.
        tokens: Prompt lengths.
        base: Layers, tokens and features of the first two; while the prompt grows, features are an
            eighth of these.
        shape: Model and transcoder.
        edges_per_node: Strongest edges that a node keeps.
        long: Tokens and features of the long prompt; none of it if its tokens are 0.
        here: Measure the long prompt in this process, print it and end; used by this script.
        apart: Measure the long prompt in a process of its own.
    """

    features: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    layers: tuple[int, ...] = (6, 12, 24, 48)
    tokens: tuple[int, ...] = (256, 512, 1024, 2048)
    base: tuple[int, int, int] = (12, 32, 2048)
    shape: Shape = Shape()
    edges_per_node: int = 1024
    long: tuple[int, int] = (2048, 4096)
    here: bool = False
    apart: bool = True

    def sizes(self) -> dict[str, list[tuple[int, int, int]]]:
        """Layers, tokens and features of each measurement, by what is varied."""
        layers, tokens, features = self.base
        found = {
            "features": [(layers, tokens, n) for n in self.features],
            "layers": [(n, tokens, features) for n in self.layers],
            "tokens": [(layers, n, features // 8) for n in self.tokens],
        }
        return {what: sizes for what, sizes in found.items() if sizes}


def main(config: Config) -> None:
    """Measure all sizes, fit exponents, and measure the long prompt."""
    if config.here:
        return print(json.dumps(long_prompt(config)))
    began, rows = time.monotonic(), []
    for what, sizes in config.sizes().items():
        for layers, tokens, features in sizes:
            seconds = best_time(layers, tokens, features, config)
            size = {"layers": layers, "tokens": tokens, "features": features}
            rows.append({"varied": what, **size, "seconds": round(seconds, 3)})
            print(json.dumps(rows[-1]), flush=True)
    fits = {what: exponent(what, rows) for what in config.sizes()}
    long: dict[str, Any] = {}
    if config.long[0]:
        long = own_long_prompt(config) if config.apart else long_prompt(config)
    record(
        config.results / "attribution_growth.json", rows, seconds=time.monotonic() - began, seed=0,
        exponents=fits, limits=LIMITS, long_prompt=long,
    )  # fmt: skip
    print(json.dumps({"exponents": fits, "long_prompt": long}, indent=1))


def best_time(layers: int, tokens: int, features: int, config: Config) -> float:
    """Seconds of a call, programs being compiled."""
    shape = dataclasses.replace(config.shape, layers=layers)
    model, made = random_model(shape), random_transcoder("per-layer", shape)
    settings = AttributionConfig(
        max_feature_nodes=features, update_every=features, edges_per_node=config.edges_per_node,
        batch_size=64 if tokens < 1024 else 32,
    )  # fmt: skip
    times = []
    for _ in range(3):
        start = time.perf_counter()
        attribute(model, made, random_prompt(tokens, shape), settings)
        times.append(time.perf_counter() - start)
    few_programs()
    return min(times[1:])


def exponent(what: str, rows: list[dict[str, Any]]) -> float:
    """Slope of log time against log size."""
    own = [row for row in rows if row["varied"] == what]
    size, seconds = (np.log([row[name] for row in own]) for name in (what, "seconds"))
    return round(float(np.polyfit(size, seconds, 1)[0]), 3)


def long_prompt(config: Config) -> dict[str, Any]:
    """One graph of the long prompt, and the most memory that this process has had."""
    tokens, features = config.long
    model, made = random_model(config.shape), random_transcoder("per-layer", config.shape)
    settings = AttributionConfig(
        max_feature_nodes=features, update_every=features // 4,
        edges_per_node=config.edges_per_node, batch_size=32, memory_gb=6,
    )  # fmt: skip
    said: list[str] = []
    start = time.perf_counter()
    graph = attribute(model, made, random_prompt(tokens, config.shape), settings, tell=said.append)
    found = graph_scores(graph)
    return {
        "tokens": tokens,
        "active_features": graph.info.active,
        "feature_nodes": features,
        "edges": len(graph.weights),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "estimate": said[0],
        "replacement": round(found.replacement, 4),
        "completeness": round(found.completeness, 4),
    }


def own_long_prompt(config: Config) -> dict[str, Any]:
    """`long_prompt` where nothing else was in memory."""
    said = own_process("experiments.scale.attribution", "--here", "--long", *config.long)
    return json.loads(said.splitlines()[-1])


if __name__ == "__main__":
    run(main, Config, __doc__)
