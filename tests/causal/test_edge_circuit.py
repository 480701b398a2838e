"""Circuits of edges: names, files, and what is refused."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal import Circuit, Edge, EdgeCircuit, Node, load_circuit, named_edges
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.models import DecoderConfig, abstract
from hagd_jax.units import Edges, components, neurons

CONFIGS = [
    DecoderConfig(vocab_size=9, n_layers=2, d_model=6, n_heads=3, d_mlp=5),
    DecoderConfig(vocab_size=9, n_layers=3, d_model=8, n_heads=4, n_kv_heads=2, d_mlp=5),
    DecoderConfig(
        vocab_size=9, n_layers=2, d_model=4, n_heads=2, d_mlp=5, parallel_residual=True
    ),
]  # fmt: skip


def some(config, seed=0, share=0.4):
    there = Edges.existing(config)
    rng = np.random.default_rng(seed)
    flat = there.flat()
    scores = there.like(rng.normal(size=flat.shape))
    mask = there.like(flat & (rng.random(flat.shape) < share))
    return mask, EdgeCircuit.from_mask(mask, scores, config, model="m", task="t"), scores


@pytest.mark.parametrize("config", CONFIGS)
def test_names_and_places_are_inverse(config):
    mask, circuit, scores = some(config)
    assert 3 < len(circuit) == mask.flat().sum() < Edges.existing(config).count()
    np.testing.assert_array_equal(circuit.mask().flat(), mask.flat())
    assert list(circuit.edges) == named_edges(config, mask)
    # The scores are those of the edges, wherever they stand.
    by_name = dict(zip(circuit.edges, circuit.scores, strict=True))
    edge = next(e for e in circuit.edges if e.input == "mlp")
    writer = {"embed": 0}.get(edge.writer)
    if writer is None:
        kind, place = edge.writer.split()
        layer, *head = map(int, place.split("."))
        heads = config.n_heads
        writer = 1 + layer * heads + head[0] if kind == "head" else 1 + 2 * 0
        if kind == "mlp":
            writer = 1 + config.n_layers * heads + layer
    assert by_name[edge] == scores.mlp[int(edge.reader.split()[1]), writer]


@settings(max_examples=40)
@given(st.sampled_from(CONFIGS), st.integers(0, 100))
def test_files_give_it_back(tmp_path_factory, config, seed):
    _, circuit, _ = some(config, seed, share=seed / 100)
    path = tmp_path_factory.mktemp("edges") / "circuit.json"
    circuit.save(path)
    assert load_circuit(path) == circuit
    json.loads(path.read_text(), parse_constant=pytest.fail)


def test_circuits_of_nodes_are_read_too(tmp_path):
    circuit = Circuit((Node("head", 0, 1),), (1.0,), (2, 3, 5), model="m", task="t")
    circuit.save(tmp_path / "circuit.json")
    assert load_circuit(tmp_path / "circuit.json") == circuit


@pytest.mark.parametrize(
    "edge",
    [
        ("mlp 1", "mlp 0", "mlp"),  # backwards
        ("head 0.3", "mlp 0", "mlp"),
        ("head 0", "mlp 0", "mlp"),
        ("head 0.0", "mlp 2", "mlp"),
        ("head 0.0", "head 1.0", "mlp"),
        ("head 0.0", "head 1.0", "z"),
        ("head -1.0", "logits", "logits"),
        ("embed", "", ""),
        ("logits", "logits", "logits"),
        ("mlp ²", "logits", "logits"),
    ],
)
def test_what_is_no_edge_is_refused(edge):
    _, circuit, _ = some(CONFIGS[0])
    with pytest.raises(InputError, match="an edge of a model"):
        dataclasses.replace(circuit, edges=(Edge(*edge),), scores=(1.0,))


@settings(max_examples=100)
@given(st.data())
def test_broken_files_are_refused(tmp_path_factory, data):
    _, circuit, _ = some(CONFIGS[0])
    record = json.loads(circuit.to_json())
    del record["blake2b"]  # else nothing but the digest is looked at
    for field in data.draw(st.sets(st.sampled_from(sorted(record)), min_size=1)):
        record[field] = data.draw(
            st.none() | st.integers(0, 3) | st.text() | st.lists(st.lists(st.text(), max_size=3))
        )
    path = tmp_path_factory.mktemp("edges") / "circuit.json"
    path.write_text(json.dumps(record))
    with contextlib.suppress(CheckpointError):
        assert len(load_circuit(path)) >= 0


def test_other_models_are_refused():
    _, circuit, _ = some(CONFIGS[0])
    circuit.check_model(components(abstract(CONFIGS[0])))
    for other in (components(abstract(CONFIGS[1])), neurons(abstract(CONFIGS[0]))):
        with pytest.raises(InputError, match="components of Shape"):
            circuit.check_model(other)
    twice = (circuit.edges[0],) * 2
    with pytest.raises(InputError, match="an edge twice"):
        dataclasses.replace(circuit, edges=twice, scores=(1.0, 2.0))
    with pytest.raises(InputError, match="finite"):
        dataclasses.replace(circuit, edges=twice[:1], scores=(float("nan"),))
