"""Whatever a file says that somebody else made, it is used as it is meant, or refused in a line."""

import contextlib
import dataclasses
import json
import os
import time
import tracemalloc

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from hagd_jax import meta
from hagd_jax.causal import About, Circuit, Edge, EdgeCircuit, Node, load_circuit
from hagd_jax.causal.circuit_file import require_name
from hagd_jax.cli.validate import Validate, run_validate
from hagd_jax.errors import CheckpointError, ConfigError, InputError
from hagd_jax.files import DIGEST, save_arrays, without_digest
from hagd_jax.graphs import graph_scores, load_graph, save_graph
from hagd_jax.models import DecoderConfig, Tokenizer, init, save
from hagd_jax.models.families import from_hf
from hagd_jax.models.loading import open_checkpoint
from hagd_jax.tasks import Seen, Sizes, benchmarks, look
from hagd_jax.tasks.benchmarks import rows as rows_of_files
from hagd_jax.transcoders.contexts.context import Contexts, LayerContexts
from hagd_jax.transcoders.contexts.files import load_contexts, save_contexts
from hagd_jax.transcoders.formats.loading import open_stored
from hagd_jax.units import Edges
from tests.files.mutations import changed, mutated, outcome
from tests.graphs.made_up import made_up
from tests.transcoders.formats import folders

CONFIG = DecoderConfig(vocab_size=9, n_layers=2, d_model=6, n_heads=3, d_mlp=5)
SEEN = dataclasses.replace(look(ablation="mean"), prompts=("00c0ffee",))
CIRCUITS = {
    "nodes": Circuit(
        (Node("head", 0, 2), Node("neuron", 1, 4)), (0.5, -1.25), (2, 3, 5), model="m", task="ioi",
        seen=SEEN, config={"steps": [1, 2.5]},
    ),
    "described": Circuit((Node("head", 0, 2),), (0.5,), (2, 3, 5), "m", "ioi", seen=SEEN).described(
        [About("induction", 0.25, 3)]
    ),
    "edges": EdgeCircuit(
        (Edge("embed", "head 0.1", "q"), Edge("mlp 0", "logits", "logits")), (0.5, -1.25),
        (2, 3, 3, False), model="m", task="ioi", seen=SEEN,
    ),
}  # fmt: skip
# Without their digests, which would find every change.
RECORDS = {
    name: without_digest("", json.loads(circuit.to_json())) for name, circuit in CIRCUITS.items()
}


@settings(max_examples=150)
@given(st.sampled_from(sorted(CIRCUITS)).flatmap(lambda name: mutated(RECORDS[name])))
def test_a_mutated_circuit_is_refused_or_written_again_as_it_is(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "circuit.json"
    path.write_bytes(raw)
    found, said = outcome(lambda: load_circuit(path))
    if found is None:
        assert "circuit.json" in said
        return
    # What is accepted means the same when it is written: nothing was rounded, dropped or guessed.
    given, again = json.loads(raw), json.loads(found.to_json())
    for name in given:
        if name in again and given[name] is not None and name not in ("seen", "ablation"):
            assert again[name] == given[name], name
    assert all(type(score) is float for score in found.scores)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("edges", {"shape": [100_000, 32, 32, False]}, "shape"),
        ("edges", {"shape": [1000, 64, 64, False]}, r"12,545,\d{3},\d{3} units; expected at most"),
        ("edges", {"shape": [2, 3, 3, 0]}, "true or false"),
        (
            "edges",
            {"edges": [["mlp 1", "head 0.1", "q"], ["embed", "mlp 0", "mlp"]]},
            "an edge of a model",
        ),
        ("nodes", {"space": [16384, 3, 2**31 - 1]}, "expected at most 1,073,741,824"),
        ("nodes", {"scores": [True, 0.5]}, r"scores\[0\]: got True; expected a number"),
        ("nodes", {"scores": ["1", 0.5]}, "expected a number"),
        ("nodes", {"seed": 2**63}, "expected an integer"),
        ("nodes", {"model": "n" * 5000}, "of length <= 1000"),
        ("nodes", {"seen": SEEN.to_json() | {"known": 1}}, "known: got 1"),
        ("nodes", {"seen": SEEN.to_json() | {"prompts": ["x" * 3000]}}, "prompts of Seen"),
    ],
)
def test_what_a_circuit_cannot_say(tmp_path, name, change, said):
    (tmp_path / "c.json").write_text(json.dumps(RECORDS[name] | change))
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=said):
        load_circuit(tmp_path / "c.json")
    assert time.monotonic() - began < 2
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 2), st.sampled_from([1, 2]), st.booleans())
def test_an_edge_exists_where_the_table_of_all_edges_says_so(layers, keys, group, parallel):
    config = DecoderConfig(
        vocab_size=3, n_layers=layers, d_model=keys * group, n_heads=keys * group, n_kv_heads=keys,
        d_mlp=2, parallel_residual=parallel,
    )  # fmt: skip
    there = Edges.existing(config)
    flat = there.flat()
    whole = EdgeCircuit.from_mask(
        there, there.like(np.zeros(flat.shape)), config, model="", task=""
    )
    np.testing.assert_array_equal(np.sort(whole.places()), np.flatnonzero(flat))
    heads = [f"head {i}.{h}" for i in range(layers) for h in range(keys * group)]
    writers = ["embed", *heads, *(f"mlp {i}" for i in range(layers))]
    readers = [(f"mlp {i}", "mlp") for i in range(layers)] + [("logits", "logits")]
    readers += [(h, "q") for h in heads]
    readers += [(f"head {i}.{h}", x) for i in range(layers) for h in range(keys) for x in "kv"]
    all_named = {Edge(writer, *reader) for writer in writers for reader in readers}
    assert set(whole.edges) < all_named or not all_named - set(whole.edges)
    for edge in all_named - set(whole.edges):
        with pytest.raises(InputError, match="an edge of a model"):
            dataclasses.replace(whole, edges=(edge,), scores=(0.0,))


