"""Circuits of units at mixed resolution: their parts, their files, and what is refused."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal import Circuit, Node, load_circuit
from hagd_jax.causal.grouping import Grouping
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.models import DecoderConfig, abstract
from hagd_jax.tasks import Seen, look
from hagd_jax.units import Neurons, Space, Unit, tree
from hagd_jax.units.tree import tree_of
from tests.units.trees import antichains, trees

CONFIG = DecoderConfig(vocab_size=9, n_layers=3, d_model=8, n_heads=2, d_mlp=6)
MODEL = abstract(CONFIG)
# Six heads, then 18 neurons in threes.
THREES = np.arange(24) // 3
TREE = tree(MODEL, clusters=[THREES], band=2, seen=look(ablation="mean"))
NAMES = ("neuron 2.0", "mlp 0", "cluster 1.1", "head 2.1")
ABOUT = {"model": "m", "task": "t", "seen": Seen.nothing()}


def small(names=NAMES, own=TREE, scores=(4.0, 3.0, 2.0, 1.0), **changes):
    return Circuit.of_units(own, names, scores[: len(names)], **ABOUT | changes)


def test_a_circuit_counts_units_and_leaves():
    circuit = small()
    assert (len(circuit), len(circuit.units), circuit.leaves) == (4, 4, 11)
    names = [unit.name for unit in circuit.units]
    assert names == ["head 2.1", "mlp 0", "cluster 1.1", "neuron 2.0"]
    assert circuit.nodes[:2] == (Node("head", 2, 1), Node("neuron", 0, 0))
    assert [circuit.scores[i] for i in (0, 1, 6, 7, 10)] == [1.0, 3.0, 3.0, 2.0, 4.0]
    parts = circuit.parts()
    assert parts.scores.tolist() == [1.0, 3.0, 2.0, 4.0]
    assert parts.names == ("head 2.1", "mlp 0", "cluster 1.1", "neuron 2.0")
    assert parts.all_of([6]).tolist() == list(range(6, 12))
    circuit.check_model(Neurons(CONFIG))
    # What the clusters were made by looking at, the circuit has seen.
    assert circuit.seen == look(ablation="mean")


@settings(max_examples=50)
@given(data=st.data(), own=trees())
def test_units_of_a_circuit_are_those_it_was_made_of(data, own):
    chain = data.draw(antichains(own))
    circuit = Circuit.of_units(own, chain, **ABOUT)
    assert set(circuit.units) == set(chain)
    assert len(circuit) == len(chain)
    mask = circuit.mask().flat()
    assert mask.sum() == circuit.leaves == sum(map(len, chain))
    for unit in own.rest(chain):
        assert not mask[unit.places()].any()
    parts = circuit.parts()
    for place, name in zip(parts.first.tolist(), parts.names, strict=True):
        np.testing.assert_array_equal(parts.all_of([place]), own.unit(name).places())
    assert sorted(parts.all_of(parts.first).tolist()) == np.flatnonzero(mask).tolist()


@settings(max_examples=50)
@given(data=st.data(), own=trees())
def test_round_trip(data, own, tmp_path_factory):
    chain = data.draw(antichains(own))
    scores = data.draw(st.lists(st.floats(-9, 9), min_size=len(chain), max_size=len(chain)))
    circuit = Circuit.of_units(own, chain, scores, model="m", task="t", seen=look(ablation="zero"))
    path = tmp_path_factory.mktemp("units") / "circuit.json"
    circuit.save(path)
    for found in (load_circuit(path), load_circuit(path, own), Circuit.load(path).on(own)):
        assert found == circuit
        assert found.units == circuit.units
        assert found.parts().scores.tolist() == circuit.parts().scores.tolist()
    assert json.loads(path.read_text())["format"] == 2


def test_single_nodes_are_units_and_files_stay_as_they_were():
    plain = Circuit((Node("head", 0, 1), Node("neuron", 1, 4)), (0.5, 1.0), TREE.space, **ABOUT)
    assert [unit.name for unit in plain.units] == ["head 0.1", "neuron 1.4"]
    assert (len(plain), plain.leaves) == (2, 2)
    record = json.loads(plain.to_json())
    assert record["format"] == 1
    assert not {"tree", "units", "grouping"} & set(record)


def test_members_of_files_are_compact():
    record = json.loads(small().to_json())
    mlp, cluster = sorted(record["units"], key=lambda unit: -unit["score"])
    assert mlp == {"kind": "mlp", "layers": [0, 0], "score": 3.0, "index": 0}
    assert cluster["members"] == [[3, 5]]
    assert (cluster["block"], cluster["layers"], cluster["index"]) == ("mlp", [1, 1], 1)
    assert record["tree"] == {"digest": TREE.digest, "band": 2}


def test_opened_and_closed():
    circuit = small()
    opened = circuit.opened("cluster 1.1")
    assert [unit.name for unit in opened.units][2:5] == ["neuron 1.3", "neuron 1.4", "neuron 1.5"]
    assert (len(opened), opened.leaves) == (6, 11)
    assert opened.parts().scores.tolist() == [1.0, 3.0, 2.0, 2.0, 2.0, 4.0]
    assert opened.closed("cluster 1.1") == circuit
    some = circuit.opened("mlp 0", only=["cluster 0.1"])
    assert [unit.name for unit in some.units][1:3] == ["cluster 0.1", "cluster 1.1"]
    assert (len(some), some.leaves) == (4, 8)
    assert circuit.opened("mlp 0").opened("cluster 0.0").closed("mlp 0") == circuit
    # What is opened down to the leaves is judged as any circuit of nodes.
    leaves = opened.opened("mlp 0").opened("cluster 0.0").opened("cluster 0.1")
    assert len(leaves) == leaves.leaves == 11
    assert not leaves.parts().several


def test_what_cannot_be_opened_is_refused(tmp_path):
    circuit = small()
    for change in (
        lambda: circuit.opened("mlp 1"), lambda: circuit.opened("head 2.1"),
        lambda: circuit.closed("mlp 1"), lambda: circuit.opened("mlp 0", only=["neuron 0.1"]),
        lambda: circuit.opened("mlp 0", only=["head 0.0"]),
        lambda: circuit.on(tree(MODEL)), lambda: circuit.on(None),
        lambda: circuit.on(tree(MODEL, clusters=[THREES], band=1)),
        lambda: dataclasses.replace(circuit, grouping=None).on(TREE),
    ):  # fmt: skip
        with pytest.raises(InputError):
            change()
    circuit.save(tmp_path / "c.json")
    read = Circuit.load(tmp_path / "c.json")
    with pytest.raises(InputError, match="whose tree is not at hand"):
        read.opened("mlp 0")
    assert read.on(TREE).opened("mlp 0") == circuit.opened("mlp 0")
    with pytest.raises(CheckpointError, match=r"c\.json.*tree"):
        Circuit.load(tmp_path / "c.json", tree(MODEL))


@pytest.mark.parametrize(
    ("names", "scores", "got"),
    [
        (["mlp 0", "neuron 0.1"], (1.0, 1.0), "which overlap"),
        (["mlp 0", "mlp 0"], (1.0, 1.0), "twice"),
        (["mlp 9"], (1.0,), "'mlp 9'"),
        (["mlp 0"], (), "0; expected 1"),
        (["mlp 0"], (float("nan"),), "finite"),
        (["mlp 0"], (10**400,), "finite"),
        (["mlp 0"], (np.complex64(1j),), "complex64"),
        (["mlp 0"], ("x",), "str"),
    ],
)
def test_impossible_units_are_refused(names, scores, got):
    with pytest.raises(InputError, match=got):
        Circuit.of_units(TREE, names, scores, **ABOUT)


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path):
    scores = np.array([0.5, 1.5, 2.5, 3.5], np.float32)
    units = small(scores=scores)
    nodes = Circuit((Node("head", np.int64(1), np.int32(0)),), scores[:1], TREE.space, **ABOUT)
    for circuit, expected in (
        (units, small(scores=scores.tolist())),
        (nodes, Circuit((Node("head", 1, 0),), (0.5,), TREE.space, **ABOUT)),
    ):
        circuit.save(tmp_path / "c.json")
        assert circuit == expected
        assert circuit.to_json() == expected.to_json()
        assert Circuit.load(tmp_path / "c.json").scores == circuit.scores


def test_groupings_that_do_not_fit_are_refused():
    circuit, own = small(), small().grouping
    for change in (
        {"nodes": circuit.nodes[:-2], "scores": circuit.scores[:-2]},  # a cluster loses a node
        {"space": Space(3, 2, 7)}, {"space": Space(4, 2, 6)}, {"dictionary": "d#12345678"},
        {"grouping": "mlp 0"},
    ):  # fmt: skip
        with pytest.raises(InputError):
            dataclasses.replace(circuit, **change)
    for change in (
        {"digest": "xyz"}, {"digest": 5}, {"band": 0}, {"scores": (1.0,)}, {"units": own.units * 2},
        {"units": ("mlp 0", "mlp 1")}, {"digest": "0123456789abcdef"}, {"tree": "a tree"},
    ):  # fmt: skip
        with pytest.raises(InputError):
            dataclasses.replace(own, **change)


CLUSTER = {"kind": "cluster", "layers": [1, 1], "score": 2.0, "index": 1, "block": "mlp"}
MLP = {"kind": "mlp", "layers": [0, 0], "score": 1.0}
HUGE = {"kind": "band", "layers": [0, 16383], "score": 1.0}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"format": 3},
        {"units": None},
        {"tree": None},
        {"tree": None, "units": None},
        {"tree": {"digest": "xyz", "band": 2}},
        {"tree": {"digest": "0123abcd"}},
        {"tree": {"digest": "0123abcd", "band": 0}},
        {"tree": {"digest": "0123abcd", "band": 2**40}},
        {"tree": "0123abcd"},
        {"units": "mlp 0"},
        {"units": [{"kind": "mlp", "layers": [0, 0]}]},
        {"units": [MLP | {"score": "x"}]},
        {"units": [MLP | {"index": 1}]},
        {"units": [MLP | {"members": [[0, 5]]}]},
        {"units": [MLP | {"block": "attention"}]},
        {"units": [MLP | {"surprise": 1}]},
        {"units": [MLP | {"layers": [0, 1]}]},
        {"units": [MLP | {"layers": [1, 0]}]},
        {"units": [MLP | {"layers": [7, 7]}]},
        {"units": [MLP | {"layers": [1, 1]}]},  # not all of it is there
        {"units": [MLP | {"kind": "attention", "layers": [2, 2]}]},
        {"units": [MLP] * 2},
        {"units": [MLP | {"kind": "band", "layers": [0, 1]}]},
        {"units": [MLP | {"kind": "head", "layers": [2, 2], "index": 1}]},
        {"units": [CLUSTER]},
        {"units": [CLUSTER | {"members": [[3, 3]]}]},
        {"units": [CLUSTER | {"members": [[5, 3]]}]},
        {"units": [CLUSTER | {"members": [[3, 6]]}]},
        {"units": [CLUSTER | {"members": [[3, 4], [4, 5]]}]},
        {"units": [CLUSTER | {"members": [[3, 4], [5, 5]]}]},  # two ranges that are one
        {"units": [CLUSTER | {"members": [[5, 5], [3, 4]]}]},
        {"units": [CLUSTER | {"members": [[3, 4.5]]}]},
        {"units": [CLUSTER | {"members": [[-1, 5]]}]},
        {"units": [CLUSTER | {"members": [[2, 4]]}]},  # a node that is not there
        {"units": [CLUSTER | {"members": [[3, 5]], "block": ""}]},
        {"units": [CLUSTER | {"members": [[3, 5]], "block": "attention"}]},
        {"units": [CLUSTER | {"members": [[3, 5]], "layers": [1, 2]}]},
        {"units": [CLUSTER | {"members": [[3, 4]]}, CLUSTER | {"members": [[4, 5]], "index": 0}]},
        {"units": [CLUSTER | {"members": [[3, 5]], "score": 10**400}]},
        {"nodes": [["head", 2, 1]], "scores": [1.0]},
        {"space": [3, 2, 7]},
        # Neither the unit nor the tree may be expanded: both would fill the memory.
        {"space": [16384, 1, 65535], "nodes": [["head", 2, 1]], "scores": [1.0], "units": [HUGE],
         "tree": {"digest": "0123abcd", "band": 16384}},
    ],
)  # fmt: skip
def test_broken_fields(tmp_path, change):
    path = tmp_path / "c.json"
    record = json.loads(small().to_json())
    del record["blake2b"]  # else nothing but the digest is looked at
    path.write_text(json.dumps(record | change))
    with pytest.raises(CheckpointError, match=r"c\.json"):
        Circuit.load(path)


@settings(max_examples=100)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_change_nothing(data, tmp_path_factory):
    whole = small(seen=look(ablation="mean"))
    raw = bytearray(whole.to_json().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        assert Circuit.load(path) == whole


def test_another_trees_digest_is_refused(tmp_path):
    """The same names, other members."""
    twos = tree(MODEL, clusters=[np.arange(24) // 2], band=2, seen=Seen.nothing())
    path = tmp_path / "c.json"
    small(["cluster 1.1"]).save(path)
    with pytest.raises(CheckpointError, match=f"digest {twos.digest}"):
        Circuit.load(path, twos)
    record = json.loads(path.read_text())
    del record["blake2b"]
    record["tree"]["digest"] = twos.digest
    path.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"cluster 1\.1"):
        Circuit.load(path, twos)


def test_units_of_no_tree_are_refused():
    def grouping(*ranges, kind="cluster", block="mlp"):
        unit = Unit(kind, (1, 1), 0, block, ranges)
        return Grouping((unit,), (1.0,), 2, TREE.digest)

    plain = Circuit(tuple(Node("neuron", 1, i) for i in range(6)), (1.0,) * 6, TREE.space, **ABOUT)
    good = dataclasses.replace(plain, grouping=grouping((12, 14), (16, 18)))
    assert (len(good), good.leaves) == (4 - 1, 6)
    assert len(dataclasses.replace(plain, grouping=grouping((12, 18), kind="mlp"))) == 1
    for ranges, changes in (
        ([(12, 18)], {}), ([(12, 14), (14, 16)], {}), ([(14, 12)], {}), ([], {}),
        ([(11, 13)], {}), ([(12, 13)], {}), ([(12, 17)], {"kind": "mlp"}),
        ([(12, 14)], {"block": "attention"}), ([(12, 14)], {"kind": "neuron"}),
    ):  # fmt: skip
        with pytest.raises(InputError, match="unit"):
            dataclasses.replace(plain, grouping=grouping(*ranges, **changes))


def test_trees_without_clusters_are_made_again(tmp_path):
    bare = tree_of(Space(3, 2, 6), "neurons", (), 2, Seen.nothing())
    circuit = small(["mlp 1", "layers 2-2"], bare)
    circuit.save(tmp_path / "c.json")
    read = Circuit.load(tmp_path / "c.json")
    assert read.grouping.tree.digest == bare.digest
    assert len(read.opened("layers 2-2")) == 3
    assert not read.grouping.incomplete
    small().save(tmp_path / "c.json")
    assert Circuit.load(tmp_path / "c.json").grouping.incomplete
