"""Circuit files of MIB: round trips, broken ones, and CPR and CMD beside float64 NumPy."""

import contextlib
import json
import pickle

import jax
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal import MibGraph, mib_curve
from hagd_jax.causal.mib_layout import Layout, as_edges, as_matrix
from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.models import DecoderConfig, forward, ungrouped
from hagd_jax.units import WRITES, Edges, mask_edges
from tests.causal.edges_plain import GROUPED, Plain, some

APART = GROUPED.replace(n_kv_heads=4)
PARALLEL = DecoderConfig(
    vocab_size=9, n_layers=3, d_model=4, n_heads=2, d_mlp=5, parallel_residual=True
)  # fmt: skip
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


def graph_of(config, seed=0, share=0.4):
    there = Edges.existing(config)
    rng = np.random.default_rng(seed)
    flat = there.flat()
    scores = there.like(rng.normal(size=flat.shape))
    mask = there.like(flat & (rng.random(flat.shape) < share))
    return MibGraph.of(scores, mask, config), scores, mask


def names_of(config):
    """Every edge of the benchmark's graph, as its authors' text describes it."""
    stream, edges = ["input"], []
    for layer in range(config.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(config.n_heads)]
        edges += [f"{w}->{head}<{x}>" for w in stream for head in heads for x in "qkv"]
        if not config.parallel_residual:
            stream += heads
        edges += [f"{w}->m{layer}" for w in stream]
        stream += heads * config.parallel_residual + [f"m{layer}"]
    return edges + [f"{w}->logits" for w in stream]


@pytest.mark.parametrize("config", [GROUPED, PARALLEL])
def test_edges_are_those_of_the_benchmark_and_stand_where_ours_do(config, tmp_path):
    graph, scores, mask = graph_of(config)
    graph.save(tmp_path / "circuit.json")
    record = json.loads((tmp_path / "circuit.json").read_text())
    assert record["cfg"] == {
        "n_layers": config.n_layers, "n_heads": config.n_heads,
        "parallel_attn_mlp": config.parallel_residual, "d_model": config.d_model,
    }  # fmt: skip
    assert sorted(record["edges"]) == sorted(names_of(config))
    # Three edges looked up by hand, one of them into a key that heads may share.
    heads, group = config.n_heads, config.n_heads // config.n_kv_heads
    mlp0 = 1 + config.n_layers * heads
    for name, value, inside in (
        ("a0.h1->m1", scores.mlp[1, 2], mask.mlp[1, 2]),
        ("m0->a1.h1<k>", scores.k[1, 1 // group, mlp0], mask.k[1, 1 // group, mlp0]),
        ("a1.h0->logits", scores.final[1 + heads], mask.final[1 + heads]),
    ):
        assert record["edges"][name] == {"score": value, "in_graph": bool(inside)}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2]), st.booleans(),
       st.integers(0, 99))  # fmt: skip
def test_files_and_circuits_come_back(tmp_path_factory, layers, keys, group, parallel, seed):
    config = DecoderConfig(vocab_size=9, n_layers=layers, d_model=2 * keys * group, d_mlp=3,
                           n_heads=keys * group, n_kv_heads=keys,
                           parallel_residual=parallel)  # fmt: skip
    graph, scores, mask = graph_of(config, seed, share=seed / 99)
    path = tmp_path_factory.mktemp("mib") / "circuit.json"
    graph.save(path)
    back = MibGraph.load(path)
    for name in ("scores", "members", "nodes"):
        np.testing.assert_array_equal(getattr(back, name), getattr(graph, name))
    np.testing.assert_array_equal(back.mask(config).flat(), mask.flat())
    there = Edges.existing(config).flat()
    np.testing.assert_array_equal(back.values(config).flat()[there], scores.flat()[there])
    circuit = back.circuit(config, model="m", task="t")
    assert len(circuit) == mask.flat().sum()
    assert not circuit.seen.known
    again = MibGraph.of_circuit(circuit, config.d_model)
    np.testing.assert_array_equal(again.members, graph.members)
    np.testing.assert_array_equal(again.scores, np.where(graph.members, graph.scores, 0))
    before = path.read_text()
    back.save(path)
    assert path.read_text() == before


