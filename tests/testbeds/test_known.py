"""Models whose circuit is known: they give the answers, and the circuit is enough and the least."""

import collections
import dataclasses
import functools

import jax
import numpy as np
import pytest

from hagd_jax.causal import Ablation, Node, behaviour
from hagd_jax.errors import InputError
from hagd_jax.models import forward
from hagd_jax.testbeds import (
    PROGRAMS,
    as_task,
    compile_program,
    compiled_case,
    hand_built,
    hidden_in,
    known_cases,
    known_names,
    scrambled,
)
from hagd_jax.testbeds.known import HOST
from hagd_jax.testbeds.planted import adding, balanced, counting, formula
from hagd_jax.units import Nodes, neurons

MASKS = 14


@functools.cache
def cases():
    return list(known_cases())


def mask(case, members):
    space = neurons(case.model).space
    heads = np.zeros((space.layers, space.heads), bool)
    features = np.zeros((space.layers, space.features), bool)
    for node in members:
        (heads if node.kind == "head" else features)[node.layer, node.index] = True
    return Nodes(heads, features)


def measured(case, ablation, rows):
    """What model, empty circuit, true circuit, and it less each unit do."""
    truth = sorted(case.truth[ablation])
    prompts = case.prompts[rows]
    masks = [mask(case, ()), mask(case, truth)]
    masks += [mask(case, [node for node in truth if node != one]) for one in truth]
    # Always as many, so that all models of one shape share a compiled program.
    masks += masks[:1] * (MASKS - len(masks))
    found = behaviour(
        case.model,
        prompts,
        masks,
        ablation=Ablation(ablation, case.prompts),
        batch_size=len(prompts),
        with_model=True,
    )
    return found, 3 + len(truth)


def test_there_are_many_of_many_kinds():
    names = [case.name for case in cases()]
    assert tuple(names) == known_names()
    assert len(set(names)) == len(names) >= 60
    kinds = collections.Counter(name.split()[0] for name in names)
    assert kinds["program"] >= 20
    assert len(kinds) >= 10
    sizes = {len(case.truth["mean"]) for case in cases()}
    assert min(sizes) == 1
    assert max(sizes) + 3 <= MASKS
    assert sum(len(case.prompts) >= 96 for case in cases()) >= 60


@pytest.mark.parametrize("which", range(4))
def test_the_circuit_is_enough_and_the_least(which):
    """A quarter of the models under each ablation; experiments prove all of them under all."""
    for case in cases()[which::4]:
        ablation = ("mean", "resample", "counterfactual", "zero")[which]
        if ablation not in case.truth:  # of programs constants are not known to be needed
            ablation = "mean"
        found, end = measured(case, ablation, slice(0, 32))  # prompts of all kinds take turns
        assert found.correct[0].all(), case.name
        # float32 on metrics of up to thousands.
        scale = np.abs(found.metric[0]).max()
        np.testing.assert_allclose(found.metric[2], found.metric[0], atol=1e-3 * scale)
        empty = found.kl[1].mean()
        assert found.kl[2].max() < 1e-3 < 0.05 < empty, case.name
        # Without a unit something is lost on some of these prompts: at least 2% of what can be,
        # where all prompts lose 5%.
        assert found.kl[3:end].mean(1).min() > 0.02 * empty, case.name


def test_prompts_are_different_and_counterfactuals_answer_otherwise():
    for case in cases():
        p = case.prompts
        asked = set(zip(map(tuple, p.clean.tolist()), p.position.tolist(), strict=True))
        assert len(asked) == len(p)
        assert (p.answer != p.distractor).all()
        counts = np.unique(p.answer, return_counts=True)[1]
        assert counts.max() <= 0.9 * len(p)


def test_some_are_made_as_all_are():
    name = "counting 0110"
    (one,) = known_cases([name])
    other = next(case for case in cases() if case.name == name)
    assert one.truth == other.truth
    same = jax.tree.map(lambda a, b: bool((a == b).all()), one.model.params, other.model.params)
    assert all(jax.tree.leaves(same))
    with pytest.raises(InputError, match=r"got 'counting 011'; .*Did you mean counting 0110"):
        known_cases(["counting 011"])
    for bad in (5, "either", [None]):
        with pytest.raises(InputError, match="name"):
            known_cases(bad)


