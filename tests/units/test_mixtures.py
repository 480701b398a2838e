"""Neurons of a mixture of experts as nodes: ablations and scores against brute force."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.graphs import (
    attribute,
    load_graph,
    neuronpedia_json,
    prune,
    save_graph,
    task_graph,
)
from hagd_jax.graphs.graph import FEATURE
from hagd_jax.interventions import chain, freeze, zero_alternative
from hagd_jax.models import forward
from hagd_jax.report.graph_data import feature_name
from hagd_jax.scores import GradientConfig, mean_scores, node_graph
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Nodes, Space, mask_nodes, neurons
from tests.models.noise import noisy
from tests.models.test_decoder import TOKENS
from tests.models.test_experts import EACH, MANY, STEPS

BOTH = pytest.mark.parametrize("config", [EACH, MANY], ids=["each", "many"])
PROMPTS = Prompts(
    clean=TOKENS[:2], corrupted=TOKENS[2:], position=np.array([4, 4]), answer=np.array([5, 1]),
    distractor=np.array([6, 2]), length=np.array([5, 5]),
)  # fmt: skip


def space(config):
    return Space(config.n_layers, config.n_heads, config.d_mlp)


@BOTH
@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
def test_an_ablated_neuron_is_one_that_writes_nothing(config, held):
    """Neurons, and all those of an expert, against a model whose rows of W_out are zero there."""
    model = noisy(config)
    trace = forward(model, TOKENS, capture=["head_out", "neuron", "router"]).trace
    used = np.asarray(trace["router"][0]).reshape(-1, config.experts)
    expert = int(used.sum(0).argmax())  # which some tokens use, and others do not
    assert np.any(used[:, expert] > 0)
    assert np.any(used[:, expert] == 0)
    first = expert * config.d_expert
    everything = Nodes.full(space(config), 1.0)
    blocks = model.params["blocks"]
    for rows in (slice(first, first + 1), slice(first, first + config.d_expert)):
        mask = Nodes(everything.heads, everything.features.at[0, rows].set(0))
        do = mask_nodes(mask, zero_alternative(trace))
        kernel = blocks["mlp"]["out"]["kernel"].at[0, rows].set(0)
        mlp = blocks["mlp"] | {"out": {"kernel": kernel}}
        without = model.replace(params=model.params | {"blocks": blocks | {"mlp": mlp}})
        router = freeze(trace, ["router"] if held else [])
        expected = forward(without, TOKENS, router).logits
        found = forward(model, TOKENS, chain(do, router)).logits
        plain = forward(model, TOKENS).logits
        assert np.abs(found - plain).max() > 1e-3
        # Logits of size ten: sums in another order.
        np.testing.assert_allclose(found, expected, atol=2e-5)


@BOTH
def test_scores_are_derivatives_by_the_masks_along_the_path(config):
    """Central differences of the masked model at each step, the routers free."""
    model = noisy(config)
    steps = (0.4, 1.0)
    found = mean_scores(model, PROMPTS, GradientConfig(steps=steps)).values.features
    other = forward(model, PROMPTS.corrupted, capture=["head_out", "neuron"]).trace
    rows = np.arange(2)

    def metric(mask):
        logits = forward(model, PROMPTS.clean, mask_nodes(mask, other)).logits
        last = np.asarray(logits, np.float64)[rows, PROMPTS.position]
        return (last[rows, PROMPTS.answer] - last[rows, PROMPTS.distractor]).mean()

    best = np.argsort(-np.abs(np.asarray(found)).ravel())[:3]
    for layer, neuron in zip(*np.unravel_index(best, found.shape), strict=True):
        total = 0.0
        for step in steps:
            at = Nodes.full(space(config), step)
            low, high = (
                metric(Nodes(at.heads, at.features.at[layer, neuron].add(sign * 5e-3)))
                for sign in (-1, 1)
            )
            total += (high - low) / 1e-2 / len(steps)
        assert abs(total) > 1e-3
        # Differences of float32 logits of size one, over a hundredth.
        np.testing.assert_allclose(found[layer, neuron], total, rtol=0.02, atol=5e-4)
    assert jnp.isfinite(found).all()


@pytest.mark.parametrize("config", [EACH, STEPS, MANY], ids=["each", "steps", "many"])
def test_no_token_uses_more_neurons_than_its_bound(config):
    """The bound that memory is planned by, which a dense layer may be the one to reach."""
    model = noisy(config)
    active = np.asarray(forward(model, TOKENS, capture=["neuron"]).trace["neuron"]) != 0
    assert active.sum(-1).max() == neurons(model).most_active < config.d_mlp


def test_edges_need_the_weights_of_experts():
    model = noisy(EACH)
    trace = forward(model, TOKENS, capture=["mlp_in"]).trace
    assert neurons(model).pulls == ("mlp_in", "router")
    with pytest.raises(InputError, match="router"):
        neurons(model).pull(model, trace, jnp.zeros((3, *TOKENS.shape, EACH.d_mlp)))


def test_graphs_name_neurons_by_their_expert(tmp_path):
    """Layer 1 of this model is no mixture; pages, tables and exports name neurons alike."""
    graph = attribute(noisy(STEPS), None, TOKENS[0], targets=2)
    save_graph(graph, tmp_path / "graph.safetensors")
    every = load_graph(tmp_path / "graph.safetensors")
    assert every.info.per_expert == (6, 0, 6)
    task, nodes = task_graph([graph]), node_graph(noisy(STEPS), PROMPTS)
    whole = neuronpedia_json(graph, kept=prune(graph, node_threshold=1.0, edge_threshold=1.0))
    exported = [node for node in whole["nodes"] if node["activation"]]
    named = {feature_name(graph, int(node)) for node in graph.of_kind(FEATURE)}
    assert {node["clerp"] for node in exported} <= named
    assert any(".E" in node["clerp"] for node in exported)
    for layer, name in ((0, "E"), (1, "N")):
        here = graph.of_kind(FEATURE)[graph.nodes.layer[graph.of_kind(FEATURE)] == layer]
        node, number = int(here[0]), int(graph.nodes.index[here[0]])
        expected = f"L0.E{number // 6}.N{number % 6}" if name == "E" else f"L1.N{number}"
        assert every.label(node).startswith(f"{expected} @")
        assert feature_name(graph, node) == expected
        assert expected in {task.label(i) for i in range(task.count)}
        heads = STEPS.n_layers * STEPS.n_heads
        assert nodes.label(heads + layer * STEPS.d_mlp + number) == expected
