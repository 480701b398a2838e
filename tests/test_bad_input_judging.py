"""Arguments of judge, known models, transcoders and files: taken, or refused by a typed error."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from hagd_jax import causal, files, hierarchy, pipeline, tasks, testbeds, transcoders, units
from hagd_jax.scores import node_graph
from tests.test_bad_input import CONFIG, SPACE, model, prompts, require_typed_errors

TREE = units.tree(model())
CASE = {case.name: case for case in testbeds.hand_built()}["both"]
FACTS = np.array([1.0, 2.0, 3.0])


def saved_tree(tmp):
    units.save_tree(TREE, tmp / "saved")
    return tmp / "saved"


def causal_calls(tmp):
    circuit = {
        "nodes": (causal.Node("head", 0, 1),), "scores": (1.0,), "space": SPACE, "model": "m",
        "task": "t",
    }  # fmt: skip
    causal.Circuit(**circuit).save(tmp / "circuit.json")
    mixed = causal.Circuit.of_units(TREE, ["mlp 0"], model="m", task="t")
    three = {"circuit": FACTS, "full": 2 * FACTS, "empty": 0 * FACTS, "seed": 0}
    clusters = {"clusters": np.array([0, 0, 1])}
    point = causal.SizePoint(2, 0.2, *[causal.Estimate(0.5, 0.4, 0.6)] * 2, 0.1)
    return {
        "accuracy": (causal.accuracy, {"correct": np.array([True, False])}),
        "auroc": (causal.auroc, {"scores": FACTS, "members": np.array([True, False, True])}),
        "curve_areas": (causal.curve_areas, {"points": [point, point], "total": 10}),
        "faithfulness": (causal.faithfulness, three | clusters),
        "kept_accuracy": (causal.kept_accuracy, three | clusters),
        "preservation": (
            causal.preservation, {"circuit": FACTS, "full": FACTS, "seed": 0, **clusters}
        ),
        "ratio_of_means": (
            causal.ratio_of_means,
            {"numerator": FACTS, "denominator": FACTS, "scale": 1.0, "seed": 0, **clusters},
        ),
        "permutation_p": (causal.permutation_p, {"observed": 1.0, "null": FACTS}),
        "sizes_of": (causal.sizes_of, {"total": 20}),
        "named_edges": (
            causal.named_edges, {"config": CONFIG, "edges": units.Edges.existing(CONFIG)}
        ),
        "load_circuit": (causal.load_circuit, {"path": tmp / "circuit.json", "tree": None}),
        "Circuit.of_units": (
            causal.Circuit.of_units,
            {"tree": TREE, "units": ["mlp 0"], "scores": [1.0], "model": "m", "task": "t"},
        ),
        "Circuit.opened": (mixed.opened, {"name": "mlp 0", "only": ["neuron 0.1"]}),
        "Circuit.closed": (mixed.closed, {"name": "mlp 0"}),
        "Circuit.on": (mixed.on, {"tree": TREE}),
        "Grouping": (
            causal.Grouping,
            {"units": mixed.grouping.units, "scores": (1.0,), "band": 4, "digest": TREE.digest,
             "tree": None},
        ),
        "Node": (
            lambda **given: causal.Circuit(**circuit | {"nodes": (causal.Node(**given),)}),
            {"kind": "head", "layer": 0, "index": 1},
        ),
        "Circuit": (causal.Circuit, circuit),
        "ValidateConfig": (
            causal.ValidateConfig,
            {"claims": "all", "ablations": ("mean",), "alpha": 0.1, "controls": 3, "draws": 1,
             "members": 3, "pairs": 1, "subsets": 1, "supersets": 1, "robust": True,
             "greedy": 1, "permuted": 0, "least": 8,
             "batch_size": 4},
        ),
    }  # fmt: skip


def files_calls(tmp):
    files.save_arrays(tmp / "a.safetensors", {"a": FACTS})
    return {
        "as_path": (files.as_path, {"path": str(tmp)}),
        "read_arrays": (files.read_arrays, {"path": tmp / "a.safetensors"}),
        "save_arrays": (
            files.save_arrays,
            {"path": tmp / "b.safetensors", "arrays": {"a": FACTS}, "metadata": {"b": "c"}},
        ),
        "require_writable": (files.require_writable, {"folder": tmp / "new"}),
        "write_atomic": (files.write_atomic, {"path": tmp / "c.txt", "content": "words"}),
        "whole_tensor": (
            files.whole_tensor,
            {"name": "a", "shape": (3,), "dtype": np.float32, "value": lambda: FACTS},
        ),
        "write_safetensors": (
            files.write_safetensors,
            {"path": tmp / "d.safetensors",
             "tensors": [files.whole_tensor("a", (3,), np.float64, lambda: FACTS)],
             "metadata": None},
        ),
    }  # fmt: skip


def known_calls(tmp):
    compiled = testbeds.compile_program(testbeds.PROGRAMS["hist"])
    return {
        "compile_program": (testbeds.compile_program, {"program": testbeds.PROGRAMS["hist"]}),
        "compiled_case": (testbeds.compiled_case, {"compiled": compiled, "length": 3, "count": 4}),
        "compiled_prompts": (
            testbeds.compiled_prompts,
            {"compiled": compiled, "length": 3, "position": 2, "seed": 0},
        ),
        "known_cases": (lambda names: next(testbeds.known_cases(names), None), {"names": ["both"]}),
        "as_task": (testbeds.as_task, {"case": CASE, "test": 4, "seed": 0}),
        "scrambled": (testbeds.scrambled, {"case": CASE, "seed": 0}),
        "program_nodes": (testbeds.program_nodes, {"model": compiled.model}),
        "program_edges": (testbeds.program_edges, {"model": compiled.model}),
        "two_hop": (testbeds.two_hop, {"seed": 0, "config": None}),
    }


def transcoders_calls(tmp):
    config = transcoders.TranscoderConfig(n_layers=2, d_model=8, n_features=12, k=3)
    made = transcoders.init(config, jax.random.key(0))
    transcoders.save(made, tmp / "t")
    features = np.ones((2, 3, 12))
    return {
        "abstract": (transcoders.abstract, {"config": config, "mesh": None}),
        "init": (transcoders.init, {"config": config, "key": jax.random.key(0), "mesh": None}),
        "param_specs": (transcoders.param_specs, {"config": config}),
        "check_model": (transcoders.check_model, {"transcoder": made, "model": model()}),
        "digest": (transcoders.digest, {"transcoder": made}),
        "encode": (transcoders.encode, {"transcoder": made, "x": np.ones((2, 3, 8))}),
        "decode": (transcoders.decode, {"transcoder": made, "features": features}),
        "errors": (
            transcoders.errors,
            {"transcoder": made,
             "trace": {"mlp_in": np.ones((2, 3, 8)), "mlp_out": np.ones((2, 3, 8))}},
        ),
        "replace_mlps": (transcoders.replace_mlps, {"transcoder": made, "error": None}),
        "save": (
            transcoders.save, {"transcoder": made, "folder": tmp / "u", "model_name": "m"}
        ),
        "load": (
            transcoders.load,
            {"source": tmp / "t", "mesh": None, "model": None, "dtype": None},
        ),
        "logit_effects": (
            transcoders.logit_effects,
            {"transcoder": made, "model": model(), "count": 2, "gain": 1.0},
        ),
        "mask_features": (
            transcoders.mask_features,
            {"transcoder": made, "mask": np.ones((2, 12)), "alternative": features},
        ),
        "as_dictionary": (units.as_dictionary, {"model": model(), "source": made}),
        "parts_of": (units.parts_of, {"model": model(), "source": made}),
        "blocks": (units.blocks, {"model": model()}),
        "tree": (
            units.tree,
            {"model": model(), "dictionary": None, "clusters": (np.arange(20) // 2,), "band": 1},
        ),
        "tree of units": (
            lambda name, more, place: (
                TREE.unit(name), TREE.children(name), TREE.parent(name), TREE.leaves(name),
                TREE.antichain(more), TREE.rest(more), TREE.opened(more, "mlp 0"),
                TREE.closed(more, "attention 1"), TREE.leaf(place),
            ),
            {"name": "mlp 0", "more": ["mlp 0", "head 1.0", "head 1.1"], "place": 3},
        ),
        "save_tree": (units.save_tree, {"tree": TREE, "path": tmp / "tree"}),
        "load_tree": (units.load_tree, {"path": saved_tree(tmp)}),
        "components": (units.components, {"model": model()}),
        "directed": (units.directed, {"model": model(), "source": None}),
        "neurons": (units.neurons, {"model": model()}),
    }  # fmt: skip


def rooms_calls(tmp):
    found = node_graph(CASE.model, CASE.prompts)
    return {
        "as_weights": (hierarchy.as_weights, {"graph": found, "dense": 99}),
        "clusters_of": (hierarchy.clusters_of, {"graph": found}),
        "history": (hierarchy.history, {"graph": found}),
        "require_stage": (pipeline.require_stage, {"name": "score", "flag": "until"}),
        "look": (tasks.look, {"prompts": prompts(), "model": model(), "ablation": "mean"}),
        "read_logits": (tasks.read_logits, {"logits": np.ones((2, 3, 7)), "prompts": prompts()}),
        "correct": (tasks.correct, {"logits": np.ones((2, 3, 7)), "prompts": prompts()}),
        "prompt_digests": (tasks.prompt_digests, {"prompts": prompts()}),
        "overlap": (
            tasks.overlap, {"task": tasks.parity(4).task(sizes=tasks.Sizes(4, 2, 2)), "most": 1}
        ),
        "batches": (
            lambda **given: list(tasks.batches(**given)), {"prompts": prompts(), "size": 1}
        ),
        "find": (tasks.find, {"name": "ioi"}),
        "dyck": (tasks.dyck, {"length": 4, "depth": 2}),
        "induction": (tasks.induction, {"letters": 5, "length": 4}),
        "sorting": (tasks.sorting, {"count": 3, "values": 4}),
        "parity": (tasks.parity, {"bits": 4}),
        "small_algorithm": (tasks.small_algorithm, {"name": "parity", "p": 5}),
        "single_tokens": (
            tasks.single_tokens, {"tokenizer": model().tokenizer, "words": ["a"]}
        ),
        "word_token": (tasks.word_token, {"tokenizer": model().tokenizer, "word": "a"}),
    }  # fmt: skip


ROOMS = [causal_calls, files_calls, known_calls, transcoders_calls, rooms_calls]


@pytest.mark.parametrize("calls", ROOMS, ids=lambda calls: calls.__name__)
def test_no_argument_leads_to_a_bare_error(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_typed_errors(calls(tmp_path))
