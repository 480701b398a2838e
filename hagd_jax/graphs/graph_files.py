"""Attribution graphs on disk: arrays as safetensors, the rest as JSON in its header."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from hagd_jax.errors import CheckpointError, require_is
from hagd_jax.files import as_path, finite, read_arrays, save_arrays
from hagd_jax.graphs.graph import (
    KINDS,
    AttributionGraph,
    GraphInfo,
    LogitTarget,
    NodeTable,
    make_graph,
)

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
    if not path.is_file():
        raise CheckpointError(f"{path}", got="no such file", expected="a saved graph")
    try:
        arrays, about = read_arrays(path)
        if about.get("format") != _FORMAT:
            raise ValueError(f"format {about.get('format')!r}")
        info = _info(json.loads(about["info"]))
        _check(arrays, info)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}",
            got=f"{type(error).__name__}: {error}",
            expected="a graph written by save_graph",
        ) from error
    table = NodeTable(**{name: arrays[name] for name in _NODES})
    return make_graph(table, arrays["senders"], arrays["receivers"], arrays["edges"], info)


def _info(record: dict[str, Any]) -> GraphInfo:
    lists: Any = {name: tuple(record[name]) for name in ("tokens", "words")}
    targets = [
        LogitTarget(**(target | {name: tuple(target[name]) for name in ("tokens", "coefficients")}))
        for target in record["targets"]
    ]
    return GraphInfo(**(record | lists | {"targets": tuple(targets)}))


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
    kinds, places = arrays["kind"], arrays["position"]
    if count and not (0 <= kinds.min() <= kinds.max() < len(KINDS)):
        raise ValueError("a node of no kind")
    if count and not (0 <= places.min() <= places.max() < len(info.tokens)):
        raise ValueError("a node beside the prompt")
    if (kinds == len(KINDS) - 1).sum() != len(info.targets):
        raise ValueError(f"{len(info.targets)} targets")