def test_heads_that_share_keys_must_agree_or_be_taken_apart():
    graph, *_ = graph_of(APART, 3)
    with pytest.raises(InputError, match=r"edge .*->a\d\.h\d<[kv]>.*ungrouped"):
        graph.circuit(GROUPED)
    assert graph.circuit(APART).shape.keys == 4
    model, prompts = some()
    apart = ungrouped(model)
    clean = forward(model, prompts.clean).logits
    np.testing.assert_allclose(forward(apart, prompts.clean).logits, clean, atol=1e-5)
    # A mask of groups does the same in both.
    _, _, mask = graph_of(GROUPED, 5)
    wide = as_edges(Layout(2, 4, False), as_matrix(mask), 4)
    found = [
        forward(each, prompts.clean, mask_edges(each.config, held, forward(
            each, prompts.corrupted, capture=WRITES).trace)).logits
        for each, held in ((model, mask), (apart, wide))
    ]  # fmt: skip
    assert np.abs(found[0] - clean).max() > 0.05
    np.testing.assert_allclose(*found, atol=2e-5)


@pytest.mark.parametrize("config", [APART, PARALLEL])
@pytest.mark.parametrize("absolute", [True, False])
def test_loose_edges_are_dropped_as_by_networkx(config, absolute):
    graph, *_ = graph_of(config, 7)
    layout = graph.layout
    rows, columns = layout.writer_names(), layout.reader_names()
    for count in (0, 6, 20, 60):
        kept = graph.top(count, absolute=absolute)
        ranked = np.abs(graph.scores) if absolute else graph.scores
        order = sorted(layout.order(), key=lambda place: -ranked[place])[:count]
        edges = [(rows[w], columns[r].split("<")[0], (w, r)) for w, r in order]
        found = nx.MultiDiGraph()
        found.add_nodes_from(["input", "logits"])
        found.add_edges_from((a, b, {"place": place}) for a, b, place in edges)
        reached = nx.descendants(found, "input") | {"input"}
        heard = nx.ancestors(found, "logits") | {"logits"}
        on = {place for a, b, place in edges if a in reached & heard and b in reached & heard}
        assert set(map(tuple, np.argwhere(kept.members).tolist())) == on
        assert kept.weighted_edge_count() == len(on)
    assert 0 < len(on) < 60


@pytest.mark.parametrize("absolute", [True, False])
def test_cpr_and_cmd_of_a_file_are_those_of_float64_numpy(tmp_path, absolute):
    """Every step by itself: reading the file, choosing, running, integrating."""
    model, prompts = some(count=4, seed=3)
    apart = ungrouped(model)
    graph, *_ = graph_of(APART, 9)
    graph.save(tmp_path / "circuit.json")
    found = mib_curve(apart, prompts, MibGraph.load(tmp_path / "circuit.json"), absolute=absolute)

    edges = json.loads((tmp_path / "circuit.json").read_text())["edges"]
    plain = Plain(apart, prompts)
    how = abs if absolute else float
    ranked = sorted(edges, key=lambda name: -how(edges[name]["score"]))
    writers = {"input": 0} | {f"a{i}.h{h}": 1 + 4 * i + h for i in range(2) for h in range(4)}
    writers |= {f"m{i}": 9 + i for i in range(2)}

    def metric(names):
        mask = jax.tree.map(lambda x: np.zeros(x.shape, bool), Edges.existing(APART))
        for name in names:
            writer, reader = name.split("->")
            if reader == "logits":
                mask.final[writers[writer]] = True
            elif reader[0] == "m":
                mask.mlp[int(reader[1:]), writers[writer]] = True
            else:
                getattr(mask, reader[-2])[int(reader[1]), int(reader[4]), writers[writer]] = True
        return plain.metric(mask)

    nothing, whole = metric([]), plain.metric()
    assert abs(whole - nothing) > 0.1
    values = [
        (metric(ranked[: int(share * len(ranked))]) - nothing) / (whole - nothing)
        for share in SHARES
    ]
    widths = np.diff(SHARES)
    both = [np.asarray(values), np.abs(1 - np.asarray(values))]
    cpr, cmd = (float((widths * (y[1:] + y[:-1]) / 2).sum()) for y in both)
    assert found.edges == tuple(int(share * len(edges)) for share in SHARES)
    assert len({round(value, 3) for value in values}) > 4
    np.testing.assert_allclose(found.faithfulness, values, atol=1e-3)
    assert abs(found.cpr - cpr) < 1e-3
    assert abs(found.cmd - cmd) < 1e-3
    assert found.faithfulness[-1] == pytest.approx(1, abs=1e-5)


