"""Graphs of one prompt against brute force: every source taken out by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.graphs import (
    AttributionConfig,
    attribute,
    difference_target,
    graph_scores,
    prompt,
    sources,
)
from hagd_jax.graphs.graph import EMBEDDING, ERROR, FEATURE, LOGIT, LogitTarget
from hagd_jax.graphs.sources import round_up
from hagd_jax.models import DecoderConfig, forward
from hagd_jax.parallel import make_mesh
from hagd_jax.transcoders import TranscoderConfig, encode
from tests.graphs.brute import effects
from tests.models.noise import noisy, on_mesh
from tests.models.test_decoder import GEMMA, LLAMA, NEOX, OLMO
from tests.models.test_experts import EACH, MANY, STEPS
from tests.transcoders.test_replace import made

GPT2 = DecoderConfig(
    vocab_size=24, n_layers=3, d_model=16, n_heads=2, d_mlp=32, activation="gelu_tanh", tied=True,
    max_positions=16,
)  # fmt: skip
PROMPT = [3, 7, 1, 12, 5, 9]
BASE = TranscoderConfig(n_layers=3, d_model=16, n_features=24, k=3)
RELU = BASE.replace(activation="relu", k=0)
CASES = {
    "per layer": (LLAMA, BASE),
    "centred norm, both ways": (GPT2.replace(causal=False), BASE),
    "parallel": (NEOX, RELU.replace(n_layers=2)),
    "cross-layer": (LLAMA.replace(n_layers=4), RELU.replace(n_layers=4, window=3)),
    "window": (LLAMA.replace(n_layers=4), BASE.replace(n_layers=4, window=1, reads="resid_mid")),
    "skip": (LLAMA, RELU.replace(skip=True)),
    "skip, parallel": (NEOX, RELU.replace(n_layers=2, skip=True, reads="resid_mid")),
    "gated neurons": (LLAMA, None),
    "neurons": (GPT2, None),
    # Everything at once: norms on both sides with 1 + their weight, of heads too, windows, soft
    # caps that bend, scaled embeddings; and norms after only, with biases before them.
    "gemma, neurons": (GEMMA, None),
    "gemma, cross-layer": (GEMMA, RELU.replace(window=2, skip=True)),
    # Written before the norm after the MLP, with errors and a skip connection that pass it, too.
    "gemma, raw": (GEMMA, RELU.replace(window=2, skip=True, writes="mlp_out_raw")),
    "olmo, raw": (OLMO, BASE.replace(reads="resid_mid", writes="mlp_out_raw")),
    "olmo, neurons": (OLMO.replace(mlp_bias=True), None),
    "olmo, per layer": (OLMO, BASE.replace(reads="resid_mid")),
    # Mixtral, Qwen 3 with a dense layer, and so many experts that tokens are sorted by them.
    "mixtral, neurons": (EACH, None),
    "qwen3_moe, neurons": (STEPS, None),
    "many experts, neurons": (MANY.replace(experts=64, d_mlp=128), None),
    "mixtral, cross-layer": (EACH, RELU.replace(window=2)),
}  # fmt: skip


def case(name):
    decoder, config = CASES[name]
    return noisy(decoder), None if config is None else made(config)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_edge_equals_taking_its_source_out(name):
    """Sums of some ten float32 products of size one differ by 1e-6 in another order."""
    model, transcoder = case(name)
    graph = attribute(model, transcoder, PROMPT, AttributionConfig(max_logits=5, batch_size=7))
    expected, total, left = effects(model, transcoder, graph)
    found, table = graph.to_dense(), graph.nodes
    assert np.abs(expected).max() > 0.1
    for kind in (FEATURE, EMBEDDING) if transcoder is None else (FEATURE, ERROR, EMBEDDING):
        assert np.abs(expected[:, table.kind == kind]).max() > 0.01
    # Sums of float32 in another order: a few units in the last place of the largest edges.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
    # All rows are here, so each adds up to what its target owes to all sources.
    targets = (table.kind == FEATURE) | (table.kind == LOGIT)
    np.testing.assert_allclose(found.sum(1)[targets], total[targets], atol=5e-5)
    np.testing.assert_allclose(table.remainder, 0, atol=2e-5)
    # With what biases and a soft cap leave, to the logits that the model puts out.
    logits = np.asarray(forward(model, [PROMPT]).logits[0, -1], np.float64)
    own, value = table.kind == LOGIT, logits - logits.mean()
    value = value[table.index[own]]
    np.testing.assert_allclose((found.sum(1) + left)[own], value, atol=1e-5 * np.abs(value).max())


def test_nodes_are_the_active_features_and_the_likely_tokens():
    model, transcoder = case("cross-layer")
    graph = attribute(model, transcoder, PROMPT)
    out = forward(model, [PROMPT], capture=("mlp_in",))
    active = np.array(encode(transcoder, out.trace["mlp_in"])[:, 0])
    active[:, 0] = 0
    table = graph.nodes
    here = table.kind == FEATURE
    places = np.stack([table.layer, table.position, table.index], 1)[here]
    np.testing.assert_array_equal(places, np.argwhere(active))
    np.testing.assert_allclose(table.activation[here], active[active != 0], atol=1e-5)
    chances = np.asarray(jax.nn.softmax(out.logits[0, -1]))
    logits = table.index[table.kind == LOGIT]
    np.testing.assert_array_equal(logits, np.argsort(-chances)[:10])
    np.testing.assert_allclose(table.weight[table.kind == LOGIT], chances[logits], rtol=1e-5)
    few = attribute(model, transcoder, PROMPT, AttributionConfig(logit_mass=0.5))
    count = len(few.of_kind(LOGIT))
    assert chances[logits][:count].sum() >= 0.5 > chances[logits][: count - 1].sum()


@pytest.mark.parametrize("every", [1, 5])
def test_features_are_chosen_by_their_influence_so_far(every):
    model, transcoder = case("window")
    whole = attribute(model, transcoder, PROMPT, AttributionConfig(max_feature_nodes=10_000))
    config = AttributionConfig(max_feature_nodes=15, update_every=every, batch_size=4)
    graph = attribute(model, transcoder, PROMPT, config)
    size = np.abs(whole.to_dense().astype(np.float64))
    share = size / np.maximum(size.sum(1, keepdims=True), 1e-8)
    kind, weight = whole.nodes.kind, whole.nodes.weight.astype(np.float64)
    chosen: list[int] = []
    while len(chosen) < 15:
        known = (kind == LOGIT) | np.isin(np.arange(len(kind)), chosen)
        flow, found = weight, np.zeros(len(kind))
        for _ in range(len(kind)):
            flow = (flow * known) @ share
            found += flow
        order = [i for i in np.argsort(-found, kind="stable") if kind[i] == 0 and i not in chosen]
        chosen += order[:every]
    assert len(chosen) == 15 < (kind == FEATURE).sum()
    for name in ("layer", "position", "index"):
        expected = getattr(whole.nodes, name)[np.sort(chosen)]
        np.testing.assert_array_equal(getattr(graph.nodes, name)[:15], expected)
    # Their edges are those of the whole graph, and what is gone is in the remainder.
    nodes = np.concatenate([np.sort(chosen), np.flatnonzero(kind != FEATURE)])
    dense = whole.to_dense()
    np.testing.assert_allclose(graph.to_dense(), dense[np.ix_(nodes, nodes)], atol=1e-6)
    left = dense[nodes].sum(1) - graph.to_dense().sum(1)
    assert np.abs(left).max() > 0.01
    np.testing.assert_allclose(graph.nodes.remainder, left, atol=1e-5)


def test_neither_batches_nor_padding_show():
    model, transcoder = case("per layer")
    prompt = list(range(1, 12))  # padded to 16; rows are cut to 4, 8, 12 or 16 positions
    one = attribute(model, transcoder, prompt, AttributionConfig(batch_size=1))
    many = attribute(model, transcoder, prompt, AttributionConfig(batch_size=1000))
    np.testing.assert_array_equal(one.nodes.index, many.nodes.index)
    assert round_up(11) == 16
    exact = model.replace(config=model.config.replace(max_positions=11))
    plain = attribute(exact, transcoder, prompt)
    for graph in (many, plain):
        np.testing.assert_allclose(graph.to_dense(), one.to_dense(), atol=1e-5)


@pytest.mark.parametrize(
    "name", ["per layer", "cross-layer", "gated neurons", "gemma, neurons", "qwen3_moe, neurons"]
)
@pytest.mark.parametrize("mesh", ["data=4,model=2", "data=8"])
def test_devices_do_not_matter(name, mesh):
    model, transcoder = case(name)
    config = AttributionConfig(max_feature_nodes=30, update_every=10, batch_size=16)
    expected = attribute(model, transcoder, PROMPT, config)
    found = attribute(on_mesh(model, make_mesh(mesh)), transcoder, PROMPT, config)
    np.testing.assert_array_equal(found.nodes.index, expected.nodes.index)
    assert np.abs(expected.to_dense()).max() > 0.1
    np.testing.assert_allclose(found.to_dense(), expected.to_dense(), atol=1e-5)


@pytest.mark.parametrize("most", [1, 12, 100_000])
def test_capped_edges_add_up(most):
    model, transcoder = case("cross-layer")
    whole = attribute(model, transcoder, PROMPT)
    graph = attribute(model, transcoder, PROMPT, AttributionConfig(edges_per_node=most))
    dense, all_of = graph.to_dense(), whole.to_dense()
    assert np.abs(all_of).max() > 0.1
    np.testing.assert_allclose(dense[dense != 0], all_of[dense != 0], atol=1e-6)
    kept = np.sort(np.abs(all_of), 1)[:, ::-1][:, :most]
    np.testing.assert_allclose(np.abs(dense).sum(1), kept.sum(1), atol=1e-4)
    np.testing.assert_allclose(dense.sum(1) + graph.nodes.remainder, all_of.sum(1), atol=1e-4)
    for column, kind in enumerate((ERROR, EMBEDDING)):
        here = graph.nodes.kind == kind
        mass = np.abs(all_of[:, here]).sum(1) - np.abs(dense[:, here]).sum(1)
        np.testing.assert_allclose(graph.nodes.folded[:, column], mass, atol=1e-4)


def test_a_direction_is_the_difference_of_its_tokens():
    model, transcoder = case("per layer")
    config = AttributionConfig(max_feature_nodes=10_000)
    pair = attribute(model, transcoder, PROMPT, config, targets=[4, 9])
    both = difference_target(model, 4, 9)
    graph = attribute(model, transcoder, PROMPT, config, targets=both)
    assert graph.info.targets[0].label == "#4 - #9"
    rows = pair.to_dense()[-2:, :-2]
    assert np.abs(rows).max() > 0.1
    np.testing.assert_allclose(graph.to_dense()[-1, :-1], rows[0] - rows[1], atol=1e-5)
    assert graph.nodes.weight[-1] == 1


BAD = {
    "text without a tokenizer": ({"prompt": "hello"}, "no tokenizer"),
    "nothing": ({"prompt": []}, "at least one"),
    "no such token": ({"prompt": [24]}, "ids below 24"),
    "too long": ({"prompt": [1] * 2000}, "at most 1024"),
    "target outside": ({"targets": 24}, "from 0 to 23"),
    "target below": ({"targets": [-1]}, "from 0 to 23"),
    "target text": ({"targets": " Paris"}, "no tokenizer"),
    "no target": ({"targets": []}, "one or more"),
    "infinite direction": ({"targets": LogitTarget("x", (1,), (np.nan,))}, "finite numbers"),
    "no direction": ({"targets": LogitTarget("x", (1,), (0.0,))}, "do not cancel"),
    "a direction of nothing": (
        {"targets": LogitTarget("x", (1, 2, 1, 2), (0.5, -1.0, -0.5, 1.0))},
        "do not cancel",
    ),
    "words as coefficients": ({"targets": LogitTarget("x", (1,), ("a",))}, "array of numbers"),
    "a fraction": ({"targets": 1.5}, "an integer from 0 to 23"),
    "a NumPy fraction": ({"targets": np.float32(1)}, "an integer from 0 to 23"),
    "a JAX fraction": ({"targets": [jnp.float32(1)]}, "an integer from 0 to 23"),
    "true": ({"targets": True}, "an integer from 0 to 23"),
    "rows as a prompt": ({"prompt": [[1], [1, 2]]}, "unequal length"),
    "fractions as a prompt": ({"prompt": [1.0, 2.0]}, "row of token ids"),
    "empty direction": ({"targets": LogitTarget("x", (), ())}, "one or more tokens"),
    "worthless direction": ({"targets": LogitTarget("x", (1,), weight=-1.0)}, "above 0"),
    "nothing active": ({"prompt": [5]}, "none active"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input_is_refused(name):
    model, transcoder = case("per layer")
    changed, message = BAD[name]
    asked = {"prompt": PROMPT, "targets": None} | changed
    with pytest.raises(InputError, match=message):
        attribute(model, transcoder, asked["prompt"], targets=asked["targets"])


def test_another_models_transcoder_and_infinities_are_refused():
    model, transcoder = case("per layer")
    with pytest.raises(InputError, match="2 layers of d_model 16"):
        attribute(noisy(NEOX), transcoder, PROMPT)
    broken = dict(transcoder.params, b_enc=transcoder.params["b_enc"].at[1, 2].set(jnp.inf))
    with pytest.raises(InputError, match="NaN or infinity"):
        attribute(model, transcoder.replace(params=broken), PROMPT)


@pytest.mark.parametrize("name", ["per layer", "parallel", "neurons"])
def test_what_cannot_fit_is_refused_before_it_takes_memory(name, monkeypatch):
    model, transcoder = case(name)
    said = []
    # Neither the copied decoders nor, where the features of a position are bounded, the pass.
    monkeypatch.setattr(sources, "gathered", lambda *_: pytest.fail("too late"))
    if name != "parallel":
        monkeypatch.setattr(prompt, "run_pass", lambda *_: pytest.fail("too late"))
    enough = AttributionConfig(memory_gb=1e-5)
    with pytest.raises(InputError, match="memory: got a graph of about"):
        attribute(model, transcoder, PROMPT, enough, tell=said.append)
    assert said
    assert "memory beside the model" in said[-1]


def test_half_precision_agrees_with_full_as_far_as_it_can():
    model, transcoder = case("per layer")
    cast = lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)  # noqa: E731
    half = model.replace(params=cast(model.params), config=model.config.replace(dtype="bfloat16"))
    graph, full = (attribute(m, transcoder, PROMPT) for m in (half, model))
    assert np.isfinite(graph.to_dense()).all()
    assert abs(graph_scores(graph).replacement - graph_scores(full).replacement) < 0.05
