"""Scores of edges between components against patching each edge by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.interventions import chain, replace
from hagd_jax.models import forward, write_gain
from hagd_jax.parallel import make_mesh
from hagd_jax.scores import GradientConfig, component_graph
from hagd_jax.scores.component_graph import EMBED, HEAD, INPUTS, LOGITS, MLP, AddToReads
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.tasks.prompts import make_prompts
from tests.graphs.test_attribute import GPT2
from tests.models.noise import noisy, on_mesh
from tests.models.test_decoder import GEMMA, LLAMA, NEOX, OLMO

SMALL = {"llama": LLAMA, "neox": NEOX, "gpt2": GPT2, "gemma": GEMMA, "olmo": OLMO}
# Small, for softmaxes bend; float32 metrics of size one leave 5e-4 of a slope to rounding.
STEP = 2e-3
PLAIN = GradientConfig(steps=(1.0,))


def prompts(count=3):
    rng = np.random.default_rng(0)
    clean, corrupted = rng.integers(0, 24, (2, count, 5))
    return make_prompts(clean.tolist(), corrupted.tolist(), [3] * count, [8] * count, vocab_size=24)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_score_is_the_slope_of_patching_that_edge(name):
    """One edge at a time, moved a little to the counterfactual: the metric's finite difference."""
    model, data = noisy(SMALL[name]), prompts()
    c = model.config
    graph = component_graph(model, data, PLAIN)
    sites = ("embed", "head_write", "attn_out_scale", "mlp_out")
    ends = [forward(model, x, capture=sites).trace for x in (data.clean, data.corrupted)]
    for end in ends:
        end["head_write"] *= write_gain(model, end, "attn_out")[:, :, :, None]
    moved = {site: np.asarray(ends[1][site] - ends[0][site], np.float64) for site in sites}
    kinds, layers, indices = graph.graph.nodes
    shape = data.clean.shape
    rng = np.random.default_rng(1)
    picks = [rng.choice(np.flatnonzero(graph.edges.input == i), 4) for i in range(len(INPUTS))]

    def metric(amounts):
        out = forward(model, data.clean, AddToReads(**amounts)).logits
        return np.asarray(logit_difference(out, data), np.float64)

    for edge in np.concatenate(picks):
        sender, which = graph.graph.senders[edge], int(graph.edges.input[edge])
        write = {
            EMBED: lambda n: moved["embed"],
            HEAD: lambda n: moved["head_write"][layers[n], :, :, indices[n]],
            MLP: lambda n: moved["mlp_out"][layers[n]],
        }[int(kinds[sender])](sender)
        layer = layers[graph.graph.receivers[edge]]
        slopes = []
        for step in (STEP, -STEP):
            empty = {
                "q": np.zeros((c.n_layers, *shape, c.n_heads, c.d_model)),
                "k": np.zeros((c.n_layers, *shape, c.n_kv_heads, c.d_model)),
                "v": np.zeros((c.n_layers, *shape, c.n_kv_heads, c.d_model)),
                "mlp": np.zeros((c.n_layers, *shape, c.d_model)),
                "final": np.zeros((*shape, c.d_model)),
            }
            place = empty[("q", "k", "v", "mlp", "final")[which]]
            if which < 3:
                place[layer, :, :, graph.edges.index[edge]] = step * write
            elif which == 3:
                place[layer] = step * write
            else:
                place[:] = step * write
            slopes.append(metric({k: jnp.asarray(x, jnp.float32) for k, x in empty.items()}))
        slope = (slopes[0] - slopes[1]) / (2 * STEP)
        # Moving to the counterfactual is the opposite of keeping.
        assert graph.edges.score[edge] == pytest.approx(-slope.mean(), abs=6e-4, rel=1e-2)
        error = slope.std(ddof=1) / np.sqrt(len(slope))
        assert graph.edges.error[edge] == pytest.approx(error, abs=6e-4, rel=2e-2)
    assert np.abs(graph.edges.score).max() > 0.01


