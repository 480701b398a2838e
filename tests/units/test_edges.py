"""Edges against a loop that builds every reader's input by itself, in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.interventions import add
from hagd_jax.models import DecoderConfig, forward, write_gain
from hagd_jax.units import WRITES, Edges, mask_edges
from tests.models.noise import noisy
from tests.models.test_decoder import GEMMA, LLAMA, NEOX, OLMO

GPT2 = DecoderConfig(
    vocab_size=24, n_layers=3, d_model=16, n_heads=2, d_mlp=32, activation="gelu_tanh", tied=True,
    max_positions=16,
)  # fmt: skip
PLAIN = DecoderConfig(
    vocab_size=12, n_layers=2, d_model=8, n_heads=2, d_mlp=16, norm="none", positions="learned",
    max_positions=6, causal=False,
)  # fmt: skip


def random_mask(config, seed, share=0.6):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda there: rng.random(there.shape) < share, Edges.existing(config))


def loop(model, tokens, mask, other):
    """One prompt of a model without norms, reader by reader."""
    c, p = model.config, jax.tree.map(lambda x: np.asarray(x, np.float64), model.params)
    alternative = [other["embed"][0]]
    alternative += [other["head_added"][layer, 0, :, h] for layer in range(2) for h in range(2)]
    alternative += [other["mlp_out"][layer, 0] for layer in range(2)]
    written = {0: p["embed"]["embedding"][tokens] + p["positions"]["embedding"][: len(tokens)]}
    constant = np.zeros(c.d_model)  # attention's biases are nobody's

    def read(row):
        kept = (written[w] if row[w] else np.asarray(alternative[w], float) for w in written)
        return sum(kept) + constant

    for layer in range(c.n_layers):
        block = jax.tree.map(lambda x, own=layer: x[own], p["blocks"])
        new = {}
        for h in range(c.n_heads):
            q, k, v = (
                np.einsum(
                    "td,de->te", read(getattr(mask, n)[layer, h]), block["attn"][n]["kernel"][:, h]
                )
                + block["attn"][n]["bias"][h]
                for n in "qkv"
            )
            scores = q @ k.T / np.sqrt(c.d_head)
            pattern = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            new[1 + layer * c.n_heads + h] = pattern @ v @ block["attn"]["o"]["kernel"][h]
        written |= new
        constant = constant + block["attn"]["o"]["bias"]
        hidden = read(mask.mlp[layer]) @ block["mlp"]["in"]["kernel"] + block["mlp"]["in"]["bias"]
        out = np.maximum(hidden, 0) @ block["mlp"]["out"]["kernel"] + block["mlp"]["out"]["bias"]
        written[1 + c.n_layers * c.n_heads + layer] = out
    return read(mask.final) @ p["unembed"]["kernel"]


@pytest.mark.parametrize("seed", range(4))
def test_readers_see_what_the_mask_says(seed):
    model = noisy(PLAIN, seed)
    tokens, corrupted = np.random.default_rng(seed).integers(12, size=(2, 1, 5))
    other = forward(model, corrupted, capture=WRITES).trace
    mask = random_mask(PLAIN, seed)
    found = forward(model, tokens, mask_edges(PLAIN, mask, other)).logits
    expected = loop(model, tokens[0], mask, other)
    clean = forward(model, tokens).logits
    assert np.abs(found - clean).max() > 0.05
    # Sums of a dozen float32 terms of order one.
    np.testing.assert_allclose(found[0], expected, atol=2e-5)


NO_BIAS = OLMO.replace(attn_out_bias=False)  # which is nobody's, and so stays where it is


@pytest.mark.parametrize(
    "config",
    [LLAMA, NEOX, GPT2, GEMMA, NO_BIAS],
    ids=["llama", "parallel", "gpt2", "gemma", "olmo"],
)
def test_all_edges_kept_is_the_model_and_none_the_other_prompt(config):
    model = noisy(config)
    tokens, corrupted = np.random.default_rng(1).integers(20, size=(2, 3, 6))
    other = forward(model, corrupted, capture=WRITES).trace
    clean, dirty = (forward(model, t).logits for t in (tokens, corrupted))
    for value, expected, tolerance in ((True, clean, 0), (False, dirty, 1e-4)):
        mask = jax.tree.map(lambda x, v=value: np.full(x.shape, v), Edges.existing(config))
        found = forward(model, tokens, mask_edges(config, mask, other)).logits
        np.testing.assert_allclose(found, expected, atol=tolerance or 1e-5)
    assert np.abs(clean - dirty).max() > 0.1


@pytest.mark.parametrize("config", [GEMMA, OLMO], ids=["gemma", "olmo"])
def test_a_reader_sees_what_writers_add_to_the_stream_elsewhere(config):
    """Each input of the middle layer by itself, against adding the difference there by hand."""
    model, layer = noisy(config), 1
    tokens, corrupted = np.random.default_rng(2).integers(20, size=(2, 2, 6))
    sites = ("embed", "head_write", "attn_out_scale", "mlp_out", *WRITES)
    own, other = (forward(model, t, capture=sites).trace for t in (tokens, corrupted))
    plain = forward(model, tokens).logits
    writes = []
    for trace in (own, other):
        heads = trace["head_write"] * write_gain(model, trace, "attn_out")[:, :, :, None]
        heads = heads.transpose(0, 3, 1, 2, 4).reshape(-1, *tokens.shape, config.d_model)
        writes.append(jnp.concatenate([trace["embed"][None], heads, trace["mlp_out"]]))
    there, everything = Edges.existing(config), random_mask(config, 2)
    for name, site in (
        ("q", "q_in"),
        ("v", "v_in"),
        ("mlp", "resid_mlp"),
        ("final", "resid_final"),
    ):
        mask = jax.tree.map(np.ones_like, there)
        row = getattr(everything, name)[layer] if name != "final" else everything.final
        exists = getattr(there, name)[layer] if name != "final" else there.final
        (mask.final if name == "final" else getattr(mask, name)[layer])[...] = row
        moved = jnp.einsum("...w,wbtd->bt...d", exists & ~row, writes[1] - writes[0])
        at = {} if name == "final" else {"layer": layer}
        expected = forward(model, tokens, add(site, moved, **at)).logits
        found = forward(model, tokens, mask_edges(config, mask, other)).logits
        assert np.abs(expected - plain).max() > 0.05
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_what_writes_later_is_no_edge():
    """Cutting it changes nothing, and all others are counted."""
    model, there = noisy(LLAMA), Edges.existing(LLAMA)
    tokens = np.random.default_rng(1).integers(20, size=(1, 6))
    layers, heads, groups = LLAMA.n_layers, LLAMA.n_heads, LLAMA.n_kv_heads
    none = {"embed": 0, "head_added": (layers, 1, 1, 1, 1), "mlp_out": (layers, 1, 1, 1)}
    zeros = {site: jnp.zeros(shape or ()) for site, shape in none.items()}
    found = forward(model, tokens, mask_edges(LLAMA, there, zeros))
    np.testing.assert_array_equal(found.logits, forward(model, tokens, mask_edges(
        LLAMA, jax.tree.map(np.ones_like, there), zeros)).logits)  # fmt: skip
    writers = lambda layer: 1 + layer * (heads + 1)  # noqa: E731
    into = sum(
        (heads + 2 * groups) * writers(layer) + writers(layer) + heads for layer in range(layers)
    )
    assert there.count() == into + writers(layers)


def test_a_mask_of_another_model_is_refused():
    model = noisy(LLAMA)
    tokens = jnp.zeros((1, 4), int)
    other = forward(model, tokens, capture=WRITES).trace
    longer = forward(model, jnp.zeros((1, 5), int), capture=WRITES).trace
    wider = LLAMA.replace(n_heads=2 * LLAMA.n_heads)
    for wrong in (
        mask_edges(NEOX, Edges.existing(NEOX), other),
        mask_edges(wider, Edges.existing(wider), other),
        mask_edges(LLAMA, Edges.existing(LLAMA), longer),
    ):
        with pytest.raises(InputError, match=r"mask of edges|leading axis of 3|alternative of"):
            forward(model, tokens, wrong)
    with pytest.raises(InputError, match="mlp_out"):
        mask_edges(LLAMA, Edges.existing(LLAMA), {"embed": other["embed"], "head_added": 0})