@pytest.mark.parametrize("task", ["winogrande:/etc/passwd", "blimp:rows", "a/b", "", "a\nb"])
def test_a_circuit_names_a_task_and_no_file(task, tmp_path, monkeypatch):
    """The file would be opened, and parts of it shown in messages."""
    with pytest.raises(InputError, match=r"task of the circuit: got .*--task NAME:FILE"):
        require_name(task)
    dataclasses.replace(CIRCUITS["nodes"], task=task).save(tmp_path / "c.json")
    monkeypatch.setattr(benchmarks, "task", lambda *_, **__: pytest.fail("a file was opened"))
    command = Validate(tmp_path / "c.json", "no-such-model")
    with pytest.raises(InputError, match="task of the circuit"):
        run_validate(command)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "graph.safetensors"
    save_graph(made_up(), path)
    return path


@pytest.mark.parametrize("name", ["edges", "activation", "weight", "folded", "remainder"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_of_a_graph_are_finite(graph, tmp_path, name, value):
    arrays, about = load_file(graph), _about(graph)
    arrays[name].reshape(-1)[1] = value
    save_arrays(tmp_path / "g", arrays, about)
    with pytest.raises(CheckpointError, match=f"{name} with numbers that are not finite"):
        load_graph(tmp_path / "g")


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [("layer", 0, 3), ("layer", 0, -1), ("index", 0, 7), ("index", 0, -1), ("layer", -1, 9),
     ("position", 0, -1), ("kind", 0, -1), ("senders", 0, -1), ("receivers", 0, 99)],
)  # fmt: skip
def test_places_of_a_graph_are_in_its_model(graph, tmp_path, name, at, value):
    arrays = load_file(graph)
    arrays[name][at] = value
    save_arrays(tmp_path / "g", arrays, _about(graph))
    with pytest.raises(CheckpointError, match="written by save_graph"):
        load_graph(tmp_path / "g")


@settings(max_examples=80)
@given(data=st.data())
def test_a_graph_says_of_itself_what_can_be(graph, data):
    about = _about(graph)
    info = data.draw(mutated(json.loads(about["info"]))).decode(errors="replace")
    path = graph.with_name("mutated")
    save_arrays(path, load_file(graph), about | {"info": info})
    found, said = outcome(lambda: load_graph(path))
    if found is None:
        assert "mutated" in said
    else:
        assert found.label(0)
        assert all(np.isfinite(graph_scores(found)))


def _about(path):
    raw = path.read_bytes()
    about = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    return {name: text for name, text in about.items() if name != DIGEST}


def contexts():
    rng = np.random.default_rng(0)
    ids = lambda *shape: rng.integers(0, 3, shape).astype(np.int32)  # noqa: E731
    floats = lambda *shape: rng.random(shape).astype(np.float32)  # noqa: E731
    layer = LayerContexts(np.arange(2, dtype=np.int32), floats(2, 3), ids(2, 3), ids(2, 3),
                          floats(2, 3, 4).astype(np.float16))  # fmt: skip
    text = ids(4, 5), floats(4, 5), floats(2, 6), floats(2, 6)
    return Contexts("m", "t", "abc", (2, 1), *text, layers={0: layer})


@settings(max_examples=80)
@given(data=st.data())
def test_mutated_contexts_are_refused_or_read(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "contexts"
    if not folder.exists():
        save_contexts(contexts(), folder)
        (folder / "contexts.json").rename(folder / "good.json")
    good = without_digest("", json.loads((folder / "good.json").read_text()))
    (folder / "contexts.json").write_bytes(data.draw(mutated(good)))
    found, said = outcome(lambda: load_contexts(folder))
    assert found is not None or "contexts" in said
    for layer in () if found is None else found.layers:
        outcome(lambda layer=layer: found.layers[layer])


@pytest.mark.parametrize("name", ["weight", "fired", "largest"])
def test_numbers_of_contexts_are_finite(tmp_path, name):
    save_contexts(dataclasses.replace(contexts(), **{name: np.full((4, 5), np.nan, np.float32)})
                  if name == "weight" else
                  dataclasses.replace(contexts(), **{name: np.full((2, 6), np.inf, np.float32)}),
                  tmp_path)  # fmt: skip
    with pytest.raises(CheckpointError, match="not finite"):
        load_contexts(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"inner_steps": 10**9}, {"inner_steps": -1}, {"inner_steps": True}, {"inner_steps": 2.0},
     {"width": 2**20}, {"rounds": 10**6}, {"heads": 0}, {"more": 1}],
)  # fmt: skip
def test_a_learner_of_impossible_sizes_is_refused_at_once(tmp_path, change):
    learner = meta.load()
    meta.save(learner, tmp_path / "a")
    config = dataclasses.asdict(learner.config) | change
    save_arrays(tmp_path / "a", load_file(tmp_path / "a"), {"config": json.dumps(config)})
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=next(iter(change))):
        meta.load(tmp_path / "a")
    assert time.monotonic() - began < 2


