"""Random programs against the interpreter, the decoder's own cuts and every set of edges."""

import functools
import itertools

import flax.traverse_util
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal.ablation import behaviour
from hagd_jax.errors import InputError
from hagd_jax.models import forward
from hagd_jax.testbeds import (
    PROGRAMS,
    compile_program,
    hand_built,
    necessary_edges,
    program_edges,
    prove,
    random_program,
    random_programs,
)
from hagd_jax.testbeds.crafting import run, tracr
from hagd_jax.testbeds.exact import exact_run
from hagd_jax.units import Edges, components

pytest.importorskip("tracr")
# Logits are 8 or more apart, and steps of MLPs in float32 are off by less than this.
OFF = 0.4


@functools.cache
def found():
    return tuple(random_programs(7, 2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_a_seed_decides_a_program_that_runs_on_every_input(seed, depth):
    t = tracr()
    program = random_program(seed, depth=depth)
    one, other = (random_program(seed, depth=depth).make(t.rasp, t.lib) for _ in range(2))
    rng = np.random.default_rng(seed)
    for length in range(1, program.length + 1):
        row = rng.choice(program.vocabulary, length).tolist()
        said = one(row)
        assert said == other(row)
        assert all(isinstance(value, int) for value in said)


def test_programs_come_in_the_same_order_however_many_are_asked_for():
    first = next(random_programs(7, 1))
    assert found()[0].name == first.name
    np.testing.assert_array_equal(first.prompts.clean, found()[0].prompts.clean)
    assert len({p.name for p in found()}) == 2
    assert len({p.model.config for p in found()}) == 1


@pytest.mark.parametrize("place", range(2))
def test_the_hidden_model_says_what_the_program_says(place):
    own = found()[place]
    logits = np.asarray(forward(own.model, own.prompts.clean).logits)
    at = logits[np.arange(len(own.prompts)), own.prompts.position]
    assert (at.argmax(-1) == own.prompts.answer).all()
    t, words = tracr(), own.compiled.program.vocabulary
    expression = own.compiled.program.make(t.rasp, t.lib)
    asked = zip(own.prompts.clean[:20], own.prompts.position, at, strict=False)
    for tokens, position, row in asked:
        said = expression([words[token] for token in tokens[1:]])[int(position) - 1]
        assert own.compiled.model.tokenizer.decode([int(row.argmax())]).strip() == str(said)


def test_needed_edges_are_those_that_the_decoder_needs_on_the_prompts():
    own = found()[0]
    needed = necessary_edges(
        own.model, [own.prompts], "counterfactual", among=program_edges(own.model), batch_size=32
    )
    np.testing.assert_array_equal(needed.flat(), own.edges.flat())
    assert 3 <= own.edges.count() < program_edges(own.model).count()


@pytest.mark.parametrize("place", range(2))
def test_the_needed_edges_alone_do_all_that_the_model_does(place):
    own = found()[place]
    there = own.edges.like(np.zeros_like(own.edges.flat()))
    does = behaviour(
        own.model, own.prompts, [own.edges, there], ablation="counterfactual",
        dictionary=components(own.model),
    )  # fmt: skip
    assert does.match[0].all()
    assert does.kl[0].max() < OFF
    assert does.kl[1].mean() > 1


def test_no_smaller_set_of_edges_keeps_every_answer():
    # Of the smallest programs all sets of edges can be tried.
    own = prove(compile_program(PROGRAMS["hist"]))
    places = np.flatnonzero(program_edges(own.model).flat())
    assert 4 <= len(places) <= 8
    rows = []
    for keep in itertools.product((False, True), repeat=len(places)):
        row = np.zeros_like(own.edges.flat())
        row[places[list(keep)]] = True
        rows.append(row)
    does = behaviour(
        own.model, own.prompts, [own.edges.like(row) for row in rows], ablation="counterfactual",
        dictionary=components(own.model),
    )  # fmt: skip
    keeps = [row for row, match in zip(rows, does.match, strict=True) if match.all()]
    least = min(keeps, key=np.sum)
    np.testing.assert_array_equal(least, own.edges.flat())
    assert all(row[own.edges.flat()].all() for row in keeps)
    assert 1 <= len(keeps) < len(rows)


def test_exact_runs_are_those_of_numpy_and_cuts_those_of_the_decoder():
    compiled = compile_program(PROGRAMS["detect_ab"])
    tokens = compiled.tables[4][0]
    whole = exact_run(compiled.model, tokens)
    flat = flax.traverse_util.flatten_dict(compiled.model.params, sep="/")
    plain = run(compiled.model.config, flat, tokens).logits
    np.testing.assert_allclose(whole.logits, plain, atol=1e-3)
    assert np.ptp(plain) > 0.5
    # Every edge cut at once is the run on the other tokens, whatever is read.
    others = np.roll(tokens, 1, axis=0)
    elsewhere = exact_run(compiled.model, others)
    every = exact_run(
        compiled.model, tokens, cut=Edges.existing(compiled.model.config), other=elsewhere.writes
    )
    np.testing.assert_allclose(every.logits, elsewhere.logits, atol=1e-9)


def test_redundant_and_constant_programs_are_refused():
    with pytest.raises(InputError, match="hardly depends"):
        prove(compile_program(PROGRAMS["length"]))
    with pytest.raises(InputError, match="n_layers"):
        prove(compile_program(PROGRAMS["sort_freq"]))
    with pytest.raises(InputError, match="compiled program"):
        exact_run(hand_built()[0].model.replace(config=OTHER), np.zeros((1, 2), int))
    with pytest.raises(InputError, match="depth"):
        random_program(0, depth=9)


OTHER = hand_built()[0].model.config.__class__(
    vocab_size=4, n_layers=1, d_model=4, n_heads=1, d_mlp=4
)
