"""Circuits whose units are split by span: names, files, controls and the judge."""

import dataclasses
import json
import re

import numpy as np
import pytest
from rich.console import Console

from hagd_jax.causal import Circuit, Node, ValidateConfig, load_circuit, validate
from hagd_jax.causal.alike import Alike, drawing
from hagd_jax.causal.trials import groups, make_trials
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.report.claims_table import claims_table
from hagd_jax.report.table import circuit_table
from hagd_jax.roles import described
from hagd_jax.tasks import Seen
from hagd_jax.units import Nodes, Space, neurons
from hagd_jax.units.split import gathered, kinds
from hagd_jax.units.tree import tree_of
from tests.units.spans import SPANS, as_task, induction, without_spans

NAMES = ("io", "end", "rest")
WHOLE = Space(3, 4, 8)
TREE = tree_of(WHOLE, "neurons", [np.arange(WHOLE.nodes) % 2], 2, Seen.nothing())
UNITS = ["head 2.1 at end", "mlp 0 at io", "cluster 1.3 at rest", "cluster 1.3 at end", "head 0.0",
         "neuron 2.3 at io", "attention 1", "neuron 2.4"]  # fmt: skip


def circuit(units=UNITS, tree=TREE, **more):
    scores = [1.0 + i for i in range(len(units))]
    about = {"model": "m", "task": "t", "seen": Seen.nothing()} | more
    return Circuit.of_units(tree.by_span(NAMES), units, scores, **about)


@pytest.fixture(scope="module")
def planted():
    model, prompts, (before, after) = induction()
    return model, as_task(prompts), (before, after)


def test_units_have_the_names_they_were_asked_by():
    made = circuit()
    assert sorted(unit.name for unit in made.units) == sorted(UNITS)
    assert made.spans == NAMES
    # 1 + 8 + 4 + 4 + 3 + 1 + 12 + 3 leaves.
    assert (len(made), made.leaves) == (8, 36)
    assert made.space == Space(3, 12, 24)
    assert Node("head", 2, 1, span="end") in made.nodes
    assert repr(Node("head", 2, 1, span="end")) == "Node(kind='head', layer=2, index=1, span='end')"
    assert repr(Node("head", 2, 1)) == "Node(kind='head', layer=2, index=1)"
    flat = made.mask().flat()
    assert np.flatnonzero(flat).tolist() == sorted(made.places().tolist())
    back = Circuit.from_mask(made.mask(), Nodes.full(made.space, 1.0), model="m", task="t",
                             dictionary=made.dictionary)  # fmt: skip
    assert set(back.nodes) == set(made.nodes)
    assert "neuron 2.3 at io" in back.names()
    assert "neuron L2.E1.N0 at io" in dataclasses.replace(back, per_expert=(0, 0, 3)).names()


def test_it_prints_where_each_unit_is():
    text = str(circuit())
    assert text.splitlines()[0] == "circuit of 't' in 'm': 8 units with 36 of 108 nodes"
    shown = [re.split(r"\s{2,}", line.strip())[1] for line in text.splitlines()[2:]]
    assert sorted(shown) == sorted(UNITS)
    assert "cluster of neurons" in text


@pytest.mark.parametrize("units", [UNITS, ["head 2.1 at end"], ["mlp 0 at io", "head 0.0"]])
def test_files_bring_back_the_same_circuit(tmp_path, units):
    made = circuit(units, seen=Seen(prompts=["00c0ffee"]))
    made.save(tmp_path / "c.json")
    for given in (None, TREE, TREE.by_span(NAMES)):
        found = load_circuit(tmp_path / "c.json", given)
        assert found == made
        assert [unit.name for unit in found.units] == [unit.name for unit in made.units]
        assert found.to_json() == made.to_json()
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["dictionary"] == "neurons@io,end,rest"
    with pytest.raises(InputError, match="tree"):
        made.on(tree_of(WHOLE, "neurons", (), 2, Seen.nothing()))


def test_files_of_whole_units_are_what_they_were(tmp_path):
    plain = Circuit.of_units(TREE, ["cluster 1.3", "mlp 0", "head 0.0"], model="m", task="t")
    record = plain.record()
    assert all(set(unit) <= {"kind", "layers", "score", "index", "block", "members"}
               for unit in record["units"])  # fmt: skip
    assert all(len(node) == 3 for node in record["nodes"])
    assert record["dictionary"] == "neurons"


