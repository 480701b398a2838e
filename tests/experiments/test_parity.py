"""Experiments that compare with other implementations, on cases made here."""

import dataclasses
import importlib.util
import json
import shutil

import jax
import numpy as np
import pytest

from experiments.common.script import ROOT
from experiments.parity import (
    attribution,
    attribution_families,
    executors,
    gguf_goldens,
    hf,
    hf_goldens,
    tokenizer,
    transcoder,
    transcoder_goldens,
)
from hagd_jax import graphs, models, transcoders
from hagd_jax.errors import InputError, MissingDependencyError
from hagd_jax.models import Tokenizer
from hagd_jax.units import FeatureEdit, intervene
from tests.experiments.conftest import tiny_config

GOLDENS = ROOT / "tests" / "models" / "goldens"
TOKENS = np.array([1, 5, 9, 3], np.int32)


@pytest.mark.parametrize(
    ("script", "packages"),
    [
        (hf, ("torch", "transformers")), (hf_goldens, ("torch", "transformers")),
        (gguf_goldens, ("llama_cpp",)), (tokenizer, ("llama_cpp",)),
        (transcoder_goldens, ("torch", "sparsify", "sae_lens")),
    ],
)  # fmt: skip
def test_scripts_say_which_peer_they_lack(script, packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("the peer is installed")
    with pytest.raises(MissingDependencyError, match=f"{missing[0]}.*pip install"):
        script.main(script.Config())


def test_logits_are_those_of_the_golden_cases(places, tmp_path):
    for name in ("llama_mha", "gpt2"):
        shutil.copytree(GOLDENS / "hf" / name, tmp_path / "cases" / name)
    config = hf.Config(**places, goldens=tmp_path / "cases", read_back=False)
    hf.main(config)
    hf.main(config)  # beside what other releases gave
    result = json.loads((tmp_path / "hf_parity.json").read_text())
    (run,) = result["runs"].values()
    assert run["cases"].keys() == {"goldens/gpt2", "goldens/llama_mha"}
    assert 0 < run["largest"] < result["tolerance"]
    with np.load(tmp_path / "cases" / "gpt2" / "expected.npz") as file:
        held = dict(file)
    np.savez(
        tmp_path / "cases" / "gpt2" / "expected.npz", **held | {"logits": held["logits"] + 1e-3}
    )
    with pytest.raises(SystemExit, match="beyond"):
        hf.main(config)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A folder of one reference case, whose features and errors NumPy computed."""
    folder = tmp_path_factory.mktemp("cases")
    model = models.init(tiny_config(32), jax.random.key(0))
    models.save(model, folder / "files" / "one" / "hf_model")
    config = transcoders.TranscoderConfig(n_layers=2, d_model=16, n_features=24, activation="relu")
    params = {
        name: 0.4 * jax.random.normal(jax.random.fold_in(jax.random.key(1), i), spec.shape)
        for i, (name, spec) in enumerate(transcoders.param_specs(config).items())
    }
    made = transcoders.Transcoder(params, config)
    transcoders.save(made, folder / "files" / "one" / "transcoder")
    trace = models.forward(model, TOKENS[None], capture=("mlp_in", "mlp_out")).trace
    x, y = (np.asarray(trace[site][:, 0], np.float64) for site in ("mlp_in", "mlp_out"))
    w = {name: np.asarray(value, np.float64) for name, value in params.items()}
    active = np.maximum(np.einsum("ltd,lfd->ltf", x, w["W_enc"]) + w["b_enc"][:, None], 0)
    active[:, 0] = 0
    output = np.einsum("ltf,lfd->ltd", active, w["W_dec"]) + w["b_dec"][:, None]
    places = np.argwhere(active > 0)
    np.savez(
        folder / "one.npz", prompt_tokens=TOKENS, active_features=places,
        activation_values=active[tuple(places.T)], error_vectors=y - output,
    )  # fmt: skip
    return folder, models.load(folder / "files/one/hf_model"), made


def test_features_and_errors_are_those_that_numpy_computes(case, places, read, tmp_path):
    folder, _, _ = case
    transcoder.main(transcoder.Config(**places, folder=folder))
    result = read("transcoder_parity")
    (row,) = result["rows"]
    assert row["active"] > 20
    assert row["largest_feature"] > 0.1
    assert max(row["features"], row["errors"]) == result["largest"] < 1e-5
    with pytest.raises(InputError, match="no case"):
        transcoder.main(transcoder.Config(**places, folder=tmp_path))
    with pytest.raises(InputError, match="alike"):
        transcoder._largest(np.ones(3), np.ones(3))


def test_graphs_that_differ_are_named(case, places, read):
    """Against a case made from our own graph, in which one weight is then another one."""
    folder, model, made = case
    with np.load(folder / "one.npz") as file:
        held = dict(file)
    graph = graphs.attribute(
        model, made, TOKENS, graphs.AttributionConfig(max_feature_nodes=8, batch_size=16)
    )
    kind = graph.nodes.kind
    features = np.flatnonzero(kind == graphs.graph.FEATURE)
    logits = np.flatnonzero(kind == graphs.graph.LOGIT)
    table = np.stack([graph.nodes.layer, graph.nodes.position, graph.nodes.index], 1)[features]
    active = [tuple(row) for row in held["active_features"].tolist()]
    kept, scored = graphs.prune(graph), graphs.graph_scores(graph)
    edges = np.zeros((len(kind),) * 2, bool)
    edges[graph.receivers[kept.edges], graph.senders[kept.edges]] = True
    layer, position, index = table[0].tolist()
    edit = FeatureEdit(layer, position, index, value=2.0)
    more = {"interventions": np.array([[layer, position, index, 2.0, 0]])}
    for ours, theirs in attribution.REGIMES.items():
        out = intervene(model, made, TOKENS[None], [edit], regime=ours, capture=("mlp_in",))
        more[f"iv_logits_{theirs}"] = np.asarray(out.logits)
        if ours == "direct":
            x = np.asarray(out.trace["mlp_in"])[:, 0]
            pre = np.einsum("ltd,lfd->ltf", x, made.params["W_enc"])
            pre += np.asarray(made.params["b_enc"])[:, None]
            more["iv_preacts_direct"] = pre[tuple(held["active_features"].T)][None]
    whole = held | more | {
        "meta_json": json.dumps({"batch_size": 16}), "adjacency": graph.to_dense(),
        "selected_features": np.array([active.index(tuple(row)) for row in table.tolist()]),
        "logit_token_ids": graph.nodes.index[logits], "node_influence": graphs.influence(graph),
        "replacement_score": scored.replacement, "completeness_score": scored.completeness,
        "prune_node_mask": kept.nodes, "prune_edge_mask": edges,
    }  # fmt: skip
    np.savez(folder / "one.npz", **whole)
    (folder / "one.json").write_text(json.dumps(graphs.neuronpedia_json(graph)))
    attribution.main(attribution.Config(**places, folder=folder))
    (row,) = read("attribution_parity")["rows"]
    assert row["largest_weight"] > 0
    assert not any(value for name, value in row.items() if "differ" in name)
    assert max(row["weights"], row["influence"], row["edits"]) < 1e-5
    np.savez(folder / "one.npz", **whole | {"adjacency": whole["adjacency"] + 1e-3})
    with pytest.raises(SystemExit, match=r"beyond the limits: \['one'\]"):
        attribution.main(attribution.Config(**places, folder=folder))


def test_graphs_are_exact_in_families_of_models(places, read, monkeypatch):
    config = attribution_families.Config(**places, families=("gemma2",), layers=2, sources=12)
    attribution_families.main(config)
    result = read("attribution_families")
    assert [row["nodes"] for row in result["rows"]] == [
        "neurons", "transcoder", "transcoder, reads resid_mid", "transcoder, writes mlp_out_raw",
    ]  # fmt: skip
    for row in result["rows"]:
        assert row["largest"] > 0.01
        assert max(row["identity"], row["differences"]) <= result["limits"]["identity"]
    assert len(attribution_families.families(2)) == 13
    monkeypatch.setattr(attribution_families, "LIMITS", {"identity": 0.0})
    with pytest.raises(SystemExit, match=r"beyond the limits: \['gemma2'\]"):
        attribution_families.main(config)
    assert read("attribution_families")["rows"] == result["rows"]  # measured again, in their place


def test_vocabularies_of_the_goldens_are_trained_again():
    cases = json.loads((GOLDENS / "gguf_tokenizers.json").read_text())
    shared = cases[0]["shared"]
    tokens, merges = gguf_goldens.byte_level()
    assert tokens == shared["tokens"]
    assert merges == shared["merges"]
    assert gguf_goldens.token_types(tokens) == shared["token_type"]
    tokens, scores = gguf_goldens.sentence_piece()
    (plain,) = (each for each in cases if each.get("model") == "llama" and "name" not in each)
    assert tokens == plain["tokens"]
    assert scores == plain["scores"]
    gemma = gguf_goldens.gemma()
    assert {name: cases[-1][name] for name in gemma} == gemma


def test_tokenizers_are_compared_text_by_text(monkeypatch):
    monkeypatch.setattr(tokenizer, "PER_KIND", 3)
    texts = tokenizer.texts()
    assert texts == tokenizer.texts()
    assert texts["fixed"] == tokenizer.FIXED
    assert {len(items) for kind, items in texts.items() if kind != "fixed"} == {3}
    ours = Tokenizer(hf_tokenizer())

    def theirs(text):
        return ours.encode(text, begin=False, end=False) + [0] * text.startswith("DON")

    found = tokenizer.compare(ours, theirs)
    assert found["texts"] - found["equal"] == len(found["differences"]) == 1
    assert found["differences"][0]["text"] == "DON'T"


def hf_tokenizer():
    """A byte-level tokenizer that can say everything."""
    from tests.tasks.conftest import byte_bpe

    return byte_bpe(["a text"]).to_str()


def test_executors_end_with_the_same_circuit_of_a_program(places, read, tiny):
    """IOI over a language model as well, but for the running of it: that takes minutes."""
    config = executors.Config(**places, model="", modulus=0, programs=("both",), small_steps=6)
    executors.main(config)
    (row,) = read("executors")["rows"]
    assert (row["case"], row["nodes"], row["differ"]) == ("both", 10, 0)
    ioi = dataclasses.replace(config, programs=(), model=tiny, prompts=4)
    names = [name for name, *_ in executors.cases(ioi)]
    assert names == ["IOI", "IOI, with mean and repair"]
