"""Attribution graphs on disk: arrays as safetensors, the rest as JSON in its header."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from hagd_jax.brief import quoted
from hagd_jax.errors import CheckpointError, require_is
from hagd_jax.files import as_path, checked, finite, parse_json, read_arrays, save_arrays
from hagd_jax.graphs.graph import (
    FEATURE,
    KINDS,
    AttributionGraph,
    GraphInfo,
    NodeTable,
    make_graph,
)

_MOST = 2**31 - 1
_FORMAT = "hagd attribution graph 1"
_EDGES = {"senders": np.int32, "receivers": np.int32, "edges": np.float32}
_NODES = {
    "kind": np.int8, "layer": np.int32, "position": np.int32, "index": np.int32,
    "activation": np.float32, "weight": np.float32, "folded": np.float32, "remainder": np.float32,
}  # fmt: skip


def save_graph(graph: AttributionGraph, path: str | Path) -> None:
    """Write a graph to one file.

    Args:
        graph: The graph.
        path: Where to, usually `*.safetensors`; replaced if it exists.

    Raises:
        CheckpointError: If it cannot be written; then nothing of it is left.
    """
    require_is("graph", graph, AttributionGraph)
    path = as_path(path)
    arrays = {name: np.asarray(getattr(graph.nodes, name), kind) for name, kind in _NODES.items()}
    arrays |= {name: np.asarray(getattr(graph.graph, name), kind) for name, kind in _EDGES.items()}
    info = json.dumps(finite(dataclasses.asdict(graph.info)))
    save_arrays(path, arrays, {"format": _FORMAT, "info": info})


def load_graph(path: str | Path) -> AttributionGraph:
    """Read a graph that `save_graph` wrote.

    Args:
        path: The file.

    Returns:
        The same graph.

    Raises:
        CheckpointError: If there is no such file, or it is not a whole graph.

    Example:
        >>> import jax
        >>> from hagd_jax.graphs import attribute
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> graph = attribute(model, None, [1, 2, 3, 4], targets=5)
        >>> save_graph(graph, "paris.safetensors")
        >>> load_graph("paris.safetensors").info == graph.info
        True
    """
    path = as_path(path)
    arrays, about = read_arrays(path)
    where = f"{path}, read as a graph written by save_graph"
    if about.get("format") != _FORMAT or "info" not in about:
        raise CheckpointError(where, got=quoted(about.get("format")), expected=repr(_FORMAT))
    info = checked(GraphInfo, parse_json(about["info"], where), where)
    try:
        _check(arrays, info)
    except (KeyError, ValueError) as error:
        got = f"no array {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(where, got=got, expected="a whole graph") from error
    table = NodeTable(**{name: arrays[name] for name in _NODES})
    return make_graph(table, arrays["senders"], arrays["receivers"], arrays["edges"], info)


def _check(arrays: dict[str, np.ndarray], info: GraphInfo) -> None:
    """Refuse arrays that do not make a graph.

    Raises:
        ValueError: With what is wrong.
    """
    count, edges = len(arrays["kind"]), len(arrays["edges"])
    for name, kind in (_NODES | _EDGES).items():
        array, length = arrays[name], edges if name in _EDGES else count
        shape = (length, 2) if name == "folded" else (length,)
        if array.shape != shape or array.dtype != kind:
            raise ValueError(f"{name} of shape {array.shape}, {array.dtype}")
    if edges:
        ends = np.stack([arrays["senders"], arrays["receivers"]])
        if ends.min() < 0 or ends.max() >= count:
            raise ValueError("an edge to no node")
    for name in ("activation", "weight", "folded", "remainder", "edges"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} with numbers that are not finite")
    limits = {
        "kind": (0, len(KINDS)), "position": (0, len(info.tokens)), "layer": (-1, info.layers + 1),
        "index": (-1, _MOST),
    }  # fmt: skip
    for name, (first, end) in limits.items():
        if count and not first <= arrays[name].min() <= arrays[name].max() < end:
            raise ValueError(f"{name} from {arrays[name].min()} to {arrays[name].max()}")
    features = arrays["kind"] == FEATURE
    for name, end in (("layer", info.layers), ("index", info.features)):
        own = arrays[name][features]
        if len(own) and not 0 <= own.min() <= own.max() < end:
            raise ValueError(f"a feature with {name} from {own.min()} to {own.max()}")
    if (arrays["kind"] == len(KINDS) - 1).sum() != len(info.targets):
        raise ValueError(f"{len(info.targets)} targets")
    if info.per_expert and len(info.per_expert) != info.layers:
        raise ValueError(f"{len(info.per_expert)} sizes of experts for {info.layers} layers")
    if info.words and len(info.words) != len(info.tokens):
        raise ValueError(f"{len(info.words)} words for {len(info.tokens)} tokens")
    for target in info.targets:
        if len(target.tokens) != len(target.coefficients):
            raise ValueError(f"{len(target.coefficients)} coefficients of a target")
