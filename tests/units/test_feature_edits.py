"""Edited features against what attribution predicts, and against writing the change by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.graphs import AttributionConfig, attribute
from hagd_jax.graphs.graph import ERROR, FEATURE, LOGIT
from hagd_jax.interventions import add, chain, freeze
from hagd_jax.models import forward
from hagd_jax.transcoders import encode
from hagd_jax.units import FeatureEdit, intervene
from tests.graphs.brute import decoder_rows
from tests.graphs.test_attribute import PROMPT, case

TOKENS = np.array([PROMPT])


def strong(graph, layer, position=None):
    """The most active feature of a layer, at one position or at all."""
    nodes = graph.nodes
    here = (nodes.kind == FEATURE) & (nodes.layer == layer)
    here = np.flatnonzero(here & ((nodes.position == position) | (position is None)))
    return here[np.argmax(np.abs(nodes.activation[here]))]


def place(graph, node):
    nodes = graph.nodes
    return [int(x[node]) for x in (nodes.layer, nodes.position, nodes.index)]


@pytest.mark.parametrize(
    "name",
    [
        "cross-layer",
        "skip",
        "gated neurons",
        "gemma, cross-layer",
        "olmo, neurons",
        "qwen3_moe, neurons",
        "many experts, neurons",
        "gemma, raw",
    ],
)
def test_direct_effects_are_what_the_graph_says(name):
    """Δ input of t = ((new − a) / a) A[t, s], for all features and logits at once."""
    model, transcoder = case(name)
    graph = attribute(model, transcoder, PROMPT, AttributionConfig(max_logits=4))
    node = strong(graph, 0)
    layer, position, index = place(graph, node)
    edit = FeatureEdit(layer, position, index, scale=-1.5)
    reads = "mlp_in" if transcoder is None else transcoder.config.reads
    plain = forward(model, TOKENS, capture=(reads,))
    moved = intervene(model, transcoder, TOKENS, [edit], regime="direct", capture=(reads,))
    expected = -2.5 * graph.to_dense()[:, node]
    assert np.abs(expected).max() > 0.02
    logits = graph.nodes.index[graph.nodes.kind == LOGIT]
    change = np.asarray(moved.logits - plain.logits)[0, -1]
    np.testing.assert_allclose(
        (change - change.mean())[logits], expected[graph.of_kind(LOGIT)], atol=2e-5
    )
    if transcoder is None:
        return
    change = (moved.trace[reads] - plain.trace[reads])[:, 0]
    pre = np.einsum("ltd,lfd->ltf", change, transcoder.params["W_enc"])
    nodes, here = graph.nodes, graph.of_kind(FEATURE)
    found = pre[nodes.layer[here], nodes.position[here], nodes.index[here]]
    np.testing.assert_allclose(found, expected[here], atol=2e-5)


@pytest.mark.parametrize("regime", ["free", "freeze_attention"])
def test_a_change_is_written_along_all_edges(regime):
    model, transcoder = case("cross-layer")
    graph = attribute(model, transcoder, PROMPT)
    layer, position, index = place(graph, strong(graph, 1))
    activation = graph.nodes.activation[strong(graph, 1)]
    edit = FeatureEdit(layer, position, index, value=3.0)
    here = np.arange(len(PROMPT)) == position
    writes = [
        add("mlp_out", (3.0 - activation) * row, layer=receiver, positions=here)
        for receiver, row in decoder_rows(model, transcoder, layer, index)
    ]
    assert len(writes) == 3
    held = ("attn_pattern",) if regime == "freeze_attention" else ()
    trace = forward(model, TOKENS, capture=held).trace
    expected = forward(model, TOKENS, chain(freeze(trace), *writes)).logits
    found = intervene(model, transcoder, TOKENS, [edit], regime=regime).logits
    assert np.abs(expected - forward(model, TOKENS).logits).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_later_edits_act_on_what_earlier_ones_left():
    model, transcoder = case("per layer")
    graph = attribute(model, transcoder, PROMPT)
    first, second = place(graph, strong(graph, 0)), place(graph, strong(graph, 2, 5))
    edits = [FeatureEdit(*first), FeatureEdit(*second, value=0.5, scale=2.0)]
    found = intervene(model, transcoder, TOKENS, edits, regime="free").logits
    ((_, row),) = decoder_rows(model, transcoder, first[0], first[2])
    activation = graph.nodes.activation[strong(graph, 0)]
    here = np.arange(len(PROMPT)) == first[1]
    one = add("mlp_out", -activation * row, layer=first[0], positions=here)
    trace = forward(model, TOKENS, one, capture=("mlp_in",)).trace
    now = encode(transcoder, trace["mlp_in"])[second[0], 0, second[1], second[2]]
    assert abs(now - graph.nodes.activation[strong(graph, 2, 5)]) > 1e-3
    ((_, row),) = decoder_rows(model, transcoder, second[0], second[2])
    there = np.arange(len(PROMPT)) == second[1]
    two = add("mlp_out", (now + 0.5) * row, layer=second[0], positions=there)
    expected = forward(model, TOKENS, chain(one, two)).logits
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_edits_of_a_graph_know_their_dictionary():
    """Another transcoder of the same shape has other features by the same numbers."""
    model, transcoder = case("per layer")
    graph = attribute(model, transcoder, PROMPT, AttributionConfig(max_logits=1))
    node = strong(graph, 1)
    edit, plain = graph.edit(node, 3.0), FeatureEdit(*place(graph, node), value=3.0)
    moved, expected = (intervene(model, transcoder, TOKENS, [e]).logits for e in (edit, plain))
    np.testing.assert_array_equal(moved, expected)
    assert np.abs(moved - forward(model, TOKENS).logits).max() > 1e-3
    # A folder may move; what is in it may not change.
    intervene(model, transcoder.replace(name="elsewhere"), TOKENS, [edit])
    other = transcoder.replace(params=transcoder.params | {"b_dec": transcoder.params["b_dec"] + 1})
    for wrong in (other, None):
        intervene(model, wrong, TOKENS, [plain])
        with pytest.raises(InputError, match=f"expected {graph.info.dictionary}"):
            intervene(model, wrong, TOKENS, [edit])
    for node in (-1, int(graph.of_kind(LOGIT)[0]), int(graph.of_kind(ERROR)[0])):
        with pytest.raises(InputError, match=r"expected a feature|expected an integer"):
            graph.edit(node)


def test_neurons_are_edited_where_they_are():
    model, _ = case("neurons")
    edit = FeatureEdit(layer=1, position=3, feature=5, value=2.0)
    plain = forward(model, TOKENS, capture=("neuron",))
    change = jnp.zeros(model.config.d_mlp).at[5].set(2.0 - plain.trace["neuron"][1, 0, 3, 5])
    by_hand = add("neuron", change, layer=1, positions=np.arange(len(PROMPT)) == 3)
    expected = forward(model, TOKENS, by_hand).logits
    assert np.abs(expected - plain.logits).max() > 0.01
    found = intervene(model, None, TOKENS, [edit], regime="free").logits
    np.testing.assert_allclose(found, expected, atol=1e-6)


BAD = {
    "layer": ([FeatureEdit(4, 0, 0)], "0 to 3"),
    "position": ([FeatureEdit(0, 6, 0)], "0 to 5"),
    "feature": ([FeatureEdit(0, 0, -1)], "0 to 23"),
    "twice": ([FeatureEdit(0, 1, 2), FeatureEdit(0, 1, 2, value=1.0)], "one edit for each place"),
    "infinite": ([FeatureEdit(0, 1, 2, value=float("nan"))], "finite"),
    "none": ([], "one or more"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_impossible_edits_are_refused(name):
    model, transcoder = case("cross-layer")
    edits, message = BAD[name]
    with pytest.raises(InputError, match=message):
        intervene(model, transcoder, TOKENS, edits)


def test_an_unknown_regime_is_refused():
    model, transcoder = case("cross-layer")
    with pytest.raises(ConfigError, match="freeze_attention"):
        intervene(model, transcoder, TOKENS, [FeatureEdit(0, 1, 2)], regime="frozen")
