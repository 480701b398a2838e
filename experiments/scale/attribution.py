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
pairs of nodes. The long prompt runs in a process of its own, whose peak memory is told.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np

from experiments.common.random_models import random_model, random_prompt, random_transcoder
from experiments.common.record import record
from hagd_jax.graphs import AttributionConfig, attribute, scores

SIZES: dict[str, list[tuple[int, int, int]]] = {  # layers, tokens, features
    "features": [(12, 32, n) for n in (512, 1024, 2048, 4096, 8192)],
    "layers": [(n, 32, 2048) for n in (6, 12, 24, 48)],
    "tokens": [(12, n, 256) for n in (256, 512, 1024, 2048)],
}
LIMITS = {"features": 1.0, "layers": 1.0, "tokens": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="the long prompt, here and now")
    parser.add_argument("--skip-long", action="store_true", help="without the long prompt")
    args = parser.parse_args()
    if args.long:
        return print(json.dumps(long_prompt()))
    began, rows = time.monotonic(), []
    for what, sizes in SIZES.items():
        for layers, tokens, features in sizes:
            seconds = best_time(layers, tokens, features)
            size = {"layers": layers, "tokens": tokens, "features": features}
            rows.append({"varied": what, **size, "seconds": round(seconds, 3)})
            print(json.dumps(rows[-1]), flush=True)
    fits = {what: exponent(what, rows) for what in SIZES}
    long = {} if args.skip_long else own_process()
    record(
        "attribution_growth", rows, seconds=time.monotonic() - began, seed=0,
        exponents=fits, limits=LIMITS, long_prompt=long,
    )  # fmt: skip
    print(json.dumps({"exponents": fits, "long_prompt": long}, indent=1))


def best_time(layers: int, tokens: int, features: int) -> float:
    """Seconds of a call, programs being compiled."""
    model, made = random_model(layers), random_transcoder("per-layer", layers)
    config = AttributionConfig(
        max_feature_nodes=features, update_every=features, edges_per_node=1024,
        batch_size=64 if tokens < 1024 else 32,
    )  # fmt: skip
    times = []
    for _ in range(3):
        start = time.perf_counter()
        attribute(model, made, random_prompt(tokens), config)
        times.append(time.perf_counter() - start)
    jax.clear_caches()
    return min(times[1:])


def exponent(what: str, rows: list[dict[str, Any]]) -> float:
    """Slope of log time against log size."""
    own = [row for row in rows if row["varied"] == what]
    size, seconds = (np.log([row[name] for row in own]) for name in (what, "seconds"))
    return round(float(np.polyfit(size, seconds, 1)[0]), 3)


def long_prompt() -> dict[str, Any]:
    """2,048 tokens and 4,096 features."""
    model, made = random_model(), random_transcoder("per-layer")
    config = AttributionConfig(
        max_feature_nodes=4096, update_every=1024, edges_per_node=1024, batch_size=32, memory_gb=6
    )
    said: list[str] = []
    start = time.perf_counter()
    graph = attribute(model, made, random_prompt(2048), config, tell=said.append)
    found = scores(graph)
    return {
        "tokens": 2048,
        "active_features": graph.info.active,
        "feature_nodes": 4096,
        "edges": len(graph.weights),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "estimate": said[0],
        "replacement": round(found.replacement, 4),
        "completeness": round(found.completeness, 4),
    }


def own_process() -> dict[str, Any]:
    """`long_prompt` where nothing else was in memory."""
    command = [sys.executable, "-m", "experiments.scale.attribution", "--long"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