@pytest.mark.parametrize("name", sorted(SMALL))
def test_edges_are_those_the_architecture_has(name):
    c = SMALL[name]
    graph = component_graph(noisy(c), prompts(), PLAIN)
    kinds, layers, _ = graph.graph.nodes
    heads, keys = c.n_heads, c.n_kv_heads
    expected = 0
    for layer in range(c.n_layers):
        before = 1 + layer * (heads + 1)
        expected += before * (heads + 2 * keys)
        expected += before + (0 if c.parallel_residual else heads)
    assert len(graph.edges.score) == expected + 1 + c.n_layers * (heads + 1)
    assert (layers[graph.graph.senders] <= layers[graph.graph.receivers]).all()
    same = layers[graph.graph.senders] == layers[graph.graph.receivers]
    if c.parallel_residual:
        assert not same.any()
    else:
        assert (kinds[graph.graph.senders[same]] == HEAD).all()
        assert (kinds[graph.graph.receivers[same]] == MLP).all()
    assert kinds[graph.graph.receivers].max() == LOGITS


def test_with_many_steps_edges_into_the_logits_sum_to_the_whole_effect():
    """Without a final norm the metric is linear in what the logits read."""
    model, data = noisy(NEOX.replace(norm="none", parallel_residual=False)), prompts()
    graph = component_graph(model, data, GradientConfig(steps=(0.2, 0.9)))
    clean, other = (forward(model, tokens).logits for tokens in (data.clean, data.corrupted))
    whole = float(np.mean(logit_difference(clean, data) - logit_difference(other, data)))
    into = graph.edges.input == INPUTS.index("logits")
    assert abs(whole) > 0.1
    assert graph.edges.score[into].sum() == pytest.approx(whole, rel=1e-4)


def test_integrated_edges_out_of_the_embedding_follow_the_path():
    """Gradients of reads at α are those of the model run on mixed embeddings."""
    model, data = noisy(LLAMA), prompts(2)
    graph = component_graph(model, data, GradientConfig(steps=(0.25, 0.75)))
    halves = []
    for step in (0.25, 0.75):
        clean, other = (
            forward(model, tokens, capture=("embed",)).trace["embed"]
            for tokens in (data.clean, data.corrupted)
        )
        start = replace("embed", other + step * (clean - other))

        def value(amount, start=start):
            mixed = chain(start, AddToReads(**zeros(model.config, data, final=amount)))
            return logit_difference(forward(model, data.clean, mixed).logits, data).sum()

        slope = jax.grad(value)(jnp.zeros(clean.shape))
        halves.append(jnp.sum(slope * (clean - other), (1, 2)))
    edge = np.flatnonzero((graph.graph.senders == 0) & (graph.edges.input == 4))
    assert graph.edges.score[edge[0]] == pytest.approx(float(np.mean(halves)), rel=1e-4)


def zeros(c, data, **given):
    shape = data.clean.shape
    heads = {"q": c.n_heads, "k": c.n_kv_heads, "v": c.n_kv_heads}
    made = {k: jnp.zeros((c.n_layers, *shape, n, c.d_model)) for k, n in heads.items()}
    made["mlp"] = jnp.zeros((c.n_layers, *shape, c.d_model))
    return made | {"final": jnp.zeros((*shape, c.d_model))} | given


def test_batches_and_devices_do_not_matter():
    model, data = noisy(LLAMA), prompts(5)
    expected = component_graph(model, data, PLAIN).edges
    batched = component_graph(model, data, GradientConfig(steps=(1.0,), batch_size=2)).edges
    spread = component_graph(on_mesh(model, make_mesh("data=4,model=2")), data, PLAIN).edges
    assert np.abs(expected.score).max() > 0.01
    for found in (batched, spread):
        np.testing.assert_allclose(found.score, expected.score, rtol=4e-5, atol=1e-5)
        np.testing.assert_allclose(found.error, expected.error, rtol=4e-5, atol=1e-5)