@pytest.mark.parametrize(
    "change",
    [
        {"dictionary": "neurons"},
        {"dictionary": "neurons@io,end"},
        {"dictionary": "neurons@io,io,rest"},
        {"dictionary": "neurons@io,end,rest,more"},
        {"dictionary": "neurons@rest,end,io"},
        {"space": [3, 13, 24]},
        {"space": [3, 12, 3 * 2**26]},
        {"unit": {"span": "never"}},
        {"unit": {"span": "rest"}},
        {"unit": {"kind": "head", "index": 9, "span": ""}},
        {"unit": {"kind": "feature", "index": 0, "span": ""}},
        {"unit": {"kind": "head", "index": 0, "members": [[0, 1]]}},
        {"unit": {"kind": "band", "layers": [0, 1], "index": 0, "span": ""}},
        {"nodes": [["head", 0, 12]]},
    ],
)
def test_broken_files_are_refused(tmp_path, change):
    record = circuit(["mlp 0 at io", "head 0.0"]).record()
    if "unit" in change:
        at = next(i for i, unit in enumerate(record["units"]) if unit["kind"] == "mlp")
        record["units"][at] |= change["unit"]
    else:
        record |= change
    (tmp_path / "c.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError):
        load_circuit(tmp_path / "c.json")


def test_a_span_in_a_circuit_of_whole_units_is_refused(tmp_path):
    record = Circuit.of_units(TREE, ["mlp 0"], model="m", task="t").record()
    record["units"][0]["span"] = "io"
    (tmp_path / "c.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="not split by span"):
        load_circuit(tmp_path / "c.json")
    with pytest.raises(InputError, match="span of a node"):
        Circuit((Node("head", 0, 0, span="io"),), (1.0,), WHOLE, model="m", task="t")
    with pytest.raises(InputError, match="span of a node"):
        Circuit((Node("head", 0, 0),), (1.0,), Space(3, 12, 24), model="m", task="t",
                dictionary="neurons@io,end,rest")  # fmt: skip


def test_by_span_keeps_units_where_it_is_told():
    plain = Circuit.of_units(TREE, ["cluster 1.3", "mlp 0", "head 0.0", "neuron 2.3"],
                             [4, 3, 2, 1], model="m", task="t")  # fmt: skip
    at = {"cluster 1.3": ["end", "io"], "head 0.0": ["rest"], "neuron 2.3": []}
    made = plain.by_span(NAMES, at)
    named = dict(zip(made.parts().names, made.parts().scores.tolist(), strict=True))
    assert named == {"cluster 1.3 at end": 4, "cluster 1.3 at io": 4, "mlp 0": 3,
                     "head 0.0 at rest": 2}  # fmt: skip
    bare = dataclasses.replace(plain, grouping=dataclasses.replace(plain.grouping, tree=None))
    assert bare.by_span(NAMES, at) == made
    assert bare.by_span(NAMES, at).on(TREE) == made
    loose = Circuit((Node("head", 0, 1),), (1.0,), WHOLE, model="m", task="t")
    assert [unit.name for unit in loose.by_span(NAMES).units] == ["head 0.1"]
    for names, told, says in (
        (("a", "a"), {}, "each name once"), (NAMES, {"mlp 2": ["io"]}, "unit to split"),
        (NAMES, {"mlp 0": ["never"]}, "span of a unit"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            plain.by_span(names, told)
    with pytest.raises(InputError, match="already"):
        made.by_span(NAMES)


def test_it_opens_and_closes_by_span():
    made = circuit(["head 0.0", "mlp 0 at io"]).opened("head 0.0", ["head 0.0 at end"])
    assert sorted(unit.name for unit in made.units) == ["head 0.0 at end", "mlp 0 at io"]
    whole = circuit([f"mlp 0 at {name}" for name in NAMES]).closed("mlp 0")
    assert [unit.name for unit in whole.units] == ["mlp 0"]


@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("outside", [True, False])
def test_controls_have_units_of_the_same_kinds_at_the_same_spans(fine, outside):
    units = ["head 2.1 at end", "cluster 1.3 at rest", "cluster 1.3 at end", "head 0.0",
             "neuron 2.3 at io"]  # fmt: skip
    made = circuit(units)
    alike = Alike.of(made)
    own, kind, layer = made.places(), kinds(made.space, 3), made.space.layer
    for seed in range(20):
        places = alike.drawn(np.random.default_rng(seed), fine=fine, outside=outside)
        assert len(places) == len(set(places.tolist())) == made.leaves
        assert np.array_equal(np.sort(kind[places]), np.sort(kind[own]))
        if fine:
            both = 6 * layer + kind
            assert np.array_equal(np.sort(both[places]), np.sort(both[own]))
        if outside:
            assert not set(places.tolist()) & set(own.tolist())
        # The whole head is replaced by a whole head.
        whole, span = gathered(WHOLE, 3, places[np.isin(kind[places], (0, 2, 4))])
        assert max(len(set(span[whole == head])) for head in set(whole)) == 3
    assert len(drawing(made, 108)(np.random.default_rng(0))) == made.leaves


def test_blocks_at_a_span_are_replaced_by_blocks_at_that_span():
    alike = Alike.of(circuit(["mlp 0 at end", "head 0.1"]))
    found = {tuple(alike.drawn(np.random.default_rng(seed), fine=False)) for seed in range(40)}
    tree = TREE.by_span(NAMES)
    expected = {
        tuple(sorted([*tree.unit(f"mlp {layer} at end").places(),
                      *tree.unit(f"head {at}.{index}").places()]))
        for layer in range(3) for at in range(3) for index in range(4)
    }  # fmt: skip
    assert found <= expected
    assert len(found) > 10


def test_controls_of_single_nodes_keep_their_spans(planted):
    model, _, (before, after) = planted
    nodes = neurons(model).by_span(SPANS)
    made = Circuit.of_units(
        neurons_tree(model), [f"{before} at next", f"{after} at end"], model=model.name, task="t"
    )
    trials = make_trials(made, nodes, controls=10, members=4, pairs=0, subsets=0, seed=0)
    fine, coarse = groups(nodes)
    own, layer, kind = made.mask().flat(), nodes.space.layer, kinds(nodes.space, 4)
    assert len(np.unique(fine)) == len(set(zip(layer.tolist(), kind.tolist(), strict=True)))
    np.testing.assert_array_equal(coarse, kind)
    for mask in trials.masks[3:13]:
        places = np.flatnonzero(mask.flat())
        assert sorted(kind[places]) == sorted(kind[np.flatnonzero(own)])


def neurons_tree(model):
    nodes = neurons(model)
    return tree_of(nodes.space, nodes.label, (), 2, Seen.nothing()).by_span(SPANS)


def test_the_judge_takes_it_and_says_where_units_are(planted):
    model, task, (before, after) = planted
    config = ValidateConfig(claims="core", ablations=("zero",), batch_size=32)
    names = {
        "good": [f"{before} at next", f"{after} at end"],
        "elsewhere": [f"{before} at first", f"{after} at end"],
        "larger": [f"{before} at next", f"{after} at end", f"{after} at rest"],
    }
    found = {}
    for key, units in names.items():
        made = Circuit.of_units(neurons_tree(model), units, model=model.name, task=task.name,
                                seen=Seen.nothing())  # fmt: skip
        found[key] = validate(model, made, task, config)
    good = found["good"]
    assert good.headline.startswith("accepted"), good.headline
    assert good.evidence[0].kl[2] < 1e-3
    assert good.units == 4 * neurons(model).space.nodes
    assert not found["elsewhere"].headline.startswith("accepted")
    minimal = next(c for c in found["larger"].claims if c.name == "minimality")
    assert "rest" in str(found["larger"].evidence[0].members)
    assert minimal.verdict != "holds"
    console = Console(width=160, record=True)
    console.print(circuit_table(good.circuit, found=good))
    console.print(claims_table(good))
    number = before.split()[1].replace(".", ".H")
    assert f"L{number} at next" in console.export_text()


def test_a_task_without_its_spans_is_refused(planted):
    model, task, (before, _) = planted
    made = Circuit.of_units(neurons_tree(model), [before], model=model.name, task=task.name)
    bare = dataclasses.replace(
        task, splits={name: without_spans(p) for name, p in task.splits.items()}
    )
    with pytest.raises(InputError, match=r"first, next, end, rest: got the task .* with no spans"):
        validate(model, made, bare)
    with pytest.raises(InputError, match=r"'other' with no spans"):
        validate(model, made, task, others=[dataclasses.replace(bare, name="other")])
    named = dataclasses.replace(
        task, splits={n: dataclasses.replace(p, spans=("a", "b", "c", "d"))
                      for n, p in task.splits.items()},
    )  # fmt: skip
    with pytest.raises(InputError, match="with the spans a, b, c, d"):
        validate(model, made, named)
    with pytest.raises(InputError, match=r"by_span\(circuit\.spans\)"):
        made.check_model(neurons(model))
    with pytest.raises(InputError, match="no spans; expected the spans first, next, end, rest"):
        described(model, bare, made)
