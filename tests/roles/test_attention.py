"""Numbers of heads and values on synthetic prompts, against NumPy and by identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.models import DecoderConfig, forward, init
from hagd_jax.roles.attention import explained, observe
from hagd_jax.roles.copying import copying
from hagd_jax.roles.sequences import sequences
from hagd_jax.tasks import make_prompts

CONFIG = DecoderConfig(
    vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=6, d_head=4, max_positions=7, norm="rms"
)


@pytest.fixture(scope="module")
def model():
    # Keys and queries large enough for patterns that are not all alike.
    found = init(CONFIG, jax.random.key(3))
    blocks = dict(found.params["blocks"])
    attn = {
        name: jax.tree.map(lambda x: 3 * x, part) if name in "qk" else part
        for name, part in blocks["attn"].items()
    }
    return found.replace(params={**found.params, "blocks": {**blocks, "attn": attn}})


@pytest.fixture(scope="module")
def prompts():
    clean = [[0, 3, 4, 5, 6, 7, 8], [0, 4, 3, 6, 5, 8, 7]]
    other = [[0, 3, 4, 5, 6, 8, 8], [0, 5, 3, 6, 5, 8, 7]]
    return make_prompts(clean, other, [1, 2], [2, 1], vocab_size=9)


@pytest.fixture(scope="module")
def rows(model, prompts):
    return sequences(model, prompts, 20, jax.random.key(0))


def test_rows_have_the_tokens_of_the_prompts_and_half_of_them_repeat(rows):
    assert rows.lead
    assert (rows.tokens[:, 0] == 0).all()
    assert set(np.unique(rows.tokens)) == {0, 3, 4, 5, 6, 7, 8}
    for row in rows.tokens[10:]:
        assert any((row[-2 * n : -n] == row[-n:]).all() for n in (2, 3))


def test_masks_of_rows_are_what_their_names_say(rows):
    for n, t, s in np.ndindex(*rows.twin.shape):
        row = rows.tokens[n]
        assert rows.twin[n, t, s] == (s < t and row[s] == row[t])
        assert rows.after[n, t, s] == (0 < s < t and row[s - 1] == row[t])
    assert rows.twin.any()
    assert rows.after.any()


def test_patterns_are_those_of_numpy(model, rows):
    found, _ = observe(model, rows, batch_size=8)  # 20 rows: the last batch is filled up
    trace = forward(model, rows.tokens, capture=["attn_pattern"]).trace
    p = np.asarray(trace["attn_pattern"], np.float64)
    length = p.shape[-1]
    later = np.arange(2, length)
    close = {"rtol": 2e-5, "atol": 2e-6}  # sums of a few hundred float32 numbers
    np.testing.assert_allclose(found.previous, p[..., later, later - 1].mean((1, 3)), **close)
    np.testing.assert_allclose(found.itself, p[..., later, later].mean((1, 3)), **close)
    np.testing.assert_allclose(found.first, p[..., later, 0].mean((1, 3)), **close)
    seen = np.tri(length)
    uniform = seen / seen.sum(1, keepdims=True)
    apart = p - uniform
    square = (apart**2).sum((1, 3, 4))
    share = len(p[0]) * (apart.mean(1) ** 2).sum((-1, -2)) / square
    share = share - (1 - share) / (p.shape[1] - 1)
    np.testing.assert_allclose(found.place, np.maximum(share, 0), rtol=1e-4, atol=1e-5)
    content = 0.0
    for token in np.unique(rows.tokens):
        own = (rows.tokens == token)[:, None, None, :] & (seen > 0)
        inside = np.where(own, apart, 0).sum((1, 3, 4))
        content = content + inside**2 / own.sum()
    np.testing.assert_allclose(found.content, content / square, rtol=1e-4)
    assert found.content.min() > 0.01


def test_attention_to_repeats_is_beyond_chance(model, rows):
    found, _ = observe(model, rows, batch_size=20)
    p = np.asarray(forward(model, rows.tokens, capture=["attn_pattern"]).trace["attn_pattern"])
    lifts = [[], []]
    for n, t in np.ndindex(*rows.tokens.shape):
        mask, count = rows.after[n, t], t + 1
        if mask.any() and mask.sum() / count < 0.7:
            chance = mask.sum() / count
            lifts[0].append((p[:, n, :, t] @ mask - chance) / (1 - chance))
        mask = rows.twin[n, t]
        if mask.any() and mask.sum() / t < 0.7:
            own, chance = p[:, n, :, t, t], mask.sum() / t
            mass = p[:, n, :, t] @ mask / np.maximum(1 - own, 0.05)
            lifts[1].append(
                np.where(own < 0.95, (mass - chance) / (1 - chance), -chance / (1 - chance))
            )
    np.testing.assert_allclose(found.induction, np.mean(lifts[0], 0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.duplicate, np.mean(lifts[1], 0), rtol=1e-3, atol=1e-5)
    assert abs(found.induction).max() > 0.01


def test_spreads_are_analyses_of_variance(model, rows):
    _, spread = observe(model, rows, batch_size=8)
    trace = forward(model, rows.tokens, capture=["head_out", "neuron"]).trace
    heads = np.asarray(trace["head_out"], np.float64)[:, :, 1:]
    neurons = np.asarray(trace["neuron"], np.float64)[:, :, 1:, :, None]
    groups = {
        "token": rows.tokens[:, 1:],
        "place": np.broadcast_to(np.arange(1, 7), (20, 6)),
        "before": rows.tokens[:, :-1],
    }
    for name, group in groups.items():
        total, between = [], []
        for value in (heads, neurons):
            mean = value.mean((1, 2), keepdims=True)
            total.append(((value - mean) ** 2).sum((1, 2, 4)).ravel())
            found = 0
            for one in np.unique(group):
                own = value[:, group == one]
                found = found + own.shape[1] * ((own.mean(1) - mean[:, 0, 0]) ** 2).sum(-1)
            between.append(found.ravel())
        np.testing.assert_allclose(spread.total, np.concatenate(total), rtol=1e-4)
        np.testing.assert_allclose(
            getattr(spread, name), np.concatenate(between), rtol=1e-3, atol=1e-5
        )
    assert spread.sizes == (120, 6, 6, 7)
    assert spread.total.min() > 0


@settings(max_examples=30)
@given(st.integers(2, 5), st.integers(0, 1000))
def test_explained_variance_lies_between_none_and_all(groups, seed):
    rng = np.random.default_rng(seed)
    label = np.resize(np.arange(groups), 40)
    for noise, least, most in ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0)):
        value = label + noise * rng.normal(size=40)
        total = np.array([((value - value.mean()) ** 2).sum()])
        between = sum(
            (label == g).sum() * (value[label == g].mean() - value.mean()) ** 2
            for g in range(groups)
        )
        share = explained(np.array([between]), total, 40, groups)[0]
        assert least - 1e-9 <= share <= most


def test_copy_scores_are_those_of_the_whole_map_between_tokens(model):
    found = copying(model)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), model.params)
    embed, unembed = p["embed"]["embedding"], p["unembed"]["kernel"]
    first, last = p["blocks"]["norm1"]["scale"], p["norm_f"]["scale"]
    attn = p["blocks"]["attn"]
    for layer, head in np.ndindex(2, 2):
        value = first[layer][:, None] * attn["v"]["kernel"][layer, :, head]
        whole = embed @ value @ attn["o"]["kernel"][layer, head] @ (last[:, None] * unembed)
        roots = np.linalg.eigvals(whole)  # (V, V): all but Dh of them are 0
        assert found[layer, head] == pytest.approx(roots.real.sum() / abs(roots).sum(), abs=1e-4)
    assert abs(found).max() > 0.05


def test_a_model_that_shares_keys_and_ties_embeddings_has_copy_scores():
    config = CONFIG.replace(n_kv_heads=1, tied=True)
    found = copying(init(config, jax.random.key(0)))
    assert found.shape == (2, 2)
    assert jnp.isfinite(found).all()
    assert abs(found).max() > 0
