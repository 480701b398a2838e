"""The graph JSON that circuit-tracer's page and Neuronpedia read (schema version 1)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hagd_jax.errors import require_index, require_is
from hagd_jax.files import as_path, write_atomic
from hagd_jax.graphs.graph import EMBEDDING, ERROR, FEATURE, LOGIT, AttributionGraph
from hagd_jax.graphs.influence import Pruned, prune, require_kept
from hagd_jax.units import unit_name


def to_neuronpedia(
    graph: AttributionGraph,
    path: str | Path,
    *,
    kept: Pruned | None = None,
    slug: str = "",
    scan: str = "",
    labels: dict[tuple[int, int], str] | None = None,
) -> None:
    """Write a pruned graph in the JSON format that Neuronpedia reads.

    Args:
        graph: The graph.
        path: Where to, usually `*.json`; replaced if it exists.
        kept: What to write; what `prune` keeps by default.
        slug: Short name of the graph; made from the prompt if empty.
        scan: What Neuronpedia calls the model; its name here if empty.
        labels: (layer, feature) → what the feature stands for.

    Raises:
        CheckpointError: If it cannot be written; then nothing of it is left.
    """
    path = as_path(path)
    record = neuronpedia_json(graph, kept=kept, slug=slug, scan=scan, labels=labels)
    write_atomic(path, json.dumps(record, indent=1, allow_nan=False))


def neuronpedia_json(
    graph: AttributionGraph,
    *,
    kept: Pruned | None = None,
    slug: str = "",
    scan: str = "",
    labels: dict[tuple[int, int], str] | None = None,
) -> dict[str, Any]:
    """Build the JSON that `to_neuronpedia` writes; arguments as there.

    Features are numbered by (layer, index) with Cantor's pairing, as readers of the format expect.

    Returns:
        JSON values.
    """
    # Of what somebody else pruned, nobody told the threshold.
    said = {"node_threshold": 0.8} if kept is None else {}
    kept = prune(graph, **said) if kept is None else kept
    require_kept(graph, kept)
    require_is("slug", slug, str)
    require_is("scan", scan, str)
    if labels is not None:
        require_is("labels", labels, Mapping)
    info = graph.info
    numbers = np.flatnonzero(kept.nodes)
    names = {int(node): node_id(graph, int(node)) for node in numbers}
    edges = np.flatnonzero(kept.edges)
    senders, receivers = graph.senders, graph.receivers
    words = list(info.words) or [f"#{token}" for token in info.tokens]
    prompt = "".join(words)
    return {
        "metadata": {
            "slug": slug or re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "graph",
            "scan": scan or info.model,
            "transcoder_list": [],
            "prompt_tokens": words,
            "prompt": prompt,
            "schema_version": 1,
            **said,
            "info": {"generator": {"name": "hagd_jax"}},
            "generation_settings": info.settings,
        },
        "qParams": {
            "pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": "",
        },
        "nodes": [_node(graph, node, names[node], kept, labels or {}) for node in names],
        "links": [
            {
                "source": names[int(senders[edge])],
                "target": names[int(receivers[edge])],
                "weight": float(graph.weights[edge]),
            }
            for edge in edges
        ],
    }  # fmt: skip


def node_id(graph: AttributionGraph, node: int) -> str:
    """Return the id of a node, `layer_feature_position`, unique within its graph.

    Errors have feature −1: where they count from 0, they share ids with features.

    Args:
        graph: The graph.
        node: Its number.

    Returns:
        Such as `3_127_4`, `3_-1_4` for an error, `E_17_4` for token 17, `5_99_4` for an output.
    """
    table = graph.nodes
    node = require_index("node", node, len(table.kind))
    kind, position = int(table.kind[node]), int(table.position[node])
    index = int(table.index[node])
    if kind == EMBEDDING:
        return f"E_{index}_{position}"
    if kind == LOGIT:
        return f"{graph.info.layers + 1}_{_output(graph, node)}_{position}"
    return f"{int(table.layer[node])}_{index}_{position}"


def _output(graph: AttributionGraph, node: int) -> str:
    """What an output's id calls it: a token that is asked for again also has its place."""
    table = graph.nodes
    first = len(table.kind) - len(graph.info.targets)
    index, place = int(table.index[node]), node - first
    if index < 0:
        return f"direction{place}"
    return f"{index}-{place}" if index in np.asarray(table.index[first:node]) else str(index)


def _node(
    graph: AttributionGraph, node: int, name: str, kept: Pruned, labels: dict[tuple[int, int], str]
) -> dict[str, Any]:
    table, info = graph.nodes, graph.info
    kind, layer = int(table.kind[node]), int(table.layer[node])
    index, position = int(table.index[node]), int(table.position[node])
    number, label, activation = index, "", None
    if kind == FEATURE:
        number = (layer + index) * (layer + index + 1) // 2 + index
        own = unit_name("neuron", layer, index, info.per_expert) if info.per_expert else ""
        label, activation = labels.get((layer, index), own), float(table.activation[node])
    elif kind == EMBEDDING:
        number = position
    place = node - (len(table.kind) - len(info.targets))
    chance = float(table.weight[node])
    if kind == LOGIT:
        label = f'Output "{info.targets[place].label}" (p={chance:.3f})'
    short, _, _ = name.rpartition("_")
    script_id = {EMBEDDING: f"E_{index}-{position}"}
    if kind == LOGIT:
        script_id[LOGIT] = f"L_{_output(graph, node)}-{position}"
    return {
        "node_id": name,
        "feature": number,
        "layer": name.partition("_")[0],
        "ctx_idx": position,
        "feature_type": _TYPES[kind],
        "token_prob": chance,
        "is_target_logit": kind == LOGIT and place == 0,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": script_id.get(kind, f"{short}-0"),
        "clerp": label,
        "influence": None if kind == LOGIT else float(kept.cumulative[node]),
        "activation": activation,
    }


_TYPES = {
    FEATURE: "cross layer transcoder",
    ERROR: "mlp reconstruction error",
    EMBEDDING: "embedding",
    LOGIT: "logit",
}
