"""Compiled programs: they compute what they say, and need as many edges as others have counted."""

import builtins
import importlib

import numpy as np
import pytest

from hagd_jax.causal import behaviour, named_edges
from hagd_jax.errors import InputError, MissingDependencyError
from hagd_jax.models import DecoderConfig, abstract, forward
from hagd_jax.testbeds import (
    PROGRAMS,
    Program,
    compile_program,
    compiled_prompts,
    necessary_edges,
    program_edges,
)
from hagd_jax.units import components

# One of each kind; the others are compiled in experiments/judge/ground_truth_edges.py.
SOME = ["reverse", "hist", "xproportion", "pair_balance"]


@pytest.fixture(scope="module")
def made():
    return {name: compile_program(PROGRAMS[name]) for name in SOME}


@pytest.mark.parametrize("name", SOME)
def test_the_model_says_what_the_program_says(made, name):
    compiled = made[name]
    prompts = compiled_prompts(compiled)
    logits = np.asarray(forward(compiled.model, prompts.clean).logits)
    at = logits[np.arange(len(prompts)), prompts.position]
    np.testing.assert_array_equal(at.argmax(-1), prompts.answer)
    assert len(set(prompts.answer.tolist())) > 1
    assert set(prompts.answer.tolist()) | set(prompts.distractor.tolist()) <= set(compiled.values)
    assert len(compiled.labels) == compiled.model.config.d_model


def test_outputs_are_what_python_makes_of_the_inputs(made):
    rules = {"reverse": lambda row: row[::-1], "hist": lambda row: list(map(row.count, row))}
    for name, rule in rules.items():
        prompts, model = compiled_prompts(made[name]), made[name].model
        word = [model.tokenizer.token(i).strip() for i in range(model.config.vocab_size)]
        for i in range(0, len(prompts), 7):
            row = [word[token] for token in prompts.clean[i, 1:]]
            assert word[prompts.answer[i]] == str(rule(row)[prompts.position[i] - 1])


@pytest.mark.parametrize(
    ("name", "ablation", "count"),
    [("reverse", "zero", 10), ("reverse", "resample", 2), ("xproportion", "zero", 5),
     ("xproportion", "resample", 3)],
)  # fmt: skip
def test_as_many_edges_are_needed_as_were_published(made, name, ablation, count):
    """AutoCircuit's counts for these programs (Miller et al., 2024, arXiv:2407.08734)."""
    compiled = made[name]
    prompts = [compiled_prompts(compiled, length) for length in (2, 4)]
    found = necessary_edges(compiled.model, prompts, ablation, seeds=2)
    assert found.count() == count
    edges = named_edges(compiled.model.config, found)
    last = {"reverse": "head 3.0", "xproportion": "head 1.0"}[name]
    assert ("embed", "head 3.0", "v") in edges or name == "xproportion"
    assert edges[-1] == (last, "logits", "logits")


@pytest.mark.parametrize(
    ("name", "ablation"), [("reverse", "zero"), ("reverse", "resample"), ("hist", "zero")]
)
def test_edges_outside_the_program_do_nothing(made, name, ablation):
    """All of them cut at once, every logit stays; what is needed is among the others."""
    model, prompts = made[name].model, compiled_prompts(made[name])
    parts, inside = components(model), program_edges(model)
    assert 3 < inside.count() < parts.space.count()
    empty = inside.like(np.zeros(len(inside.flat()), bool))
    options = {"ablation": ablation, "dictionary": parts, "batch_size": 512, "with_model": True}
    found = behaviour(model, prompts, [inside, empty], **options)
    np.testing.assert_allclose(found.metric[1], found.metric[0], atol=1e-4)
    assert found.kl[1].max() < 1e-6 < found.kl[2].max()
    needed = necessary_edges(model, [prompts], ablation, among=inside, seeds=1)
    assert 1 < needed.count() <= inside.count()
    # Nothing less than the needed ones is enough, and they are.
    alone = behaviour(model, prompts, [needed], **options)
    assert alone.match[1].all()


def test_edges_are_read_off_weights_without_norms_alone(made):
    config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
    with pytest.raises(InputError, match="without norms"):
        program_edges(abstract(config))


def test_no_edge_outside_the_program_is_needed(made):
    """Tried one by one, all edges of a model give what those of the program give."""
    compiled = made["xproportion"]
    prompts = [compiled_prompts(compiled)]
    every = necessary_edges(compiled.model, prompts, "zero")
    among = necessary_edges(compiled.model, prompts, "zero", among=program_edges(compiled.model))
    np.testing.assert_array_equal(every.flat(), among.flat())
    assert every.count() == 5


def test_too_many_inputs_and_a_missing_compiler_are_said(monkeypatch):
    many = Program("many", lambda rasp, lib: rasp.tokens, tuple("abcdefghij"), 6)
    with pytest.raises(InputError, match="1000000 inputs"):
        compile_program(many)
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("tracr"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"hagd-jax\[tracr\]"):
        importlib.import_module("hagd_jax.testbeds").compile_program(PROGRAMS["hist"])