LLAMA = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 6, "num_attention_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 9, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("num_hidden_layers", "vocab_size", "hidden_size",
                                "intermediate_size", "num_attention_heads")
     for value in (2**31, 10**30, 0, -1, True, 2.0, "2")],
)  # fmt: skip
def test_sizes_of_a_model_are_bounded(name, value):
    with pytest.raises(ConfigError):
        from_hf(LLAMA | {name: value})


STRETCH = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        (STRETCH, "factor and high_freq_factor and low_freq_factor without a rope_type"),
        ({"factor": 2.0, "type": None}, "factor without a rope_type"),
        ({"rope_type": 3, "factor": 2.0}, "rope_type: got 3; expected str"),
        (STRETCH | {"rope_type": "llama3", "low_freq_factor": -1.0}, "got -1.0"),
        (STRETCH | {"rope_type": "llama3", "high_freq_factor": -4.0}, "got -4.0"),
        (STRETCH | {"rope_type": "llama3", "factor": 1e300}, "at most 1048576"),
    ],
)
def test_a_stretching_is_never_dropped_or_impossible(scaling, said):
    """transformers 4 refuses one without a type; version 5 warns, and computes without it."""
    for spelling in ("rope_scaling", "rope_parameters"):
        with pytest.raises(ConfigError, match=said):
            from_hf(LLAMA | {spelling: scaling})
    assert from_hf(LLAMA | {"rope_parameters": {"rope_theta": 5e4}}).rope_theta == 5e4
    assert from_hf(LLAMA | {"rope_scaling": STRETCH | {"rope_type": "llama3"}}).rope_scaling


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    words = Tokenizer.words(["a", "b", "c"])
    save(init(CONFIG, jax.random.key(0)).replace(tokenizer=words), folder)
    return folder


FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


@settings(max_examples=60)
@given(data=st.data())
def test_a_model_with_a_mutated_file_is_refused_or_the_same(model, data):
    name = data.draw(st.sampled_from(FILES))
    good = (model / name).read_bytes()
    whole = open_checkpoint(model)
    try:
        (model / name).write_bytes(data.draw(mutated(json.loads(good))))
        found, said = outcome(lambda: open_checkpoint(model))
    finally:
        (model / name).write_bytes(good)
    if found is None:
        assert said
        return
    # Sizes are those of the tensors, whatever the configuration says.
    for field in ("vocab_size", "n_layers", "d_model", "d_mlp"):
        assert getattr(found.config, field) == getattr(whole.config, field)


