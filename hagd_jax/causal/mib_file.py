"""Read and write the circuit files of MIB's circuit track (`Graph.to_json` of EAP-IG)."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hagd_jax.brief import one_line, quoted
from hagd_jax.causal.mib_layout import MOST, Layout
from hagd_jax.errors import CheckpointError
from hagd_jax.files import Bounds, as_path, named, opened, parse_json, read_text, write_atomic

# A model of 32 layers with 32 heads has 1.6 million edges, in 130 MB.
_FILE = Bounds(size=2**30, items=2**25, depth=8)
_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".bin"}
_STARTS = (b"PK\x03\x04", b"\x80")
_CONVERT = (
    "Convert it where it was made: `from eap.graph import Graph; "
    "Graph.from_pt('circuit.pt').to_json('circuit.json')`, or the same with pickle.load."
)
_CONSTANT = re.compile(r"NaN|-?Infinity")
_MOST_SIDE = 2**14


class MibRecord(NamedTuple):
    """A record holds what a file says, see `MibGraph`."""

    layout: Layout
    scores: np.ndarray
    members: np.ndarray
    nodes: np.ndarray
    d_model: int

    __repr__ = one_line


def read_mib(path: str | Path) -> MibRecord:
    """Read a JSON file of the benchmark.

    Args:
        path: The file.

    Returns:
        What it says.

    Raises:
        CheckpointError: If it is a pickle, or broken, naming the entry.
    """
    path = as_path(path)
    _require_json(path)
    where = named(path)
    text = read_text(path, _FILE.size)
    try:
        record = parse_json(text, where, _FILE)
    except CheckpointError as error:
        entry = _not_finite(text) if len(text) <= _FILE.size and _CONSTANT.search(text) else None
        if entry is None:
            raise
        name, got = entry
        raise CheckpointError(f"{where}: {name}", got=got, expected="a finite score") from error
    return _record(where, record)


def write_mib(path: str | Path, record: MibRecord) -> None:
    """Write the file that `read_mib` reads, with an entry for every edge.

    Args:
        path: The file.
        record: What it says.
    """
    layout, scores, members, nodes, d_model = record
    writers, readers = layout.writer_names(), layout.reader_names()
    edges = {
        f"{writers[w]}->{readers[r]}": {"score": score, "in_graph": inside}
        for w, r in layout.order()
        for score, inside in [(float(scores[w, r]), bool(members[w, r]))]
    }
    inside = {name: {"in_graph": bool(own)} for name, own in zip(writers, nodes, strict=True)}
    config = {"n_layers": layout.layers, "n_heads": layout.heads,
              "parallel_attn_mlp": layout.parallel, "d_model": d_model}  # fmt: skip
    said = {"cfg": config, "nodes": inside | {"logits": {"in_graph": True}}, "edges": edges}
    write_atomic(as_path(path), json.dumps(said) + "\n")


def _require_json(path: Path) -> None:
    """Refuse pickles by their name and by their first bytes, without reading on."""
    start = b""
    if path.suffix.lower() not in _PICKLES:
        with opened(path) as file:
            start = file.read(4)
    if path.suffix.lower() in _PICKLES or start.startswith(_STARTS):
        raise CheckpointError(
            named(path), got="a pickle, which runs code when it is opened",
            expected="the JSON file of a circuit", mend=_CONVERT,
        )  # fmt: skip


def _record(where: str, record: Any) -> MibRecord:
    parts = [_mapping(where, record, name) for name in ("cfg", "nodes", "edges")]
    config, nodes, edges = parts
    layout, d_model = _layout(where, config)
    inside = np.zeros(layout.writers, bool)
    for name, entry in nodes.items():
        value = _node(f"{where}: node {quoted(name)}", entry)
        writer = layout.writer(name)
        if writer is None and name != "logits":
            raise CheckpointError(f"{where}: node", got=quoted(name), expected=_nodes_of(layout))
        if writer is not None:
            inside[writer] = value
    scores = np.zeros((layout.writers, layout.readers))
    members = np.zeros(scores.shape, bool)
    for name, entry in edges.items():
        place = layout.place(name)
        if place is None:
            expected = f"WRITER->READER of {_nodes_of(layout)}, into heads with <q>, <k> or <v>"
            raise CheckpointError(f"{where}: edge", got=quoted(name), expected=expected)
        scores[place], members[place] = _edge(f"{where}: edge {quoted(name)}", entry)
    return MibRecord(layout, scores, members, inside, d_model)


def _mapping(where: str, record: Any, name: str) -> dict[str, Any]:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: {name}", got=quoted(value),
                              expected="an object; a circuit has cfg, nodes and edges")  # fmt: skip
    return value


def _layout(where: str, config: dict[str, Any]) -> tuple[Layout, int]:
    found = []
    for name, least, most in (("n_layers", 1, _MOST_SIDE), ("n_heads", 1, _MOST_SIDE),
                              ("d_model", 0, 2**31)):  # fmt: skip
        value = config.get(name, 0 if name == "d_model" else None)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < most:
            raise CheckpointError(f"{where}: cfg, {name}", got=quoted(value),
                                  expected=f"an integer from {least} to {most - 1}")  # fmt: skip
        found.append(value)
    parallel = config.get("parallel_attn_mlp")
    if not isinstance(parallel, bool):
        raise CheckpointError(f"{where}: cfg, parallel_attn_mlp", got=quoted(parallel),
                              expected="true or false")  # fmt: skip
    layers, heads, d_model = found
    layout = Layout(layers, heads, parallel)
    if layout.writers * layout.readers > MOST:
        raise CheckpointError(f"{where}: cfg", got=f"{layers} layers of {heads} heads",
                              expected=f"at most {MOST:,} pairs of components")  # fmt: skip
    return layout, d_model


def _node(what: str, entry: Any) -> bool:
    """Whether a node is in the circuit; older files have the flag alone."""
    value = entry.get("in_graph") if isinstance(entry, dict) else entry
    if not isinstance(value, bool):
        raise CheckpointError(what, got=quoted(entry), expected='{"in_graph": true or false}')
    if isinstance(entry, dict):
        if "neurons" in entry or "neurons_scores" in entry:
            raise CheckpointError(what, got="neurons of the node", expected="whole components",
                                  mend="Export the circuit at the level of edges.")  # fmt: skip
        if "score" in entry:
            _number(what, entry["score"])
    return value


def _edge(what: str, entry: Any) -> tuple[float, bool]:
    if not isinstance(entry, dict) or not isinstance(entry.get("in_graph"), bool):
        expected = '{"score": a number, "in_graph": true or false}'
        raise CheckpointError(what, got=quoted(entry), expected=expected)
    return _number(what, entry.get("score")), entry["in_graph"]


def _number(what: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise CheckpointError(what, got=quoted(value), expected="a finite score")
    return float(value)


def _nodes_of(layout: Layout) -> str:
    return (
        f"input, a0.h0 to a{layout.layers - 1}.h{layout.heads - 1}, m0 to m{layout.layers - 1}, "
        "logits"
    )


class _Constant(str):
    """NaN or an infinity, as it stands in the text."""


def _not_finite(text: str) -> tuple[str, str] | None:
    """Name the first node or edge whose score is NaN or infinite; None if the text is no JSON."""
    try:
        record = json.loads(text, parse_constant=_Constant)
    except (ValueError, RecursionError):
        return None
    for kind in ("nodes", "edges"):
        entries = record.get(kind) if isinstance(record, dict) else None
        for name, entry in (entries if isinstance(entries, dict) else {}).items():
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                if isinstance(value, _Constant):
                    return f"{kind[:-1]} {quoted(name)}", str(value)
    return None
