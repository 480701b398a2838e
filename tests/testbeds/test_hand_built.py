"""Models written by hand do what they say; their circuits are the least ones, by trying all."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.causal import Ablation, Node, behaviour, named_edges
from hagd_jax.models import forward
from hagd_jax.tasks import correct
from hagd_jax.testbeds import hand_built, true_edges
from hagd_jax.units import Nodes, components, neurons

CASES = {case.name: case for case in hand_built()}
ABLATIONS = ("zero", "mean", "resample", "counterfactual")


def mask(space, members):
    """`Nodes` of bool."""
    heads = np.zeros((space.layers, space.heads), bool)
    features = np.zeros((space.layers, space.features), bool)
    for kind, layer, index in members:
        (heads if kind == "head" else features)[layer, index] = True
    return Nodes(jnp.asarray(heads), jnp.asarray(features))


def live(case):
    """Nodes that write anything: the others can be left out at once."""
    params, space = case.model.params["blocks"], neurons(case.model).space
    heads = np.abs(params["attn"]["o"]["kernel"]).sum((2, 3)) > 0
    wide = np.abs(params["mlp"]["out"]["kernel"]).sum(2) > 0
    assert heads.shape == (space.layers, space.heads)
    found = [("head", *place) for place in np.argwhere(heads).tolist()]
    return found + [("neuron", *place) for place in np.argwhere(wide).tolist()]


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_model_gives_the_answers(name):
    case = CASES[name]
    assert correct(forward(case.model, case.prompts.clean).logits, case.prompts).all()
    assert len(set(case.prompts.answer.tolist())) >= 2


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_circuit_is_the_least_that_will_do(name, ablation):
    """Of all sets of live nodes: those that keep every logit hold the circuit, and it is one."""
    case = CASES[name]
    space, units = neurons(case.model).space, live(case)
    assert len(units) <= 12
    every = [
        [unit for unit, kept in zip(units, row, strict=True) if kept]
        for row in itertools.product((True, False), repeat=len(units))
    ]
    found = behaviour(
        case.model,
        case.prompts,
        [mask(space, members) for members in every],
        ablation=Ablation(ablation, case.prompts),
        batch_size=len(case.prompts),
    )
    off = np.abs(found.metric - found.metric[0]).max(1)
    # Logits are multiples of 4, or of cosines times 10; attention leaves 1e-12 elsewhere.
    keeps = off < 1e-3
    assert (keeps | (off > 0.1)).all()
    truth = {(n.kind, n.layer, n.index) for n in case.truth[ablation]}
    assert truth <= set(units)
    for members, good in zip(every, keeps, strict=True):
        assert good == (truth <= set(members)), (members, good)
    assert all(isinstance(node, Node) for node in case.truth[ablation])


@pytest.mark.parametrize("ablation", ["zero", "counterfactual"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_true_edges_alone_keep_every_logit(name, ablation):
    """And they touch the true nodes, and no other head."""
    case = CASES[name]
    edges, parts = true_edges(case, ablation), components(case.model)
    options = {"ablation": ablation, "dictionary": parts, "batch_size": len(case.prompts)}
    found = behaviour(case.model, case.prompts, [edges], with_model=True, **options)
    np.testing.assert_allclose(found.metric[1], found.metric[0], atol=1e-3)
    named = named_edges(case.model.config, edges)
    assert 3 <= len(named) < parts.space.count()
    heads = {f"head {n.layer}.{n.index}" for n in case.truth[ablation] if n.kind == "head"}
    assert {edge.writer for edge in named if edge.writer.startswith("head")} == heads
