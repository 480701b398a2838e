import contextlib
import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal import Circuit, Node
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files import write_atomic
from hagd_jax.models import DecoderConfig
from hagd_jax.tasks import Seen, look
from hagd_jax.transcoders import TranscoderConfig, init
from hagd_jax.units import Features, Neurons, Nodes, Scores, Selection, Space

SPACE = (2, 3, 5)
CONFIG = DecoderConfig(vocab_size=9, n_layers=2, d_model=6, n_heads=3, d_mlp=5)
ALL = [Node("head", a, b) for a in range(2) for b in range(3)]
ALL += [Node("neuron", a, b) for a in range(2) for b in range(5)]
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def small(**changes):
    circuit = Circuit(
        (Node("head", 0, 2), Node("neuron", 1, 4)), (0.5, -1.25), SPACE, model="m", task="t"
    )
    return dataclasses.replace(circuit, **changes)


@st.composite
def circuits(draw):
    nodes = sorted(draw(st.sets(st.sampled_from(ALL))))
    return Circuit(
        tuple(nodes),
        tuple(draw(st.lists(finite, min_size=len(nodes), max_size=len(nodes)))),
        SPACE,
        model=draw(st.text()),
        task=draw(st.text()),
        seen=draw(st.sampled_from([Seen.nothing(), Seen.unknown(), look(ablation="mean")])),
        seed=draw(st.integers(-(2**63), 2**63 - 1)),
        config=draw(st.dictionaries(st.text(), json_values, max_size=3)),
    )


def test_neurons_of_a_mixture_are_named_by_their_expert(tmp_path):
    mixed = CONFIG.replace(
        d_mlp=6, experts=3, experts_per_token=1, dense_layers=(0,), d_dense=5, mlp_bias=False
    )
    nodes = Node("head", 0, 2), Node("neuron", 0, 4), Node("neuron", 1, 4)
    circuit = Circuit(
        nodes, (1.0, 2.0, 3.0), (2, 3, 6), model="m", task="t",
        per_expert=Neurons(mixed).per_expert,
    )  # fmt: skip
    assert circuit.per_expert == (0, 2)
    assert circuit.names() == ("head 0.2", "neuron L0.N4", "neuron L1.E2.N0")
    circuit.save(tmp_path / "circuit.json")
    assert Circuit.load(tmp_path / "circuit.json").names() == circuit.names()
    # Files of other models say nothing of experts, and those without it still load.
    assert Neurons(CONFIG).per_expert == () == small().per_expert
    assert "per_expert" not in small().to_json()
    assert small().names() == ("head 0.2", "neuron 1.4")
    for wrong in ((2,), (0, 7), (0, -1), (0, 1.5), 3):
        with pytest.raises(InputError, match="per_expert"):
            dataclasses.replace(circuit, per_expert=wrong)


