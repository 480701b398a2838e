"""What `extract` and `validate` are given by mistake is refused at once, with what to give instead.

All of it is refused before anything runs, so each case takes milliseconds.
"""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from hagd_jax import causal, corpus, models, pipeline, testbeds, units
from hagd_jax.errors import CheckpointError, HagdError, InputError

CASE = testbeds.hand_built()[0]


@functools.cache
def own():
    return {"model": CASE.model, "task": testbeds.as_task(CASE, test=8)}


def circuit():
    nodes = tuple(sorted(CASE.truth["mean"]))
    space = units.neurons(CASE.model).space
    return causal.Circuit(nodes, (1.0,) * len(nodes), space, CASE.model.name, CASE.name)


def text():
    return corpus.corpus_of_tokens("rows", np.arange(12).reshape(4, 3) % 4, CASE.model)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": "gpt2"}, "hagd.models.load"),
        ({"task": ["ioi"]}, "hagd.tasks.task"),
        ({"task": None}, "hagd.tasks.task"),
        ({"config": "5%"}, r"ExtractConfig\(nodes"),
        ({"config": {"nodes": "5%"}}, r"ExtractConfig\(nodes"),
        ({"config": None}, r"ExtractConfig\(nodes"),
        ({"out": 5}, "path"),
        ({"out": b"runs"}, "path"),
        ({"progress": True}, "progress: got bool True"),
        ({"progress": None}, "a function of"),
        ({"corpus": "books/*.txt"}, "open_corpus"),
        ({"corpus": text}, "--features transcoder"),
        ({"config": pipeline.ExtractConfig(corpus="books/*.txt")}, "--features transcoder"),
        ({"dictionary": "neurons"}, "dictionary"),
    ],
)
@pytest.mark.parametrize("call", [pipeline.extract, functools.partial(pipeline.run_until, "score")])
def test_extract_says_what_it_takes(call, changed, says):
    made = {name: value() if value is text else value for name, value in changed.items()}
    with pytest.raises(HagdError, match=says):
        call(**own() | made)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": "gpt2"}, "hagd.models.load"),
        ({"circuit": "circuit.json"}, "hagd.causal.load_circuit"),
        ({"task": "ioi"}, r"hagd.tasks.task\(\"ioi\", model\)"),
        ({"config": "mean"}, r"got str 'mean'; expected ValidateConfig.*Write ValidateConfig"),
        ({"config": {"ablations": ("mean",)}}, "Write ValidateConfig"),
        ({"others": "ioi"}, "others: got str 'ioi'"),
        ({"others": ["ioi"]}, "hagd.tasks.task"),
        ({"others": 3}, "others"),
        ({"again": ["circuit.json"]}, "hagd.causal.load_circuit"),
        ({"again": None}, "again"),
        ({"progress": True}, "a function of"),
        ({"dictionary": "neurons"}, "dictionary"),
    ],
)
def test_validate_says_what_it_takes(changed, says):
    with pytest.raises(HagdError, match=says):
        causal.validate(**own() | {"circuit": circuit()} | changed)


def test_facts_are_a_mapping():
    with pytest.raises(HagdError, match="facts: got str 'x'"):
        pipeline.extract(**own(), facts="x")  # type: ignore[arg-type]


NODES = {"space": [1, 4, 512], "nodes": [["head", 0, 9]], "scores": [1.0], "model": "m"}
EDGES = {"kind": "edges", "edges": [["head 7.0", "head 0.0", "q"]], "shape": [1, 4, 4, False]}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("nope.json", None, "got no such file; expected a file that can be read"),
        ("garbage.json", "{'a': 3}", r"got a text that is not JSON \(.* at line 1, column 2\);"),
        ("empty.json", "{}", "got no field 'format'; expected every required field"),
        (
            "node.json", json.dumps({"format": 1, "task": "t", **NODES}),
            "node.json, node of the circuit: got 'head' 9 of layer 0; expected one of 1 layers",
        ),
        (
            "edge.json",
            json.dumps({"format": 1, "model": "m", "task": "t", "scores": [1.0], **EDGES}),
            "edge.json, ",
        ),
    ],
)  # fmt: skip
def test_files_that_hold_no_circuit_are_described_once(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=says) as found:
        causal.load_circuit(tmp_path / name)
    assert str(found.value).count("got ") == 1


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["a", "b"], r"a list of 2 with texts in it.*model.tokenizer.encode\(text\)"),
        (5, r"got shape \(\); expected a \(B, T\) array of ids[^.]*, or one text\.$"),
        ([1, 2, 3], r"got shape \(3,\).*Wrap one prompt in a list"),
        ([[]], r"got shape \(1, 0\).*An empty prompt has nothing to predict from"),
        ([], r"got shape \(0,\).*An empty prompt"),
    ],
)
def test_what_are_no_tokens_is_refused_with_how_to_give_them(tokens, says):
    with pytest.raises(InputError, match=says):
        models.forward(CASE.model, tokens)
