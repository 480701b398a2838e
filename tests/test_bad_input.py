"""Whatever stands in place of an argument is taken, or refused by a typed error: never a bare one.

Each function below is called with arguments that are right, and then, one argument at a time, with
things that users pass by mistake.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax import (
    baselines,
    corpus,
    graphs,
    hierarchy,
    interventions,
    meta,
    models,
    parallel,
    scores,
    units,
)
from hagd_jax.errors import HagdError
from hagd_jax.models import DecoderConfig, LanguageModel, Tokenizer, init
from hagd_jax.tasks import make_prompts

WRONG = [
    None, "x", b"x", -1, 10**6, 1.5, float("nan"), True, [], {}, [99], ("x",), [[1], [1, 2]],
    object(), np.float32(1), np.int64(1), jnp.int32(1), np.ones((3, 3)), np.full((2, 2), np.nan),
]  # fmt: skip
CONFIG = DecoderConfig(vocab_size=7, n_layers=2, d_model=8, n_heads=2, d_mlp=8, max_positions=8)
TOKENS = np.array([[1, 2, 3], [2, 3, 4]])
STEPS = scores.GradientConfig(steps=(0.5,))
SPACE = units.Space(2, 2, 8)
# What only the values of these say is wrong, and what is a matter of taste.
ANYTHING = {("GraphTarget", "label"), ("corpus_of_tokens", "name")}


@functools.cache
def model() -> LanguageModel:
    return init(CONFIG, jax.random.key(0), tokenizer=Tokenizer.words(["a", "b", "c", "d"]))


@functools.cache
def trace():
    sites = ("head_out", "neuron", "embed", "head_added", "mlp_out", "attn_pattern")
    return models.forward(model(), TOKENS, capture=sites).trace


@functools.cache
def graph():
    return graphs.attribute(model(), None, [1, 2, 3, 4])


@functools.cache
def prompts():
    rows = TOKENS.tolist()
    return make_prompts(rows, rows[::-1], [1, 2], [2, 1], vocab_size=7)


def targeted(**fields):
    target = graphs.LogitTarget(**fields)
    return graphs.attribute(model(), None, [1, 2, 3], targets=target)


def saved_step(folder, step):
    return parallel.Checkpoints(folder / "run").save(step, {"a": np.ones(2)})


def models_calls(tmp):
    words = model().tokenizer
    assert words is not None
    return {
        "forward": (
            models.forward,
            {"model": model(), "tokens": TOKENS, "intervention": None, "capture": ("neuron",),
             "read": np.array([[0], [1]]), "remat": False},
        ),
        "init": (init, {"config": CONFIG, "key": jax.random.key(0), "mesh": None}),
        "abstract": (models.abstract, {"config": CONFIG, "mesh": None, "dtype": None}),
        "mlp": (models.mlp, {"model": model(), "x": np.ones((2, 3, 8)), "site": "mlp_in"}),
        "param_specs": (models.param_specs, {"config": CONFIG}),
        "preset": (models.preset, {"name": "gpt2"}),
        "load": (
            models.load,
            {"source": models.save(model(), tmp / "m"), "dtype": None, "mesh": None,
             "tokenizer": None},
        ),
        "save": (
            models.save,
            {"model": model(), "folder": tmp / "s", "max_shard_bytes": 1e9, "overwrite": True},
        ),
        "chain": (lambda member: models.chain(member), {"member": models.Identity()}),
        "token_label": (models.token_label, {"tokenizer": words, "id": 1}),
        "encode": (words.encode, {"text": "a b"}),
        "encode_batch": (words.encode_batch, {"texts": ["a b"]}),
        "decode": (words.decode, {"ids": [1]}),
        "token": (words.token, {"id": 1}),
        "words": (Tokenizer.words, {"vocabulary": ["a"]}),
        "Tokenizer": (Tokenizer, {"json": words.json, "bos_id": 1, "eos_id": 1, "add_bos": True}),
        "from_file": (Tokenizer.from_file, {"path": tmp / "m"}),
        "save tokenizer": (words.save, {"folder": tmp}),
    }  # fmt: skip


def parallel_calls(tmp):
    mesh = parallel.make_mesh("data=1", jax.devices()[:1])
    state = {"a": np.ones(2)}
    parallel.save(tmp / "restored", state)
    return {
        "make_mesh": (parallel.make_mesh, {"description": "data=1", "devices": jax.devices()}),
        "parse_mesh": (parallel.parse_mesh, {"description": "data=1"}),
        "describe": (parallel.describe, {"mesh": mesh}),
        "sharding": (parallel.sharding, {"mesh": mesh, "axes": ("embed", None), "shape": (2, 3)}),
        "constrain": (
            parallel.constrain, {"x": np.ones((2, 3)), "axes": ("embed", None), "mesh": mesh}
        ),
        "batch_parts": (parallel.batch_parts, {"mesh": mesh}),
        "to_global": (parallel.to_global, {"mesh": mesh, "batch": {"a": np.ones((2, 2))}}),
        "save state": (parallel.save, {"path": tmp / "state", "state": state}),
        "restore": (parallel.restore, {"path": tmp / "restored", "like": state}),
        "Checkpoints": (parallel.Checkpoints, {"folder": tmp, "keep": 2}),
        "save step": (functools.partial(saved_step, tmp), {"step": 1}),
    }  # fmt: skip


def interventions_calls(tmp):
    nodes, edges = units.Nodes.full(SPACE, 1.0), units.Edges.existing(CONFIG)
    edit = {"site": "resid_post", "value": np.ones(8), "layer": 1, "positions": [True, False]}
    values = {"neuron": trace()["neuron"]}
    return {
        "add": (interventions.add, edit),
        "replace": (interventions.replace, edit),
        "freeze": (interventions.freeze, {"trace": trace(), "sites": ("neuron",)}),
        "mask_heads": (
            interventions.mask_heads,
            {"mask": np.ones((2, 2)), "alternative": trace()["head_out"]},
        ),
        "mean_alternative": (
            interventions.mean_alternative, {"values": values, "weight": np.ones((2, 3))}
        ),
        "zero_alternative": (interventions.zero_alternative, {"values": values}),
        "resample_alternative": (
            interventions.resample_alternative, {"values": values, "order": np.array([1, 0])}
        ),
        "mask_nodes": (units.mask_nodes, {"mask": nodes, "alternative": trace()}),
        "mask_edges": (
            units.mask_edges, {"config": CONFIG, "mask": edges, "alternative": trace()}
        ),
        "Edges.without": (edges.without, {"edge": 3}),
        "Edges.like": (edges.like, {"flat": edges.flat()}),
        "Nodes.full": (units.Nodes.full, {"space": SPACE, "value": 1.0}),
        "Nodes.from_flat": (units.Nodes.from_flat, {"space": SPACE, "flat": np.ones(20)}),
        "Nodes.like": (nodes.like, {"flat": np.ones(20)}),
        "FeatureEdit": (
            lambda **fields: units.intervene(model(), None, TOKENS, [units.FeatureEdit(**fields)]),
            {"layer": 1, "position": 1, "feature": 2, "value": 1.0, "scale": 0.0},
        ),
        "intervene": (
            units.intervene,
            {"model": model(), "dictionary": None, "tokens": TOKENS,
             "edits": [units.FeatureEdit(1, 1, 2)], "regime": "free", "capture": ("neuron",)},
        ),
    }  # fmt: skip


def graphs_calls(tmp):
    own, whole = graph(), {"model": model(), "dictionary": None, "graph": graph()}
    last = len(own.nodes.kind) - 1
    graphs.save_graph(own, tmp / "g.safetensors")
    return {
        "difference_target": (
            graphs.difference_target, {"model": model(), "right": "a", "wrong": ["b", 3]}
        ),
        "attribute": (
            graphs.attribute,
            {"model": model(), "dictionary": None, "prompt": [1, 2, 3], "targets": [1]},
        ),
        "AttributionConfig": (
            graphs.AttributionConfig,
            {"max_feature_nodes": 10, "logit_mass": 0.5, "skip_positions": (0,),
             "edges_per_node": 3, "memory_gb": 1.0},
        ),
        "GraphTarget": (
            targeted,
            {"label": "x", "tokens": (1, 2), "coefficients": (1.0, -1.0), "weight": 1.0},
        ),
        "edge_heads": (graphs.edge_heads, {**whole, "edges": [0], "batch_size": 1}),
        "query_key": (graphs.query_key, {**whole, "layer": 0, "head": 0, "query": 2, "key": 1}),
        "influence": (graphs.influence, {"graph": own}),
        "graph_scores": (graphs.graph_scores, {"graph": own}),
        "prune": (graphs.prune, {"graph": own, "node_threshold": 0.8, "edge_threshold": 0.9}),
        "subgraph": (graphs.subgraph, {"graph": own, "kept": graphs.prune(own)}),
        "task_graph": (
            graphs.task_graph, {"graphs": [own], "positions": False, "edges_per_node": 3}
        ),
        "TaskGraph.to_dense": (graphs.task_graph([own]).to_dense, {"column": "mean"}),
        "label": (own.label, {"node": 1}),
        "target": (own.target, {"node": last}),
        "of_kind": (own.of_kind, {"kind": 0}),
        "save_graph": (graphs.save_graph, {"graph": own, "path": tmp / "h.safetensors"}),
        "load_graph": (graphs.load_graph, {"path": tmp / "g.safetensors"}),
        "neuronpedia_json": (
            graphs.neuronpedia_json,
            {"graph": own, "kept": None, "slug": "", "scan": "", "labels": None},
        ),
        "to_neuronpedia": (
            graphs.to_neuronpedia, {"graph": own, "path": tmp / "n.json", "kept": None}
        ),
    }  # fmt: skip


def scores_calls(tmp):
    scored = {"model": model(), "prompts": prompts(), "config": STEPS}
    return {
        "GradientConfig": (scores.GradientConfig, {"steps": (0.5,), "batch_size": 8}),
        "mean_scores": (scores.mean_scores, scored),
        "node_graph": (scores.node_graph, {**scored, "candidates": 3, "edges_per_node": 4}),
        "component_graph": (scores.component_graph, scored),
    }


def corpus_calls(tmp):
    rows = {"name": "x", "tokens": TOKENS, "model": model(), "lengths": np.array([3, 2])}
    return {
        "corpus_of_tokens": (corpus.corpus_of_tokens, {**rows, "config": corpus.CorpusConfig()}),
        "open_corpus": (
            corpus.open_corpus,
            {"source": "self", "model": model(), "config": corpus.CorpusConfig(length=4)},
        ),
        "CorpusConfig": (
            corpus.CorpusConfig,
            {"length": 4, "held_out": 0.1, "seed": 0, "prompts": 4, "samples": 4},
        ),
    }


def hierarchy_calls(tmp):
    made = hierarchy.weights([0, 1], [1, 2], [1.0, 2.0], 3)
    few = hierarchy.HierarchyConfig(least=2)
    return {
        "weights": (
            hierarchy.weights,
            {"senders": [0, 1], "receivers": [1, 2], "values": [1.0, 2.0], "count": 3, "dense": 9},
        ),
        "coarsen": (
            hierarchy.coarsen,
            {"weights": made, "config": few, "layer": np.array([0, 0, 1]), "seed": 0},
        ),
        "embed": (
            functools.partial(hierarchy.embed, krylov=3),
            {"weights": made, "key": jax.random.key(0), "size": 2, "regularise": 0.1},
        ),
        "HierarchyConfig": (
            hierarchy.HierarchyConfig,
            {"ratio": 0.5, "least": 2, "band": 0, "vectors": 4, "krylov": 8, "iterations": 5,
             "regularise": 0.1},
        ),
        "supernodes": (
            functools.partial(hierarchy.supernodes, seed=1), {"graph": graph(), "most": 4}
        ),
        "strongest_into": (
            units.strongest_into, {"receivers": np.array([0, 1]), "size": np.ones(2), "most": 1}
        ),
        "random_scores": (baselines.random_scores, {"space": SPACE, "seed": 0}),
    }  # fmt: skip


def meta_calls(tmp):
    learner = meta.load()
    return {
        "most_telling": (meta.most_telling, {"logits": np.arange(9.0), "count": 3, "seed": 0}),
        "load": (meta.load, {"path": None}),
        "save": (meta.save, {"learner": learner, "path": tmp / "learner.safetensors"}),
        "init": (meta.init, {"config": learner.config, "key": jax.random.key(0)}),
        "LearnerConfig": (
            meta.LearnerConfig, {"width": 16, "heads": 2, "rounds": 2, "inner_steps": 2}
        ),
        "MetaConfig": (
            meta.MetaConfig,
            {"learner": learner.config, "steps": 3, "learning_rate": 0.1, "weight_decay": 0.1,
             "adapt": 1.0, "noise": 0.1, "seed": 0},
        ),
    }  # fmt: skip


ROOMS = [
    models_calls, parallel_calls, interventions_calls, graphs_calls, scores_calls, corpus_calls,
    hierarchy_calls, meta_calls,
]  # fmt: skip


def require_typed_errors(calls):
    """Calls that are right succeed; with one argument wrong they do, or raise a `HagdError`."""
    taken = []
    for name, (function, right) in calls.items():
        function(**right)
        for argument in right:
            refused = 0
            for wrong in WRONG:
                try:
                    function(**(right | {argument: wrong}))
                except HagdError:
                    refused += 1
                except Exception as error:
                    raise AssertionError(f"{name}({argument}={wrong!r})") from error
            if not refused and (name, argument) not in ANYTHING:
                taken.append(f"{name}({argument})")
    assert not taken, "these take anything"


@pytest.mark.parametrize("calls", ROOMS, ids=lambda calls: calls.__name__)
def test_no_argument_leads_to_a_bare_error(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_typed_errors(calls(tmp_path))