def test_pickles_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was run",))

    for name in ("circuit.pt", "circuit.pkl", "circuit.json"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(CheckpointError, match=r"a pickle.*to_json\('circuit.json'\)"):
            MibGraph.load(tmp_path / name)
    (tmp_path / "zipped").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(CheckpointError, match="a pickle"):
        MibGraph.load(tmp_path / "zipped")


def broken(tmp_path, change):
    """Save a good file, change its text, and read it."""
    graph, *_ = graph_of(APART)
    path = tmp_path / "circuit.json"
    graph.save(path)
    record = json.loads(path.read_text())
    text = change(record)
    path.write_text(text if isinstance(text, str) else json.dumps(record))
    return MibGraph.load(path)


def with_edge(name, entry=None):
    def change(record):
        record["edges"][name] = entry or {"score": 1.0, "in_graph": True}

    return change


EDGE = "input->a0.h0<q>"


@pytest.mark.parametrize("name", [
    "input->a0.h4<q>", "input->a2.h0<q>", "m2->logits", "m1->m0", "m0->m0", "a0.h0->a0.h1<q>",
    "input->a0.h0", "input->m0<q>", "input->a0.h0<z>", "logits->m0", "m0->input",
    "input->a00.h0<q>",
    "input -> m0", "", "->", "input->a0.h0<q>x", "input->m\u0660",
])  # fmt: skip
def test_unknown_edges_are_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"circuit.json: edge: got") as found:
        broken(tmp_path, with_edge(name))
    if name.isascii():
        assert name in str(found.value)


@pytest.mark.parametrize(("change", "said"), [
    (lambda r: r["nodes"].update({"a0.h9": {"in_graph": True}}), "node: got 'a0.h9'"),
    (lambda r: r["nodes"].update({"m0": {"in_graph": 1}}), "node 'm0'"),
    (lambda r: r["nodes"].update({"m0": {"in_graph": True, "neurons": [True]}}), "neurons"),
    (with_edge(EDGE, {"score": float("nan"), "in_graph": True}), f"edge '{EDGE}': got NaN"),
    (with_edge(EDGE, {"score": -float("inf"), "in_graph": True}), f"edge '{EDGE}': got -Inf"),
    (with_edge(EDGE, {"score": "1", "in_graph": True}), f"edge '{EDGE}': got '1'"),
    (with_edge(EDGE, {"score": 1.0}), f"edge '{EDGE}'"),
    (with_edge(EDGE, {"score": True, "in_graph": True}), f"edge '{EDGE}'"),
    (lambda r: r["cfg"].update(n_heads=3), "a0.h3"),
    (lambda r: r["cfg"].update(n_layers=-1), "n_layers: got -1"),
    (lambda r: r["cfg"].update(n_layers=10**9), "n_layers"),
    (lambda r: r["cfg"].update(n_layers=9999, n_heads=9999), "pairs of components"),
    (lambda r: r["cfg"].pop("parallel_attn_mlp"), "parallel_attn_mlp"),
    (lambda r: r.pop("edges"), "edges"),
    (lambda r: json.dumps(r).replace(f'"{EDGE}"', '"input->m0"'), "'input->m0' twice"),
    (lambda r: "[]", "cfg"),
    (lambda r: json.dumps(r)[:-9], "not JSON"),
])  # fmt: skip
def test_broken_entries_are_named(tmp_path, change, said):
    with pytest.raises(CheckpointError) as found:
        broken(tmp_path, change)
    assert said in str(found.value)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_mutated_files_are_refused_without_a_traceback(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("mib")
    junk = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    junk |= st.lists(junk, max_size=2) | st.dictionaries(st.text(max_size=3), junk, max_size=2)

    def change(record):
        for _ in range(data.draw(st.integers(1, 3))):
            at = record
            while isinstance(at, dict) and at:
                name = data.draw(st.sampled_from(sorted(at)))
                how = data.draw(st.sampled_from(["into", "into", "set", "drop", "rename"]))
                if how == "set" or (how == "into" and not isinstance(at[name], dict)):
                    at[name] = data.draw(junk)
                elif how == "drop":
                    del at[name]
                elif how == "rename":
                    at[data.draw(st.text(max_size=20))] = at.pop(name)
                else:
                    at = at[name]
                    continue
                break
        text = json.dumps(record)
        cut = data.draw(st.integers(0, 30))
        return text[: len(text) - cut] if cut > 25 else text

    with contextlib.suppress(CheckpointError):
        assert len(broken(tmp_path, change)) >= 0


def test_other_models_are_refused():
    graph, *_ = graph_of(APART)
    model, prompts = some()
    with pytest.raises(InputError, match="sizes of the model"):
        graph.circuit(PARALLEL)
    with pytest.raises(InputError, match="which reads the same"):
        mib_curve(model, prompts, graph)
    with pytest.raises(InputError, match="number of edges"):
        graph.top(10**6)
    with pytest.raises(InputError, match="does not exist"):
        MibGraph(graph.layout, graph.scores, np.ones_like(graph.members), graph.nodes)