@settings(max_examples=60)
@given(circuit=circuits())
def test_round_trip(circuit, tmp_path_factory):
    path = tmp_path_factory.mktemp("circuit") / "circuit.json"
    circuit.save(path)
    # A file that names no data is no record of how its members were chosen.
    bare = len(circuit) and circuit.seen == Seen.nothing()
    assert Circuit.load(path) == (
        dataclasses.replace(circuit, seen=Seen.unknown()) if bare else circuit
    )
    json.loads(path.read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("before", ["mean", None])
def test_files_without_what_was_seen_are_of_unknown_history(tmp_path, before):
    record = json.loads(small(seen=look(ablation="zero")).to_json())
    del record["seen"], record["blake2b"]
    if before:
        record["ablation"] = before
    (tmp_path / "old.json").write_text(json.dumps(record))
    found = Circuit.load(tmp_path / "old.json").seen
    assert not found.known
    assert found.ablations == ((before,) if before else ())


@settings(max_examples=20)
@given(kept=st.sets(st.sampled_from(["ablations", "splits", "prompts", "tasks", "models"])))
def test_a_record_whose_data_were_taken_out_is_no_record(kept, tmp_path_factory):
    full = {"ablations": ["zero"], "splits": ["discover"], "prompts": ["00c0ffee"],
            "tasks": ["t"], "models": ["m#00000000"]}  # fmt: skip
    record = json.loads(small(seen=Seen(**full)).to_json())
    del record["blake2b"]
    record["seen"] |= {name: [] for name in set(full) - kept}
    path = tmp_path_factory.mktemp("stripped") / "circuit.json"
    path.write_text(json.dumps(record))
    found = Circuit.load(path).seen
    assert found.known == ("prompts" in kept)
    # Whatever it still says is believed.
    assert found.to_json() | {"known": True} == record["seen"]


def test_tuples_in_the_configuration_come_back_equal(tmp_path):
    circuit = small(config={"steps": (0.1, 0.9), "nested": {"a": (1, 2)}})
    circuit.save(tmp_path / "c.json")
    assert Circuit.load(tmp_path / "c.json") == circuit


def test_configuration_that_is_not_json_is_refused():
    with pytest.raises(InputError, match="config of the circuit"):
        small(config={"model": object()})


def test_mask_and_back():
    rng = np.random.default_rng(0)
    mask = Nodes(rng.random((2, 3)) < 0.5, rng.random((2, 5)) < 0.5)
    scores = Nodes(rng.normal(size=(2, 3)), rng.normal(size=(2, 5)))
    circuit = Circuit.from_mask(mask, scores, model="m", task="t")
    assert 0 < len(circuit) == mask.flat().sum() < 16
    assert (circuit.mask().flat() == mask.flat()).all()
    assert list(circuit.scores) == scores.flat()[mask.flat()].tolist()
    assert list(circuit.nodes) == sorted(circuit.nodes)
    assert [(n.kind, n.layer, n.index) for n in circuit.nodes] == [
        (kind, layer, index)
        for kind, table in (("head", mask.heads), ("neuron", mask.features))
        for layer in range(2)
        for index in range(table.shape[1])
        if table[layer, index]
    ]


@pytest.mark.parametrize(
    ("nodes", "scores", "got"),
    [
        ((Node("head", 0, 0),), (), "0 scores"),
        ((Node("head", 0, 0),) * 2, (1.0, 1.0), "a node twice"),
        ((Node("head", 0, 3),), (1.0,), "'head' 3 of layer 0"),
        ((Node("neuron", 2, 0),), (1.0,), "'neuron' 0 of layer 2"),
        ((Node("neuron", 0, -1),), (1.0,), "'neuron' -1 of layer 0"),
        ((Node("feature", 0, 0),), (1.0,), "'feature' 0 of layer 0"),
        ((Node("head", 0, 0),), (float("nan"),), "not finite"),
        ((Node("head", 0, 0),), (float("inf"),), "not finite"),
    ],
)
def test_impossible_circuits_are_refused(nodes, scores, got):
    with pytest.raises(InputError, match=got):
        Circuit(nodes, scores, SPACE, model="m", task="t")


def test_a_model_of_another_shape_is_refused():
    small().check_model(Neurons(CONFIG))
    with pytest.raises(InputError, match=r"got a model with layers, heads, neurons = \(2, 3, 7\)"):
        small().check_model(Neurons(CONFIG.replace(d_mlp=7)))


def test_another_dictionary_is_refused():
    config = TranscoderConfig(n_layers=2, d_model=6, n_features=5, k=2)
    mine, other = (
        Features(CONFIG, name, init(config, jax.random.key(key)))
        for name, key in [("mine", 0), ("mine", 1)]
    )
    node = (Node("feature", 1, 4),)
    circuit = small(nodes=node, scores=(1.0,), dictionary=mine.label)
    circuit.check_model(mine)
    # The same weights in another folder are the same dictionary.
    circuit.check_model(mine.replace(name="elsewhere"))
    for wrong in (other, Neurons(CONFIG)):
        with pytest.raises(InputError, match=r"got the dictionary '.*; expected 'mine#"):
            circuit.check_model(wrong)
    with pytest.raises(InputError, match="expected 'neurons'"):
        small().check_model(mine)


def test_kinds_of_nodes_follow_the_dictionary(tmp_path):
    mask = Nodes(np.zeros((2, 3), bool), np.eye(2, 5, dtype=bool))
    scores = Nodes(np.ones((2, 3)), np.ones((2, 5)))
    circuit = Circuit.from_mask(mask, scores, model="m", task="t", dictionary="d#12345678")
    assert circuit.nodes == (Node("feature", 0, 0), Node("feature", 1, 1))
    circuit.save(tmp_path / "c.json")
    assert Circuit.load(tmp_path / "c.json") == circuit
    assert (circuit.mask().flat() == mask.flat()).all()
    with pytest.raises(InputError, match="5 features"):
        small(dictionary="d#12345678")


def test_every_truncation_is_an_error_with_the_file_in_it(tmp_path):
    path = tmp_path / "cut.json"
    whole = small().to_json().rstrip()
    for end in range(len(whole)):
        path.write_text(whole[:end])
        with pytest.raises(CheckpointError, match=r"cut\.json"):
            Circuit.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": None},
        {"nodes": [["head", 0, 2], ["head", 0, 2]]},
        {"nodes": [["head", 0, 3], ["neuron", 1, 4]]},
        {"nodes": [["head", 0.7, 2], ["neuron", 1, 4]]},
        {"nodes": [["head", 1e400, 2], ["neuron", 1, 4]]},
        {"nodes": [["head", 0], ["neuron", 1, 4]]},
        {"nodes": None},
        {"scores": [1.0]},
        {"scores": [1.0, "x"]},
        {"scores": [1.0, 10**400]},
        {"scores": [1.0, float("nan")]},
        {"space": [2, 3]},
        {"space": [2, 3, 5.5]},
        {"model": 5},
        {"seed": "0"},
        {"config": [1]},
        {"surprise": 1},
        {"seen": {}},
        {"seen": "nothing"},
        {"seen": {"known": True, "ablations": "mean"}},
        {"seen": None, "ablation": 3},
    ],
)
def test_broken_fields(tmp_path, change):
    path = tmp_path / "c.json"
    record = json.loads(small().to_json())
    del record["blake2b"]  # else nothing but the digest is looked at
    path.write_text(json.dumps(record | change))
    with pytest.raises(CheckpointError, match=r"c\.json"):
        Circuit.load(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "5", "{}", "[" * 100_000, '"\\ud800"'])