@pytest.mark.parametrize("name", ["b" * 5000, "a\0b", "../x", "", "\ud800"])
def test_an_index_names_files_that_can_be(tmp_path, name):
    index = {"weight_map": {"n" * 5000: name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert len(str(caught.value)) < 700


@settings(max_examples=60)
@given(data=st.data())
def test_a_mutated_transcoder_folder_is_refused_or_read(tmp_path_factory, data):
    base = tmp_path_factory.getbasetemp()
    kind = data.draw(st.sampled_from(["per_layer", "saelens", "sparsify"]))
    if not (base / f"tc_{kind}").exists():
        getattr(folders, kind)(base / f"tc_{kind}")
    file = next(iter(sorted((base / f"tc_{kind}").rglob("c*f*g.*"))))
    good = file.with_name("good")
    if not good.exists():
        good.write_bytes(file.read_bytes())
    text = good.read_text()
    value = json.loads(text) if file.suffix == ".json" else dict(
        line.split(": ", 1) for line in text.splitlines()
    )  # fmt: skip
    file.write_bytes(data.draw(mutated(value)))
    found, said = outcome(lambda: open_stored(base / f"tc_{kind}"))
    file.write_bytes(good.read_bytes())
    assert found is None or (found.config.d_model, found.config.n_features) == (
        folders.D,
        folders.F,
    )
    assert found is not None or said


def test_text_of_a_benchmark_takes_linear_time():
    """Brackets that never close, and options that begin alike, in rows ever longer."""
    for unit, row in [
        ("[", {"endings": ["a", "b"], "label": 0}),
        ("[] ", {"endings": ["a", "b"], "label": 0}),
        ("a ", {"option1": "a " * 90 + "b", "option2": "a " * 90 + "c", "answer": "1"}),
        ("-1", {"option1": "a", "option2": "b", "answer": "1"}),
    ]:
        took = []
        for count in (100_000, 200_000):
            text = unit * count
            given = row | {"ctx": text, "sentence": text + "_ x", "qID": text + "x"}
            read = benchmarks.READERS["hellaswag" if "label" in row else "winogrande"]
            began = time.perf_counter()
            with contextlib.suppress(benchmarks.Skipped):
                read(given)
            took.append(time.perf_counter() - began)
        assert took[1] < 6 * took[0] + 0.2, (unit, took)


def test_of_very_many_rows_some_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_of_files, "MOST_ROWS", 60)
    names = [f"w{i}" for i in range(40)]
    tokenizer = Tokenizer.words(["The", "broke", "as", "_", "fell.", *names])
    rows = [{"sentence": f"The {a} broke {b} as _ fell.", "option1": a, "option2": b, "answer": "1"}
            for a in names[:20] for b in names[20:]]  # fmt: skip
    (tmp_path / "rows").write_text("\n".join(map(json.dumps, rows)))
    one, two = (
        benchmarks.task("winogrande", tokenizer, tmp_path / "rows", sizes=Sizes(6, 3, 6), seed=seed)
        for seed in (0, 1)
    )
    assert one.notes[0] == "looked at 60 of 400 rows"
    texts = [{text.clean for split in task.texts.values() for text in split} for task in (one, two)]
    assert len(texts[0] | texts[1]) <= 60
    assert texts[0] != texts[1]


def test_special_files_among_a_models_own_are_refused(tmp_path):
    for name in ("config.json", "model.safetensors"):
        os.mkfifo(tmp_path / name)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"config\.json: got a pipe"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: got a pipe"):
        open_checkpoint(tmp_path)
    assert time.monotonic() - began < 2


@settings(max_examples=60)
@given(changed(SEEN.to_json()))
def test_what_was_seen_is_read_or_refused(record):
    found, said = outcome(lambda: Seen.from_json(record))
    if found is None:
        assert "een" in said
    elif found != Seen.unknown():  # nothing is dropped but the order; without `others`, not all
        before = {**record, "known": False, "others": []}
        kept = {name: each if name == "known" else sorted(set(each))
                for name, each in (record if "others" in record else before).items()}  # fmt: skip
        assert found.to_json() in (kept, kept | {"known": False})
