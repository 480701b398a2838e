"""Graphs on disk: round trips, faults, and the format of other tools."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hagd_jax.errors import CheckpointError
from hagd_jax.graphs import load_graph, neuronpedia_json, prune, save_graph, to_neuronpedia
from hagd_jax.graphs.graph import ERROR
from hagd_jax.graphs.neuronpedia import node_id
from tests.graphs.made_up import made_up


@pytest.mark.parametrize("features", [12, 0])
def test_a_graph_comes_back(tmp_path, features):
    graph = made_up(1, features=features, folded=True)
    save_graph(graph, tmp_path / "deep" / "graph.safetensors")
    again = load_graph(tmp_path / "deep" / "graph.safetensors")
    assert again.info == graph.info
    np.testing.assert_array_equal(again.to_dense(), graph.to_dense())
    for name, column in graph.nodes._asdict().items():
        np.testing.assert_array_equal(getattr(again.nodes, name), column)
    assert np.abs(graph.nodes.folded).max() > 0
    assert os.listdir(tmp_path / "deep") == ["graph.safetensors"]
    # Readable for others, as far as the umask of these tests allows.
    (tmp_path / "plain").touch()
    modes = [os.stat(tmp_path / name).st_mode for name in ("plain", "deep/graph.safetensors")]
    assert modes[0] == modes[1]


def broken(path, **changes):
    """The file with some arrays or its header exchanged."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        about = dict(file.metadata())
    del about["blake2b"]  # else nothing but the digest is looked at
    arrays = load_file(path)
    header = changes.pop("header", about)
    save_file({k: v for k, v in (arrays | changes).items() if v is not None}, path, header)


FAULTS = {
    "no node": lambda a: {"senders": np.full_like(a["senders"], 99)},
    "below": lambda a: {"receivers": np.full_like(a["receivers"], -1)},
    "missing": lambda a: {"weight": None},
    "short": lambda a: {"position": a["position"][:-1]},
    "kind": lambda a: {"kind": np.full_like(a["kind"], 7)},
    "beside": lambda a: {"position": np.full_like(a["position"], 40)},
    "dtype": lambda a: {"edges": a["edges"].astype(np.float64)},
    "another": lambda a: {"header": {"format": "something else"}},
    "info": lambda a: {"header": {"format": "hagd attribution graph 1", "info": "{}"}},
    "json": lambda a: {"header": {"format": "hagd attribution graph 1", "info": "{"}},
    "targets": lambda a: {"kind": np.zeros_like(a["kind"])},
}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_broken_file_is_refused(tmp_path, name):
    path = tmp_path / "graph.safetensors"
    save_graph(made_up(), path)
    broken(path, **FAULTS[name](load_file(path)))
    with pytest.raises(CheckpointError, match="written by save_graph"):
        load_graph(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"hello"])
def test_something_else_is_refused(tmp_path, content):
    path = tmp_path / "graph.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"safetensors: (header: )?got"):
        load_graph(path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_graph(tmp_path / "none")


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path):
    path = tmp_path / "graph.safetensors"
    save_graph(made_up(), path)
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 23, dtype=int):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_graph(path)


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="can be written"):
        save_graph(made_up(), tmp_path / "file" / "graph.safetensors")
    assert os.listdir(tmp_path) == ["file"]


# What the format's published schema requires of each part.
REQUIRED = {
    "": {"metadata", "qParams", "nodes", "links"},
    "metadata": {"slug", "scan", "prompt_tokens", "prompt"},
    "nodes": {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"},
    "links": {"source", "target", "weight"},
}
TYPES = {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}


def test_the_export_has_what_readers_require(tmp_path):
    graph = made_up(4, density=0.6)
    to_neuronpedia(graph, tmp_path / "graph.json", labels={(0, 1): "a label"})
    record = json.loads((tmp_path / "graph.json").read_text())
    assert REQUIRED[""] <= record.keys()
    assert REQUIRED["metadata"] <= record["metadata"].keys()
    assert record["metadata"]["schema_version"] == 1
    assert record["metadata"]["prompt_tokens"] == list(graph.info.words)
    ids = [node["node_id"] for node in record["nodes"]]
    assert len(set(ids)) == len(ids) == prune(graph).nodes.sum()
    for node in record["nodes"]:
        assert REQUIRED["nodes"] <= node.keys()
        assert node["feature_type"] in TYPES
        assert isinstance(node["layer"], str)
        assert isinstance(node["ctx_idx"], int)
    weights = {(link["source"], link["target"]): link["weight"] for link in record["links"]}
    assert len(weights) == prune(graph).edges.sum() > 5
    dense, kept = graph.to_dense(), prune(graph)
    for sender, receiver in zip(
        graph.senders[kept.edges], graph.receivers[kept.edges], strict=True
    ):
        pair = node_id(graph, sender), node_id(graph, receiver)
        assert weights[pair] == pytest.approx(dense[receiver, sender])


def test_no_two_nodes_share_an_id():
    """Also where features 0, 1, 2 of layer 0 stand beside errors of layers 0, 1, 2."""
    graph = made_up(0, layers=4, length=3, features=80)
    ids = [node_id(graph, node) for node in range(len(graph.nodes.kind))]
    assert len(set(ids)) == len(ids)
    assert {f"0_{i}_1" for i in range(4)} & set(ids)
    assert len(graph.of_kind(ERROR)) == 12


def test_features_are_numbered_by_cantors_pairing():
    graph = made_up(4, density=0.6)
    for node in neuronpedia_json(graph)["nodes"]:
        if node["feature_type"] == "cross layer transcoder":
            layer, index, _ = map(int, node["node_id"].split("_"))
            diagonal = sum(range(layer + index + 1))
            assert node["feature"] == diagonal + index
