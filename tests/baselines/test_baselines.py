"""Rivals against float64 loops, brute force and models whose circuits are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax import baselines
from hagd_jax.causal import Node
from hagd_jax.errors import InputError
from hagd_jax.interventions import add, chain, replace
from hagd_jax.models import forward
from hagd_jax.scores import GradientConfig, eap, eap_edges, eap_ig, eap_ig_edges
from hagd_jax.search import RepairConfig, measured_losses, top_nodes
from hagd_jax.tasks import Seen, look
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.testbeds import hand_built
from hagd_jax.units import Nodes, Space, components, neurons
from tests.models.noise import noisy
from tests.models.test_decoder import LLAMA
from tests.scores.test_node_graph import PLAIN, some_prompts

CASES = {case.name: case for case in hand_built()}


def test_eap_ig_of_a_neuron_is_its_move_times_its_mean_gradient():
    """By finite differences at each step of the path; float32, hence 2%."""
    model, prompts = noisy(LLAMA), some_prompts(LLAMA, 2)
    steps = (0.25, 0.75)
    found = eap_ig(model, prompts, GradientConfig(steps=steps))
    clean, other = (
        forward(model, prompts.inputs(side), capture=("embed", "neuron")).trace
        for side in ("clean", "corrupted")
    )
    layer, index = 1, 7
    moved = (clean["neuron"] - other["neuron"])[layer, ..., index]
    expected = 0.0
    for step in steps:
        start = replace("embed", other["embed"] + step * (clean["embed"] - other["embed"]))

        def metric(amount, start=start):
            by = jnp.zeros((*moved.shape, LLAMA.d_mlp)).at[..., index].set(amount * moved)
            out = forward(model, prompts.inputs(), chain(start, add("neuron", by, layer=layer)))
            return np.asarray(logit_difference(out.logits, prompts), np.float64).mean()

        expected += (metric(0.1) - metric(-0.1)) / 0.2 / len(steps)
    assert abs(expected) > 1e-4
    np.testing.assert_allclose(found.values.features[layer, index], expected, rtol=2e-2)


def test_first_order_scores_fail_where_they_are_known_to():
    """An OR gate saturates: at the clean prompt neither of two true inputs has a gradient."""
    case = CASES["either"]
    truth = case.truth["counterfactual"]
    scores = eap(case.model, case.prompts)
    best = top_nodes(scores, len(truth)).mask
    kinds = zip(("head", "neuron"), (best.heads, best.features), strict=True)
    chosen = {Node(k, *p) for k, x in kinds for p in np.argwhere(np.asarray(x)).tolist()}
    assert np.isfinite(scores.flat()).all()
    assert np.abs(scores.flat()).max() > 0
    assert chosen != truth


def test_edges_score_what_component_graphs_do():
    model, prompts = noisy(PLAIN), some_prompts(PLAIN)
    there = components(model).space
    for scores in (eap_edges(model, prompts), eap_ig_edges(model, prompts)):
        flat = scores.flat()
        assert (flat[~there.flat()] == 0).all()
        assert (flat[there.flat()] != 0).mean() > 0.8
    # Where both read the same stream, edges from all writers add up to the gradient along it.
    whole = eap_edges(model, prompts)
    clean, other = (
        forward(model, prompts.inputs(side), capture=("resid_final",)).trace["resid_final"]
        for side in ("clean", "corrupted")
    )
    final = jax.grad(
        lambda x: logit_difference(
            forward(model, prompts.inputs(), replace("resid_final", x)).logits, prompts
        ).sum()
    )(clean)
    expected = jnp.sum(final * (clean - other)) / len(prompts)
    np.testing.assert_allclose(whole.values.final.sum(), expected, rtol=1e-4)


def test_all_circuits_are_measured():
    """Losses of a few against the judge's, and the best of a size against a loop."""
    case = CASES["both"]
    found = baselines.exhaustive(case.model, case.prompts, RepairConfig(batch_size=64))
    space = neurons(case.model).space
    assert found.members.shape == (2**space.nodes, space.nodes)
    assert found.losses[-1] == pytest.approx(0, abs=1e-6)
    size = len(case.truth["counterfactual"])
    best = found.members[found.best(size)]
    assert (found.circuit(size).flat() == best).all()
    assert found.circuit(size).seen == look(
        case.prompts, ablation="counterfactual", model=case.model, dictionary="neurons"
    )
    for bad in (-1, space.nodes + 1):
        with pytest.raises(InputError, match=f"0 to {space.nodes}"):
            found.best(bad)
    loop = min(
        itertools.combinations(range(space.nodes), size),
        key=lambda nodes: found.losses[sum(1 << n for n in nodes)],
    )
    assert np.flatnonzero(best).tolist() == list(loop)
    some = [Nodes.from_flat(space, found.members[row]) for row in (0, 5, 77)]
    again = measured_losses(case.model, case.prompts, some, RepairConfig(batch_size=16))
    np.testing.assert_allclose(found.losses[[0, 5, 77]], again, rtol=1e-5)
    truth = {(n.kind, n.layer, n.index) for n in case.truth["counterfactual"]}
    heads = space.layers * space.heads
    members = {
        ("head", *divmod(n, space.heads)) if n < heads else
        ("neuron", *divmod(n - heads, space.features)) for n in np.flatnonzero(best).tolist()
    }  # fmt: skip
    assert members == truth


def test_too_many_nodes_are_refused_and_chance_is_seeded():
    with pytest.raises(InputError, match="at most 20"):
        baselines.exhaustive(noisy(LLAMA), some_prompts(LLAMA))
    space = Space(2, 3, 4)
    one, two, other = (baselines.random_scores(space, seed).flat() for seed in (0, 0, 1))
    assert (one == two).all()
    assert (one != other).any()
    assert one.shape == (14,)
    assert baselines.random_scores(space).seen == Seen.nothing()
    with pytest.raises(InputError, match="0 or more"):
        baselines.random_scores(space, -1)
