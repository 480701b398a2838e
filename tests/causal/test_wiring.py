"""Wirings: files, tables, what is refused, and the judge."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hagd_jax as hagd
from hagd_jax.causal import Circuit, ValidateConfig, Wiring, behaviour, load_circuit, validate
from hagd_jax.causal.trials import make_trials
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.models import DecoderConfig, abstract
from hagd_jax.tasks import Seen, look
from hagd_jax.testbeds import as_task, hand_built
from hagd_jax.units import Space, UnitEdges, frame_of
from hagd_jax.units.tree import tree_of

CONFIG = DecoderConfig(vocab_size=9, n_layers=3, d_model=8, n_heads=2, d_mlp=6)
SPACE = Space(3, 2, 6)
TREE = tree_of(SPACE, "neurons", [np.arange(24) % 3], 1, Seen(splits=("discover",)))
NAMES = ("attention 0", "cluster 0.0", "head 1.1", "mlp 1", "layers 2-2")
SEEN = Seen(ablations=("mean",), splits=("discover",))


def some(seed=0, share=0.4):
    circuit = Circuit.of_units(TREE, NAMES, model="small", task="copy", seen=SEEN)
    frame = frame_of(SPACE, circuit.units, False)
    rng = np.random.default_rng(seed)
    row = rng.random(len(frame)) < share
    return row, Wiring.from_mask(circuit, UnitEdges(row), rng.normal(size=row.sum()), seen=SEEN)


@settings(max_examples=25)
@given(st.integers(0, 100))
def test_files_give_it_back(tmp_path_factory, seed):
    row, wiring = some(seed, seed / 100)
    path = tmp_path_factory.mktemp("wiring") / "wiring.json"
    wiring.save(path)
    for found in (load_circuit(path, TREE), Wiring.load(path).__class__.load(path, TREE)):
        assert found == wiring
    # Without the tree its clusters have no siblings, and the edges are the same.
    assert Wiring.load(path).edges == wiring.edges
    json.loads(path.read_text(), parse_constant=pytest.fail)
    np.testing.assert_array_equal(wiring.mask().flat(), row)
    assert len(wiring) == row.sum() == wiring.leaves


@settings(max_examples=60)
@given(st.data())
def test_broken_files_are_refused(tmp_path_factory, data):
    record = json.loads(some()[1].to_json())
    del record["blake2b"]  # else nothing but the digest is looked at
    for field in data.draw(st.sets(st.sampled_from(sorted(record)), min_size=1)):
        record[field] = data.draw(
            st.none() | st.integers(0, 3) | st.text() | st.lists(st.lists(st.text(), max_size=4))
        )
    path = tmp_path_factory.mktemp("wiring") / "wiring.json"
    path.write_text(json.dumps(record))
    with contextlib.suppress(CheckpointError):
        assert len(load_circuit(path)) >= 0


def test_a_circuit_is_no_wiring(tmp_path):
    _, wiring = some()
    wiring.circuit.save(tmp_path / "circuit.json")
    with pytest.raises(CheckpointError, match="a circuit without edges"):
        Wiring.load(tmp_path / "circuit.json")
    wiring.save(tmp_path / "wiring.json")
    with pytest.raises(CheckpointError, match="expected one of nodes"):
        Circuit.load(tmp_path / "wiring.json")


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        (("mlp 1", "attention 0", "q", 1.0), "an edge that can exist"),  # backwards
        (("head 1.1", "mlp 1", "q", 1.0), "an edge that can exist"),
        (("head 1.0", "mlp 1", "mlp", 1.0), "an edge that can exist"),  # no unit
        (("embed", "layers 2-2", "mlp", 1.0), "an edge that can exist"),
        (("embed", "mlp 1", "mlp", float("nan")), "finite"),
        (("embed", "mlp 1", "mlp"), "source, reader, input, weight"),
    ],
)
def test_what_is_no_edge_is_refused(edge, words):
    circuit = some()[1].circuit
    with pytest.raises(InputError, match=words):
        Wiring(circuit, (edge,))
    good = ("embed", "mlp 1", "mlp", 1.0)
    with pytest.raises(InputError, match="an edge twice"):
        Wiring(circuit, (good, good))


def test_graphs_and_tables_name_every_edge():
    row, wiring = some(3)
    graph = wiring.to_networkx()
    assert set(graph) == {"embed", "logits", *NAMES}
    assert graph.number_of_edges() == row.sum() > 10
    told = {(a, b, key): data["weight"] for a, b, key, data in graph.edges(keys=True, data=True)}
    assert told == {edge[:3]: edge.weight for edge in wiring.edges}
    head, *lines = str(wiring).splitlines()
    assert head.startswith(f"5 units, {row.sum()} edges ({row.sum() / 5:.1f} a unit) of {len(row)}")
    read = {edge.reader for edge in wiring.edges}
    assert [line.split("  ")[0].strip() for line in lines] == [
        name for name in (*(unit.name for unit in wiring.units), "logits") if name in read
    ]


def test_other_units_are_refused():
    _, wiring = some()
    model = abstract(CONFIG)
    wiring.check_model(wiring.on(model))
    other = Wiring(Circuit.of_units(TREE, NAMES[:4], model="small", task="copy"), ())
    with pytest.raises(InputError, match="edges between its own units"):
        wiring.check_model(other.on(model))
    with pytest.raises(InputError, match="layers, heads, neurons"):
        wiring.on(abstract(CONFIG.replace(d_mlp=7)))


CASE = hand_built()[3]
# Read off its weights: a head counts letters wherever they stand, and neurons fold the count.
EDGES = [
    ("embed", "head 0.0", "v", 1.0), ("head 0.0", "mlp 0", "mlp", 1.0),
    ("mlp 0", "logits", "logits", 1.0),
]  # fmt: skip


def wired_case(edges):
    tree, task = hagd.units.tree(CASE.model), as_task(CASE, test=12)
    seen = look(task.splits["discover"], ablation="counterfactual", model=CASE.model)
    circuit = Circuit.of_units(
        tree, ["head 0.0", "mlp 0"], model=CASE.model.name, task=CASE.name, seen=seen
    )
    return task, Wiring(circuit, tuple(edges), seen=seen)


def test_the_judge_tells_a_wiring_from_one_without_an_edge():
    task, wiring = wired_case(EDGES)
    config = ValidateConfig(claims="core", ablations=("mean",), batch_size=32, controls=19)
    report = validate(CASE.model, wiring, task, config)
    verdicts = {claim.name: claim.verdict for claim in report.claims}
    assert report.verdict != "rejected", report.claims
    assert verdicts["size"] == verdicts["sufficiency"] == "holds"
    assert "3 of 8 edges between its units" in report.claims[0].says
    _, less = wired_case(EDGES[1:])
    report = validate(CASE.model, less, task, config)
    assert report.verdict == "rejected"
    assert {claim.name: claim.verdict for claim in report.claims}["sufficiency"] == "fails"


def test_gates_are_measured_from_the_empty_circuit_of_nodes():
    """And random wirings have as many edges, of the same units."""
    task, wiring = wired_case(EDGES)
    parts = wiring.on(CASE.model)
    counts = {"controls": 8, "members": 4, "pairs": 1, "subsets": 1, "seed": 0}
    trials = make_trials(wiring, parts, **counts)
    nodes = make_trials(wiring.circuit, hagd.units.neurons(CASE.model), **counts)
    prompts = task.splits["test"]
    own, of_nodes = (
        behaviour(CASE.model, prompts, masks.masks[:1], ablation="mean", dictionary=dictionary)
        for masks, dictionary in ((trials, parts), (nodes, None))
    )
    assert own.kl.min() > 0.1
    np.testing.assert_allclose(own.kl, of_nodes.kl, rtol=1e-4, atol=1e-5)
    controls = [mask.flat() for mask in trials.masks[3:11]]
    assert {int(row.sum()) for row in controls} == {3}
    assert len({row.tobytes() for row in controls}) == 8
