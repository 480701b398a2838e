"""How do time and memory of an attribution graph grow, and does a long prompt fit?

    python -m experiments.scale.attribution

Takes some ten minutes on two otherwise idle CPU cores, and 6 GB of memory. Expected: time grows no
faster than linearly in features that become nodes and in layers, and quadratically in the prompt;
a prompt of 2,048 tokens with 4,096 features takes at most 6 GB. Writes
results/attribution_growth.json.

The model and the transcoder are those of `speed/attribution.py`. One size is varied at a time,
starting from 12 layers, 32 tokens and 2,048 features (the prompt length: from 256 tokens and 256
features). Each time is the faster of two calls after the first. An exponent is the slope of log
time against log size, by least squares over all sizes; constant costs at small sizes lower it.
Every node keeps its 1,024 strongest edges and the sums of the others, since the number of all edges
is quadratic in the nodes. The long prompt runs in a separate process, whose peak memory is
recorded.
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
    """Config holds the settings for measuring the growth of an attribution graph's time and memory.

    Attributes:
        features: Numbers of features that become nodes: at least two, or none to skip the series.
        layers: Numbers of layers: at least two, or none.
        tokens: Prompt lengths in tokens: at least two, or none.
        base: Layers, tokens and features that are held fixed while another size varies. The
            series of prompt lengths uses an eighth of these features.
        shape: Sizes of the model and the transcoder.
        edges_per_node: Strongest edges that each node keeps; larger values use more memory.
        long: Tokens and features of the long prompt; 0 tokens skip it.
        here: Measure the long prompt in this process, print the result and end; used internally.
        apart: Measure the long prompt in a separate process.
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
        """Return layers, tokens and features of each measurement, by the size that varies."""
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
    """Return the seconds of a call after compilation, the better of two."""
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
    """Return the slope of log time against log size, by least squares."""
    own = [row for row in rows if row["varied"] == what]
    size, seconds = (np.log([row[name] for row in own]) for name in (what, "seconds"))
    return round(float(np.polyfit(size, seconds, 1)[0]), 3)


def long_prompt(config: Config) -> dict[str, Any]:
    """Attribute the long prompt; return its graph's measures and this process's peak memory."""
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
    """Run `long_prompt` in a fresh process, so that its peak memory is its own."""
    said = own_process("experiments.scale.attribution", "--here", "--long", *config.long)
    return json.loads(said.splitlines()[-1])


if __name__ == "__main__":
    run(main, Config, __doc__)
