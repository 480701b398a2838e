"""Are attribution graphs equal to those that circuit-tracer computed?

    python -m experiments.parity.attribution FOLDER

Takes about a minute on two CPU cores. Expected: the same features and outputs in every case, and
differences within the limits below. Writes results/attribution_parity.json.

FOLDER holds `<case>.npz` with circuit-tracer's results, `<case>.json` with the graph that it
exports, and `files/<case>/` with the model and the transcoder in their public formats. Differences
are the largest over all entries, except for:

- features, logits, pruned nodes and edges, exported nodes and links: the number that differ. Errors
  are exported under other ids, since circuit-tracer's error ids collide with those of features;
- edits: logits at all positions after a feature was set to another value, with attention, norms
  and MLPs frozen (direct), with attention frozen, and with nothing frozen; and the inputs of all
  active features under the direct regime;
- identity: inputs of targets against the sum of their row and the constant that circuit-tracer
  found by removing all sources, in graphs that leave out no feature.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from experiments.common.record import record
from experiments.common.script import Places, run
from hagd_jax import models, transcoders
from hagd_jax.errors import InputError
from hagd_jax.graphs import (
    AttributionConfig,
    AttributionGraph,
    attribute,
    graph_scores,
    influence,
    neuronpedia_json,
    prune,
)
from hagd_jax.graphs.graph import FEATURE, LOGIT
from hagd_jax.units import FeatureEdit, intervene
from hagd_jax.units.feature_edits import Regime

LIMITS = {"weights": 2e-5, "influence": 1e-5, "scores": 1e-5, "identity": 1e-5, "edits": 1e-4}
REGIMES: dict[Regime, str] = {"direct": "direct", "freeze_attention": "freeze_attn", "free": "free"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Places):
    """Config holds the settings for comparing attribution graphs with circuit-tracer's.

    Attributes:
        folder: Folder of reference cases.
    """

    folder: Positional[Path]


def main(config: Config) -> None:
    """Compare all cases, record the differences, and exit with an error beyond the limits."""
    began, folder = time.monotonic(), config.folder
    rows = [compare(folder, path.stem) for path in sorted(folder.glob("*.npz"))]
    if not rows:
        raise InputError(str(folder), got="no case", expected="files CASE.npz and CASE.json")
    record(
        config.results / "attribution_parity.json", rows, seconds=time.monotonic() - began,
        limits=LIMITS,
    )  # fmt: skip
    wrong = [r["case"] for r in rows if any(r[name] > limit for name, limit in LIMITS.items())]
    wrong += [
        r["case"] for r in rows if any(value for name, value in r.items() if "differ" in name)
    ]
    if wrong:
        sys.exit(f"beyond the limits: {sorted(set(wrong))}")


def compare(folder: Path, case: str) -> dict[str, Any]:
    """Attribute one case, and return its differences from circuit-tracer's results."""
    theirs = np.load(folder / f"{case}.npz")
    meta = json.loads(str(theirs["meta_json"]))
    files = folder / "files" / case
    model = models.load(files / "hf_model")
    transcoder = transcoders.load(files / "transcoder")
    if "topk" in case:  # its folders do not say so
        per_token = np.bincount(theirs["active_features"][:, :2] @ [1000, 1]).max()
        config = transcoder.config.replace(activation="topk", k=int(per_token))
        transcoder = transcoder.replace(config=config)
    selected = theirs["selected_features"]
    batch = meta.get("batch_size", 16)
    config = AttributionConfig(
        max_feature_nodes=len(selected),
        batch_size=batch,
        update_every=batch * meta.get("update_interval", 2),
    )
    graph = attribute(model, transcoder, theirs["prompt_tokens"], config)
    return (
        {
            "case": case,
            "nodes": len(graph.nodes.kind),
            "largest_weight": _largest(theirs["adjacency"]),
        }
        | nodes(graph, theirs)
        | numbers(graph, theirs)
        | exported(graph, json.loads((folder / f"{case}.json").read_text()))
        | edits(model, transcoder, theirs)
    )


