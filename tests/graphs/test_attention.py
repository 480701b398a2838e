"""Heads that carry edges and pairs that make scores, against taking heads and sources out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.graphs import AttributionConfig, attribute, edge_heads, query_key
from hagd_jax.graphs.graph import FEATURE
from hagd_jax.interventions import chain, freeze, mask_heads
from hagd_jax.models import forward
from hagd_jax.transcoders import TranscoderConfig, init
from tests.graphs.brute import HELD, Written, effects, gains, sources
from tests.graphs.test_attribute import PROMPT, case

FEW = AttributionConfig(max_feature_nodes=12, max_logits=3)


@pytest.mark.parametrize(
    "name",
    [
        "per layer",
        "parallel",
        "skip",
        "gated neurons",
        "gemma, neurons",
        "olmo, per layer",
        "qwen3_moe, neurons",
        "gemma, raw",
    ],
)
def test_a_heads_part_is_what_the_edge_loses_without_it(name):
    model, transcoder = case(name)
    graph = attribute(model, transcoder, PROMPT, FEW)
    edges = np.argsort(-np.abs(graph.weights))[:40]
    found = edge_heads(model, transcoder, graph, edges)
    layers, heads = model.config.n_layers, model.config.n_heads
    assert found.shape == (40, layers, heads)
    whole, *_ = effects(model, transcoder, graph)
    places = graph.receivers[edges], graph.senders[edges]
    for layer, head in [(0, 0), (0, heads - 1), (layers - 1, 1)]:
        mask = jnp.ones((layers, heads)).at[layer, head].set(0)
        off = mask_heads(mask, jnp.zeros((layers, 1, 1, 1, 1)))
        without, *_ = effects(model, transcoder, graph, also=[off])
        expected = (whole - without)[places]
        np.testing.assert_allclose(found[:, layer, head], expected, atol=2e-5)
    assert np.abs(found).max() > 0.05


def test_only_heads_between_writer_and_reader_carry():
    model, transcoder = case("per layer")
    graph = attribute(model, transcoder, PROMPT, FEW)
    found = edge_heads(model, transcoder, graph, [])
    assert found.shape == (0, 3, 4)
    top = graph.nodes.layer[graph.receivers]
    edges = np.flatnonzero(graph.nodes.kind[graph.receivers] == FEATURE)[:20]
    parts = edge_heads(model, transcoder, graph, edges)
    for edge, part in zip(edges, parts, strict=True):
        # Heads above the reader, and below the writer, carry nothing.
        assert not part[top[edge] + 1 :].any()
        assert not part[: graph.nodes.layer[graph.senders[edge]] + 1].any()
    assert parts.any()


def test_edges_that_do_not_exist_are_refused():
    model, transcoder = case("per layer")
    graph = attribute(model, transcoder, PROMPT, FEW)
    with pytest.raises(InputError, match="edges"):
        edge_heads(model, transcoder, graph, [len(graph.weights)])
    with pytest.raises(InputError, match="made with"):
        edge_heads(model, None, graph, [0])


def turned(config, vector, position, layer):
    """Rotary embedding by hand."""
    if config.positions != "rotary":
        return vector
    half = config.rotary_dim // 2
    base = config.rope_local_theta * bool(config.windows[layer]) or config.rope_theta
    angle = position * base ** (-np.arange(half) / half)
    a, b, rest = np.split(vector, [half, 2 * half], axis=-1)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)


@pytest.mark.parametrize(
    ("name", "layer", "head", "query", "key"),
    [("per layer", 2, 3, 5, 2), ("per layer", 0, 1, 4, 4), ("parallel", 1, 0, 5, 1),
     ("neurons", 2, 1, 3, 0), ("gemma, neurons", 1, 2, 5, 1), ("gemma, cross-layer", 2, 1, 4, 3),
     ("olmo, per layer", 2, 3, 5, 2)],
)  # fmt: skip
def test_pairs_are_what_sources_add_to_query_and_key(name, layer, head, query, key):
    model, transcoder = case(name)
    c = model.config
    graph = attribute(model, transcoder, PROMPT, FEW)
    found = query_key(model, transcoder, graph, layer=layer, head=head, query=query, key=key)
    # The whole score, up to what the softmax takes out, and before its cap.
    first = max(0, query + 1 - c.windows[layer]) if c.windows[layer] else 0
    others = [query_key(model, transcoder, graph, layer=layer, head=head, query=query, key=k)
              for k in range(first, query + 1)]  # fmt: skip
    tokens = jnp.asarray([PROMPT])
    trace = forward(model, tokens, capture=(*HELD, "q", "k", "mlp_out", "neuron")).trace
    scores = np.array([other.score for other in others])
    assert np.ptp(scores) > 0.01
    if c.attn_softcap:
        scores = c.attn_softcap * np.tanh(scores / c.attn_softcap)
    pattern = np.asarray(trace["attn_pattern"])[layer, 0, head, query, first : query + 1]
    np.testing.assert_allclose(
        scores - scores.max(), np.log(pattern) - np.log(pattern)[scores.argmax()], atol=2e-5
    )
    # Two sources taken out, one after the other, by hand.
    from hagd_jax.transcoders import errors

    # The norms of queries and keys are held by hand: their sites come before the weights.
    held_here = (*HELD, "q_scale", "k_scale")
    capture = {
        "mlp_out",
        "mlp_out_raw",
        "neuron",
        "mlp_out_scale",
        *held_here,
        "mlp_in",
        "resid_mid",
    }
    trace = forward(model, tokens, capture=capture).trace
    writes, words = sources(model, transcoder, graph, trace)
    assert transcoder is None or np.abs(errors(transcoder, trace)).max() > 0
    gone = np.concatenate([0 * writes[:1], writes])
    word = np.concatenate([0 * words[:1], words])
    held = freeze({s: np.repeat(trace[s], len(gone), 1 if s != "normf_scale" else 0)
                   for s in held_here})  # fmt: skip
    out, skip, reads = np.asarray(trace["mlp_out"]) - gone.swapaxes(0, 1), None, "mlp_in"
    gain = gains(model, transcoder, trace)[:, None]
    if transcoder is not None and "W_skip" in transcoder.params:
        skip, reads = transcoder.params["W_skip"], transcoder.config.reads
        out = out - gain * np.einsum("lbtd,led->lbte", trace[reads], skip)
    hand = Written(jnp.asarray(word), jnp.asarray(out), skip, jnp.asarray(gain), reads)
    ran = forward(model, jnp.repeat(tokens, len(gone), 0), chain(held, hand), capture=("q", "k"))
    group = head // (c.n_heads // c.n_kv_heads)
    q, k = (np.asarray(ran.trace[s], np.float64)[layer] for s in ("q", "k"))
    q, k = turned(c, q[:, query, head], query, layer), turned(c, k[:, key, group], key, layer)
    expected = (q[0] - q[1:]) @ (k[0] - k[1:]).T / np.sqrt(c.query_scalar or c.d_head)
    np.testing.assert_allclose(found.pairs[:-1, :-1], expected, rtol=2e-6, atol=2e-5)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize(("name", "value"), [("layer", 3), ("head", -1), ("query", 6), ("key", 3)])
def test_places_that_do_not_exist_are_refused(name, value):
    model, transcoder = case("per layer")
    graph = attribute(model, transcoder, PROMPT, FEW)
    asked = {"layer": 1, "head": 0, "query": 2, "key": 1} | {name: value}
    with pytest.raises(InputError, match=name):
        query_key(model, transcoder, graph, **asked)


def test_a_key_outside_the_window_is_refused():
    model, _ = case("gemma, neurons")
    graph = attribute(model, None, PROMPT, FEW)
    with pytest.raises(InputError, match="key: got 1 for query 3; expected 2 or more: layer 2"):
        query_key(model, None, graph, layer=2, head=0, query=3, key=1)


@pytest.mark.parametrize("name", ["per layer", "neurons"])
def test_weights_that_a_graph_was_not_made_with_are_refused(name, caplog):
    """Of the same shape, they would give numbers of another graph."""
    model, transcoder = case(name)
    graph = attribute(model, transcoder, PROMPT, AttributionConfig(max_logits=1))
    other = model.replace(params=jax.tree.map(lambda x: x * 1.01, model.params))
    asked = {"layer": 1, "head": 0, "query": 3, "key": 1}
    for call in (
        lambda one, two: edge_heads(one, two, graph, [0]),
        lambda one, two: query_key(one, two, graph, **asked),
    ):
        with pytest.raises(InputError, match="a model with digest"):
            call(other, transcoder)
        if transcoder is not None:
            changed = transcoder.params | {"W_dec": transcoder.params["W_dec"] * 1.01}
            with pytest.raises(InputError, match="a transcoder with digest"):
                call(model, transcoder.replace(params=changed))
    info = dataclasses.replace(graph.info, weights="")
    old = graph.replace(info=info)
    caplog.clear()
    with caplog.at_level("WARNING", "hagd_jax"):
        known = edge_heads(model, transcoder, graph, [0])
        assert not caplog.records
        np.testing.assert_array_equal(edge_heads(model, transcoder, old, [0]), known)
    assert "does not record the weights of its model" in caplog.text


def test_a_graph_of_neurons_is_refused_with_features_as_many():
    model, _ = case("neurons")
    graph = attribute(model, None, PROMPT, AttributionConfig(max_logits=1))
    config = TranscoderConfig(n_layers=3, d_model=16, n_features=graph.info.features, k=4)
    with pytest.raises(InputError, match="expected neurons"):
        edge_heads(model, init(config, jax.random.key(0)), graph, [0])