def test_a_guise_changes_no_logit_and_moves_the_units():
    case = counting(0, 1, 0, 1)
    again = scrambled(hidden_in(case, HOST, 3), 3)
    rows = slice(0, 32)
    one, _ = measured(case, "zero", rows)
    other, end = measured(again, "zero", rows)
    np.testing.assert_allclose(one.metric[:3], other.metric[:3], atol=1e-4)
    # Units are in another order now.
    lost = [np.sort(found.kl[3:end].mean(1)) for found in (one, other)]
    np.testing.assert_allclose(*lost, atol=1e-5)
    assert lost[0].min() > 0.1
    assert np.abs(one.metric[0] - one.metric[1]).min() > 1
    assert again.truth["zero"] != case.truth["zero"]
    # Units that were added do something, which nobody reads.
    live = np.abs(np.asarray(again.model.params["blocks"]["mlp"]["out"]["kernel"])).sum(2) > 0
    assert live.all()


def test_a_program_that_depends_on_nothing_has_no_circuit():
    compiled = compile_program(PROGRAMS["length"])
    with pytest.raises(InputError, match="the same output on all inputs of length 4"):
        compiled_case(compiled)
    with pytest.raises(InputError, match="length: got 9; expected from 1 to 4"):
        compiled_case(compiled, 9)


def test_the_circuit_of_a_program_is_what_its_variables_say():
    """`first`: one head brings the first token, and nothing else depends on the input."""
    case = compiled_case(compile_program(PROGRAMS["first"]))
    assert case.truth["mean"] == {Node("head", 0, 0)}
    # `place`: f"{token}{index % 2}" takes no head, and a neuron for each token and each parity.
    place = compiled_case(compile_program(PROGRAMS["place"]))
    assert {node.kind for node in place.truth["mean"]} == {"neuron"}
    assert len(place.truth["mean"]) == 3 * 2


def test_splits_of_a_case_are_disjoint_where_asked():
    case = hand_built()[0]
    task = as_task(case, test=16, seed=1)
    parts = [set(map(tuple, p.clean.tolist())) for p in task.splits.values()]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(case.prompts)
    assert [len(p) for p in task.splits.values()] == [48, 17, 16]
    assert as_task(case, test=16, seed=2).texts["test"] != task.texts["test"]
    for bad in (0, 80, 81):
        with pytest.raises(InputError, match=r"expected 1 to 79"):
            as_task(case, test=bad)


def test_what_does_not_fit_is_refused():
    case = hand_built()[0]
    for change, message in (
        ({"d_model": 14}, "d_model of case either"),
        ({"n_heads": 2, "n_kv_heads": 2}, "n_heads of case either: got 4; expected at most 2"),
        ({"gated_mlp": True}, "gated_mlp of case either"),
    ):
        with pytest.raises(InputError, match=message):
            hidden_in(case, dataclasses.replace(HOST, **change), 0)
    with pytest.raises(InputError, match="1 to 3 of"):
        formula("x implies y")
    with pytest.raises(InputError, match="four of 0 and 1"):
        counting(1, 1, 1, 1)
    with pytest.raises(InputError, match="sum"):
        adding((0, 1, 2, 3), (0, 1, 2, 3), (0, 1))


def test_kinds_take_turns():
    rows = [("a",), ("b",), ("aa",), ("c",), ("d",)]
    found = balanced(rows, lambda row: len(row[0]), 2)
    assert sorted(len(row[0]) for row in found) == [1, 2]
    assert len(balanced(rows, len, 99)) == 5


def test_the_layers_of_a_case_may_be_anywhere_in_a_larger_model():
    case = cases()[1]
    own = case.model.config
    size = {"n_layers": 6, "d_model": 96, "n_heads": 6, "n_kv_heads": 6, "d_mlp": 72}
    config = dataclasses.replace(own, **size)
    layers = (0, 2, 3, 5)
    larger = hidden_in(case, config, 0, layers)
    logits = [
        np.asarray(forward(one.model.bare(), one.prompts.clean).logits)[..., : own.vocab_size]
        for one in (case, larger)
    ]
    assert np.ptp(logits[0]) > 1
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-3 * np.abs(logits[0]).max())
    for name, nodes in case.truth.items():
        assert larger.truth[name] == {
            Node(node.kind, layers[node.layer], node.index) for node in nodes
        }
    for wrong in ((0, 1, 2), (0, 2, 1, 3), (0, 1, 2, 6), (0, 0, 1, 2)):
        with pytest.raises(InputError, match="layers"):
            hidden_in(case, config, 0, wrong)