def nodes(graph: AttributionGraph, theirs: Any) -> dict[str, int]:
    """Count the features and output tokens that differ."""
    table, here = graph.nodes, graph.of_kind(FEATURE)
    mine = np.stack([table.layer, table.position, table.index], 1)[here]
    expected = theirs["active_features"][theirs["selected_features"]]
    return {
        "features_differ": len(set(map(tuple, mine)) ^ set(map(tuple, expected))),
        "logits_differ": int(
            (table.index[graph.of_kind(LOGIT)] != theirs["logit_token_ids"]).sum()
        ),
    }


def numbers(graph: AttributionGraph, theirs: Any) -> dict[str, float]:
    """Return differences in weights, influence, scores, pruning and summed rows."""
    dense, kept, found = graph.to_dense(), prune(graph), graph_scores(graph)
    edges = np.zeros(dense.shape, bool)
    edges[graph.receivers[kept.edges], graph.senders[kept.edges]] = True
    row = {
        "weights": _largest(dense - theirs["adjacency"]),
        "influence": _largest(influence(graph) - theirs["node_influence"]),
        "scores": max(
            abs(found.replacement - float(theirs["replacement_score"])),
            abs(found.completeness - float(theirs["completeness_score"])),
        ),
        "pruned_nodes_differ": int((kept.nodes != theirs["prune_node_mask"]).sum()),
        "pruned_edges_differ": int((edges != theirs["prune_edge_mask"]).sum()),
        "identity": 0.0,
    }
    if graph.info.active == len(graph.of_kind(FEATURE)):
        features, logits = graph.of_kind(FEATURE), graph.of_kind(LOGIT)
        pre = theirs["pre_activations"] - theirs["const_pre"] - dense[features].sum(1)
        out = theirs["demeaned_logits"] - theirs["const_logit"] - dense[logits].sum(1)
        row["identity"] = max(_largest(pre), _largest(out))
    return row


def exported(graph: AttributionGraph, theirs: dict[str, Any]) -> dict[str, int]:
    """Count the nodes and links that differ in the exported graph."""
    mine = neuronpedia_json(graph)
    ids = {}
    for node in theirs["nodes"]:
        error = node["feature_type"] == "mlp reconstruction error"
        name = f"{node['layer']}_-1_{node['ctx_idx']}" if error else node["node_id"]
        ids.setdefault((node["node_id"], node["feature_type"]), name)
    names = set(ids.values())
    unique = {node: name for (node, _), name in ids.items()}
    links = {(link["source"], link["target"]) for link in mine["links"]}
    clear = len(unique) == len(ids)  # otherwise their links are ambiguous
    expected = {(unique[link["source"]], unique[link["target"]]) for link in theirs["links"]}
    return {
        "exported_nodes_differ": len({node["node_id"] for node in mine["nodes"]} ^ names),
        "exported_links_differ": len(links ^ expected) if clear else 0,
    }


def edits(model: Any, transcoder: Any, theirs: Any) -> dict[str, float]:
    """Return the largest difference after feature edits, over all regimes."""
    tokens, worst = theirs["prompt_tokens"][None], 0.0
    reads, active = transcoder.config.reads, theirs["active_features"]
    encoder, bias = (np.asarray(transcoder.params[name]) for name in ("W_enc", "b_enc"))
    for n, (layer, position, feature, value, _) in enumerate(theirs["interventions"]):
        edit = FeatureEdit(int(layer), int(position), int(feature), value=float(value))
        for regime, key in REGIMES.items():
            out = intervene(model, transcoder, tokens, [edit], regime=regime, capture=(reads,))
            worst = max(worst, _largest(np.asarray(out.logits[0]) - theirs[f"iv_logits_{key}"][n]))
            if regime == "direct":
                at, place, which = active.T
                x = np.asarray(out.trace[reads])[at, 0, place]
                pre = (x * encoder[at, which]).sum(-1) + bias[at, which]
                worst = max(worst, _largest(pre - theirs["iv_preacts_direct"][n]))
    return {"edits": worst}


def _largest(values: np.ndarray) -> float:
    return float(f"{np.abs(values).max():.3g}")


if __name__ == "__main__":
    run(main, Config, __doc__)