def test_what_is_no_circuit(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"c\.json"):
        Circuit.load(tmp_path / "c.json")


def test_absent_and_binary_files(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("absent", "binary", "."):
        with pytest.raises(CheckpointError):
            Circuit.load(tmp_path / name)


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_change_nothing(data, tmp_path_factory):
    whole = small(config={"a": [1, 2.5, None]})
    raw = bytearray(whole.to_json().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        assert Circuit.load(path) == whole


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "c.json"
    small().save(path)
    before = path.read_text()
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CheckpointError, match="disk full"):
        small(seed=1).save(path)
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_circuit_has_seen_what_its_selection_and_scores_have():
    space = Space(2, 2, 3)
    mask, scores = Nodes.full(space, True), Nodes.full(space, 1.0)
    chosen = Selection(mask, look(ablation="mean"))
    ranked = Scores(scores, look(ablation="counterfactual"))
    about = {"model": "m", "task": "t"}
    assert Circuit.from_mask(chosen, ranked, **about).seen.ablations == ("counterfactual", "mean")
    more = Circuit.from_mask(chosen, scores, **about, seen=look(ablation="zero"))
    assert more.seen.ablations == ("mean", "zero")  # nothing is erased
    assert not Circuit.from_mask(mask, ranked, **about).seen.known
    plain = Circuit.from_mask(mask, scores, **about)
    assert Circuit.from_mask(chosen, ranked, **about).nodes == plain.nodes
