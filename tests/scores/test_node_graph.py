"""The node graph against edges patched one by one, and against the component graph."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import ConfigError
from hagd_jax.interventions import add
from hagd_jax.models import DecoderConfig, forward, write_gain
from hagd_jax.scores import GradientConfig, component_graph, eap_ig, node_graph
from hagd_jax.scores.flow import directions, flow
from hagd_jax.scores.flow_edges import block, chosen_edges
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.tasks.prompts import make_prompts
from hagd_jax.transcoders import TranscoderConfig
from hagd_jax.transcoders import init as init_transcoder
from hagd_jax.units import as_dictionary, neurons
from tests.models.noise import noisy
from tests.models.test_decoder import GEMMA, LLAMA, NEOX, OLMO
from tests.models.test_experts import EACH
from tests.models.test_experts import STEPS as QWEN3_MOE

PLAIN = DecoderConfig(
    vocab_size=24, n_layers=3, d_model=16, n_heads=2, d_mlp=12, norm="none", positions="learned",
    max_positions=8, activation="gelu_tanh",
)  # fmt: skip
CONFIGS = {"plain": PLAIN, "gated": dataclasses.replace(LLAMA, norm="none"),
           "parallel": dataclasses.replace(NEOX, norm="none"),
           "norms after": OLMO}  # fmt: skip
STEPS = GradientConfig(steps=(0.3, 0.8), batch_size=2)


def some_prompts(config, count=3, seed=0):
    rng = np.random.default_rng(seed)
    clean, other = rng.integers(0, config.vocab_size, (2, count, 6)).tolist()
    ends = rng.permuted(np.tile(np.arange(config.vocab_size), (count, 1)), axis=1)[:, :2].T
    return make_prompts(clean, other, *ends.tolist(), vocab_size=config.vocab_size)


def dense(graph):
    count = len(graph.nodes.kind)
    found = np.zeros((count, count))
    found[np.asarray(graph.graph.receivers), np.asarray(graph.graph.senders)] = graph.graph.edges
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_features_of_a_layer_add_up_to_its_mlp(name):
    """Without norms before MLPs, whose denominators are held here, the component graph's gradient
    is the same one, and MLPs are their features."""
    config = CONFIGS[name]
    model, prompts = noisy(config), some_prompts(config)
    parts = component_graph(model, prompts, STEPS).scores.values
    graph = node_graph(model, prompts, STEPS, edges_per_node=1000)
    found, c = dense(graph), config
    heads = c.n_layers * c.n_heads
    of_heads = found[:heads, :heads].reshape(c.n_layers, c.n_heads, -1)
    keys = (parts.k + parts.v)[:, :, 1 : 1 + heads].sum(1)
    np.testing.assert_allclose(
        of_heads.sum(1), parts.q[:, :, 1 : 1 + heads].sum(1) + keys, atol=1e-5, rtol=1e-4
    )
    to_mlp = found[heads:, :heads].reshape(c.n_layers, c.d_mlp, -1).sum(1)
    np.testing.assert_allclose(to_mlp, parts.mlp[:, 1 : 1 + heads], atol=1e-5, rtol=1e-4)
    between = found[heads:, heads:].reshape(c.n_layers, c.d_mlp, c.n_layers, c.d_mlp)
    # The output bias is in both passes, so that it moves nothing.
    np.testing.assert_allclose(between.sum((1, 3)), parts.mlp[:, 1 + heads :], atol=1e-5, rtol=1e-4)
    assert np.abs(parts.mlp).max() > 1e-3
    # Scores of 10 are sums of terms of 10,000 here, whose float32 rounding they carry.
    score = eap_ig(model, prompts, STEPS).flat()
    np.testing.assert_allclose(graph.score, score, rtol=1e-4, atol=2e-6 * np.abs(score).max())


@pytest.mark.parametrize(
    ("config", "written", "reader"),
    [
        (LLAMA, 3, (1, 5)),
        (GEMMA, 3, (1, 5)),
        (EACH, 8, (1, 20)),
        (QWEN3_MOE, 3, (1, 5)),
        (QWEN3_MOE, 3, (2, 12)),
    ],
    ids=["llama", "gemma", "mixtral", "qwen3_moe, dense", "qwen3_moe"],
)
def test_an_edge_is_what_its_reader_makes_of_it(config, written, reader):
    """One neuron reads another layer's neuron from the counterfactual, by finite differences; in a
    mixture it keeps its expert's weight, and what is above it is free."""
    model, prompts, c = noisy(config), some_prompts(config, 1), config
    clean_only = GradientConfig(steps=(1.0,), batch_size=1)
    found = dense(node_graph(model, prompts, clean_only, edges_per_node=1000))
    heads = c.n_layers * c.n_heads
    writer = (0, written)
    sites = ("neuron", "mlp_in", "router", "norm2_scale", "mlp_out_scale")
    clean, other = (
        forward(model, prompts.inputs(side), capture=sites).trace for side in ("clean", "corrupted")
    )
    clean_write, other_write = (
        (trace["neuron"][..., writer[1], None] * write_gain(model, trace, "mlp_out"))[writer[0], 0]
        for trace in (clean, other)
    )
    mlp = jax.tree.map(lambda x: x[reader[0]], model.params["blocks"])
    row = model.params["blocks"]["mlp"]["out"]["kernel"][writer[0], writer[1]]
    into = (clean_write - other_write) * row
    if "norm2" in mlp:  # its denominator is held
        weight = mlp["norm2"]["scale"] + c.norm_offset
        into = into * weight / clean["norm2_scale"][reader[0], 0]

    held = clean["router"][reader[0], 0, :, reader[1] // c.d_expert]
    assert (held > 0).any()

    def neuron(x):
        gate, up = (x @ mlp["mlp"][n]["kernel"][:, reader[1]] for n in ("gate", "in"))
        return jax.nn.silu(gate) * up * held

    here = clean["mlp_in"][reader[0], 0]
    step = 1e-2
    slope = (neuron(here + step * into) - neuron(here - step * into)) / (2 * step)

    def metric(amount):
        moving = jnp.zeros((1, here.shape[0], c.d_mlp)).at[0, :, reader[1]].set(amount)
        out = forward(model, prompts.inputs(), add("neuron", moving, layer=reader[0]))
        return logit_difference(out.logits, prompts)[0]

    expected = (metric(slope) - metric(-slope)) / 2
    value = found[heads + reader[0] * c.d_mlp + reader[1], heads + writer[0] * c.d_mlp + writer[1]]
    assert abs(value) > 1e-5
    np.testing.assert_allclose(value, expected, rtol=2e-2)


def test_a_transcoder_that_is_the_mlp_has_its_edges():
    """Per-layer features of ReLU neurons are those neurons."""
    config = dataclasses.replace(PLAIN, activation="relu")
    model, prompts = noisy(config), some_prompts(config)
    mlp = model.params["blocks"]["mlp"]
    own = TranscoderConfig(
        n_layers=3, d_model=16, n_features=12, activation="relu", k=0, reads="mlp_in"
    )
    transcoder = init_transcoder(own, jax.random.key(0))
    params = transcoder.params | {
        "W_enc": mlp["in"]["kernel"].swapaxes(1, 2),
        "b_enc": mlp["in"]["bias"],
        "W_dec": mlp["out"]["kernel"],
    }  # fmt: skip
    features = as_dictionary(model, transcoder.replace(params=params))
    one = node_graph(model, prompts, STEPS, edges_per_node=1000)
    two = node_graph(model, prompts, STEPS, edges_per_node=1000, dictionary=features)
    np.testing.assert_allclose(dense(two), dense(one), atol=1e-6, rtol=1e-4)
    assert np.abs(dense(one)).max() > 1e-3


def test_edges_of_a_window_reach_the_layers_it_writes_to():
    """A feature read two layers up has written to both between, and to nobody before it."""
    config = dataclasses.replace(PLAIN, activation="relu")
    model, prompts = noisy(config), some_prompts(config)
    own = TranscoderConfig(
        n_layers=3, d_model=16, n_features=8, activation="relu", k=0, reads="mlp_in", window=1
    )
    nodes = as_dictionary(model, init_transcoder(own, jax.random.key(1))).bare()
    along = directions(model, nodes)
    decoder = np.asarray(nodes.trained.params["W_dec"])
    # Edges of the layer graph: 0→0, 0→1, 1→1, 1→2, 2→2.
    np.testing.assert_allclose(along.out[1], decoder[0] + decoder[1], rtol=1e-6)
    np.testing.assert_allclose(along.out[2], decoder[2], rtol=1e-6)
    found = flow(
        model.bare(),
        nodes,
        prompts,
        jnp.ones(3),
        jnp.array([1.0]),
        metric=logit_difference,
        remat=False,
    )
    rows = np.asarray(block(along, found, np.int32(2), np.int32(0), False))[2:, 2:]
    move, pull = (
        np.asarray(x, np.float64).reshape(8, -1) for x in (found.move[0], found.pull[0, 2])
    )
    into = np.asarray(along.into[0, 2], np.float64)
    expected = (into @ (decoder[0] + decoder[1]).T) * (pull @ move.T)
    np.testing.assert_allclose(rows, expected, atol=1e-6, rtol=1e-4)


def test_the_strongest_edges_are_kept():
    model, prompts = noisy(PLAIN), some_prompts(PLAIN)
    every = dense(node_graph(model, prompts, STEPS, edges_per_node=1000))
    few = dense(node_graph(model, prompts, STEPS, edges_per_node=3))
    assert (few != 0).sum(1).max() == 3
    for full, row in zip(every, few, strict=True):
        best = np.sort(np.abs(full[full != 0]))[::-1][:3]
        np.testing.assert_allclose(np.sort(np.abs(row[row != 0]))[::-1], best, rtol=1e-5)
    assert neurons(model).space.nodes == len(every)
    for bad in ({"edges_per_node": 0}, {"candidates": 0}):
        with pytest.raises(ConfigError, match="1 or more"):
            node_graph(model, prompts, STEPS, **bad)


@pytest.mark.parametrize("window", [None, 0, 1])
@pytest.mark.parametrize("parallel", [False, True])
def test_edges_of_chosen_features_are_those_of_whole_layers(window, parallel):
    config = CONFIGS["parallel"] if parallel else dataclasses.replace(PLAIN, activation="relu")
    model, prompts = noisy(config), some_prompts(config)
    nodes, width = neurons(model).bare(), config.d_mlp
    if window is not None:
        own = TranscoderConfig(
            n_layers=config.n_layers, d_model=config.d_model, n_features=8, activation="relu",
            reads="mlp_in", window=window,
        )  # fmt: skip
        nodes, width = as_dictionary(model, init_transcoder(own, jax.random.key(1))).bare(), 8
    along = directions(model, nodes)
    found = flow(
        model.bare(),
        nodes,
        prompts,
        jnp.ones(3),
        jnp.array([0.5]),
        metric=logit_difference,
        remat=False,
    )
    layers, heads = config.n_layers, config.n_heads
    rows = [
        np.concatenate([
            block(along, found, np.int32(to), np.int32(frm), config.parallel_residual)
            for frm in range(layers)
        ], 1) for to in range(layers)
    ]  # fmt: skip
    every = np.stack(rows).reshape(layers, heads + width, layers, heads + width)
    chosen = np.array([0, width - 1, width + 2, layers * width - 1])
    rows = chosen_edges(along, found, jnp.asarray(chosen), parallel=config.parallel_residual)
    place = [(layer, h) for layer in range(layers) for h in range(heads)]
    place += [(c // width, heads + c % width) for c in chosen.tolist()]
    expected = np.array([[every[to, t, frm, f] for frm, f in place] for to, t in place])
    np.testing.assert_allclose(rows, expected, atol=1e-5, rtol=1e-4)
    assert np.abs(expected).max() > 1e-3


def test_features_before_a_norm_have_edges_in_their_own_layer_only():
    """Neurons as features: the MLP of a model without gates, before the norm behind it."""
    config = dataclasses.replace(
        OLMO, gated_mlp=False, activation="relu", mlp_bias=True, qk_norm="none"
    )
    model, prompts = noisy(config), some_prompts(config)
    mlp = model.params["blocks"]["mlp"]
    own = TranscoderConfig(
        n_layers=config.n_layers, d_model=config.d_model, n_features=config.d_mlp,
        activation="relu", writes="mlp_out_raw",
    )  # fmt: skip
    params = init_transcoder(own, jax.random.key(0)).params | {
        "W_enc": mlp["in"]["kernel"].swapaxes(1, 2),
        "b_enc": mlp["in"]["bias"],
        "W_dec": mlp["out"]["kernel"],
        "b_dec": mlp["out"]["bias"],
    }
    transcoder = init_transcoder(own, jax.random.key(0)).replace(params=params)
    features = as_dictionary(model, transcoder)
    one = node_graph(model, prompts, STEPS, edges_per_node=1000)
    two = node_graph(model, prompts, STEPS, edges_per_node=1000, dictionary=features)
    np.testing.assert_allclose(dense(two), dense(one), atol=1e-6, rtol=1e-4)
    assert np.abs(dense(one)).max() > 1e-3
    wide = init_transcoder(own.replace(window=1), jax.random.key(0))
    with pytest.raises(ConfigError, match="window of the transcoder: got 1"):
        node_graph(model, prompts, STEPS, dictionary=wide)
