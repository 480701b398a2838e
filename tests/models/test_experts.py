"""Mixtures of experts: routing and neurons against NumPy in float64, held, masked and spread."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, MeshError
from hagd_jax.interventions import chain, freeze, replace
from hagd_jax.models import SITES, DecoderConfig, abstract, forward, init, mlp, preset, sorted_rows
from hagd_jax.models.experts import per_neuron, route
from hagd_jax.models.model import _forward
from hagd_jax.models.sites import NEURON_PARTS, ON_REQUEST_SITES
from hagd_jax.parallel import make_mesh
from hagd_jax.units import Nodes, Space, mask_nodes
from tests.models.noise import noisy, on_mesh
from tests.models.test_decoder import LLAMA, TOKENS

# Mixtral: in every layer two of four experts, weights that sum to one.
EACH = LLAMA.replace(d_mlp=24, experts=4, experts_per_token=2, normalise_routing=True)
# Qwen 3: weights as they are, and a layer that fills two experts and a part of the third.
STEPS = EACH.replace(
    normalise_routing=False, experts_per_token=3, qk_norm="head", dense_layers=(1,), d_dense=14
)
# So many experts that tokens are sorted by them; in STEPS and EACH it would not pay.
MANY = EACH.replace(d_mlp=64, experts=32, qk_norm="head", dense_layers=(1,), d_dense=3)
BOTH = pytest.mark.parametrize("config", [EACH, STEPS, MANY], ids=["each", "steps", "many"])


def by_hand(config, x, p, layer):
    """Router, neurons and output of one layer for (..., D) inputs, token by token and expert by
    expert as the definition has them."""
    each, dense = config.d_mlp // config.experts, layer in config.dense_layers
    router = np.zeros((*x.shape[:-1], config.experts))
    neuron, out = np.zeros((*x.shape[:-1], config.d_mlp)), np.zeros_like(x)
    for place in np.ndindex(x.shape[:-1]):
        scores = x[place] @ p["router"]["kernel"][layer]
        chances = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        chosen = np.argsort(-chances)[: config.experts_per_token]
        router[place][chosen] = chances[chosen]
        if config.normalise_routing:
            router[place] /= router[place].sum()
        if dense:
            router[place] = [float(e * each < config.d_dense) for e in range(config.experts)]
        for i in range(config.d_dense if dense else config.d_mlp):
            gate, up = (x[place] @ p[name]["kernel"][layer, :, i] for name in ("gate", "in"))
            neuron[place][i] = router[place][i // each] * gate / (1 + np.exp(-gate)) * up
        out[place] = neuron[place] @ p["out"]["kernel"][layer]
    return router, neuron, out


@BOTH
def test_a_mixture_equals_its_definition(config):
    model = noisy(config)
    # Whoever asks for factors of neurons has all experts computed; see the next test.
    trace = forward(model, TOKENS, capture=set(SITES) - NEURON_PARTS).trace
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), model.params["blocks"]["mlp"])
    for layer in range(config.n_layers):
        x = np.asarray(trace["mlp_in"][layer], np.float64)
        expected = by_hand(config, x, p, layer)
        for site, value in zip(("router", "neuron", "mlp_out"), expected, strict=True):
            assert np.abs(value).max() > 0.1
            # Values of size one, some twenty to a sum.
            np.testing.assert_allclose(trace[site][layer], value, atol=5e-6)
        chosen = (np.asarray(trace["router"][layer]) > 0).sum(-1)
        dense = -(-config.d_dense // config.d_expert)
        assert np.all(
            chosen == (dense if layer in config.dense_layers else config.experts_per_token)
        )
    np.testing.assert_allclose(trace["resid_post"], trace["resid_mid"] + trace["mlp_out"])


@BOTH
def test_neurons_are_the_products_of_their_factors(config):
    model = noisy(config)
    plain = forward(model, TOKENS, capture=["neuron"])
    out = forward(model, TOKENS, capture=["neuron", "router", *NEURON_PARTS])
    t = {site: np.asarray(value, np.float64) for site, value in out.trace.items()}
    np.testing.assert_allclose(out.logits, plain.logits, atol=1e-5)
    np.testing.assert_allclose(t["neuron"], plain.trace["neuron"], atol=5e-6)
    pre = t["neuron_pre"]
    np.testing.assert_allclose(t["neuron_act"], pre / (1 + np.exp(-pre)), atol=5e-6)
    layers = jnp.arange(config.n_layers)
    weight = jax.vmap(lambda w, i: per_neuron(w, config, i))(out.trace["router"], layers)
    assert np.abs(t["neuron"]).max() > 0.1
    product = t["neuron_act"] * t["neuron_up"] * np.asarray(weight)
    np.testing.assert_allclose(product, t["neuron"], atol=5e-6)


@BOTH
def test_a_models_own_values_change_nothing(config):
    """Bit for bit: every site frozen at its own value, each of an MLP alone, a mask of ones."""
    model = noisy(config)
    plain = forward(model, TOKENS).logits
    trace = forward(model, TOKENS, capture=set(SITES) - ON_REQUEST_SITES).trace
    np.testing.assert_array_equal(trace["logits"], plain)
    np.testing.assert_array_equal(forward(model, TOKENS, freeze(trace)).logits, plain)
    for site in ("router", "neuron", "mlp_out"):
        np.testing.assert_array_equal(forward(model, TOKENS, freeze(trace, site)).logits, plain)
    other = forward(model, TOKENS[:, ::-1], capture=("head_out", "neuron")).trace
    ones = mask_nodes(Nodes.full(Space(config.n_layers, config.n_heads, config.d_mlp), 1.0), other)
    np.testing.assert_array_equal(forward(model, TOKENS, ones).logits, plain)


def test_a_frozen_router_keeps_the_choice_and_the_weights():
    """Other prompts then use these experts with these weights; without it they use their own."""
    model = noisy(STEPS)
    own = forward(model, TOKENS, capture=["router"]).trace
    other = TOKENS[:, ::-1]
    free = forward(model, other, capture=["router", "neuron"]).trace
    held = forward(model, other, freeze(own), capture=["router", "neuron"]).trace
    np.testing.assert_array_equal(held["router"], own["router"])
    assert np.any((free["router"] > 0) != (own["router"] > 0))
    used = np.repeat(np.asarray(own["router"]) > 0, STEPS.d_expert, -1)
    assert np.abs(np.asarray(held["neuron"])[used]).max() > 0.1
    assert np.all(np.asarray(held["neuron"])[~used] == 0)


def test_a_held_router_passes_no_gradient():
    """The gradient with the router held, against differences; the free one is another."""
    model = noisy(EACH)
    x = np.random.default_rng(3).normal(size=(EACH.n_layers, 2, EACH.d_model)).astype(np.float32)
    trace = forward(model, TOKENS, capture=["router", "embed"]).trace

    def loss(embed, *held):
        return forward(model, TOKENS, chain(replace("embed", embed), *held)).logits.sum()

    router, embed = freeze(trace, "router"), trace["embed"]
    held, free = jax.grad(loss)(embed, router), jax.grad(loss)(embed)
    assert np.abs(held - free).max() > 1e-3
    step = 3e-4 * jnp.asarray(x[0, 0])
    for do, gradient in (((router,), held), ((), free)):
        moved = loss(embed.at[0, 2].add(step), *do) - loss(embed.at[0, 2].add(-step), *do)
        np.testing.assert_allclose(moved / 2, gradient[0, 2] @ step, rtol=0.02)


def test_a_router_that_is_no_number_chooses_nothing():
    scores = jnp.array([[0.3, 0.1, 0.2, 0.0], [0.3, jnp.nan, 0.2, 0.0], [jnp.inf, 0.0, 1.0, 0.0]])
    found = np.asarray(route(scores, EACH, jnp.int32(0)))
    np.testing.assert_allclose(found[0, [0, 2]].sum(), 1, atol=1e-6)
    assert np.isnan(found[1:]).all()
    assert np.isnan(per_neuron(jnp.asarray(found), EACH, jnp.int32(0))[1:]).all()
    model = noisy(EACH)
    blocks = model.params["blocks"]
    kernel = blocks["mlp"]["router"]["kernel"].at[1, 0, 3].set(jnp.nan)
    broken = model.replace(params=model.params | {
        "blocks": blocks | {"mlp": blocks["mlp"] | {"router": {"kernel": kernel}}}
    })  # fmt: skip
    assert np.isnan(forward(broken, TOKENS).logits).all()


def test_the_first_of_equal_experts_is_chosen():
    found = route(jnp.zeros((2, 4)), EACH.replace(normalise_routing=False), jnp.int32(0))
    assert found.tolist() == [[0.25, 0.25, 0, 0]] * 2


@pytest.mark.parametrize("mesh", ["data=4,model=2", "data=2,model=4", "data=8"])
@BOTH
def test_a_mesh_changes_nothing(config, mesh):
    one = noisy(config)
    many = on_mesh(one, make_mesh(mesh))
    tokens, sites = np.tile(TOKENS, (2, 1)), ["router", "neuron", "resid_post"]
    expected, found = (forward(model, tokens, capture=sites) for model in (one, many))
    np.testing.assert_allclose(found.logits, expected.logits, rtol=2e-6, atol=1e-5)
    for site, value in expected.trace.items():
        assert np.abs(value).max() > 0.1
        np.testing.assert_allclose(found.trace[site], value, rtol=2e-6, atol=1e-5)
    # Experts lie whole on their devices.
    parts = dict(part.split("=") for part in mesh.split(",")).get("model", "1")
    kernel = many.params["blocks"]["mlp"]["in"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[-1] == config.d_mlp // int(parts)


def test_a_mesh_that_would_cut_experts_is_refused():
    config = EACH.replace(experts=3)
    assert config.d_mlp % 2 == 0  # The neurons alone would divide.
    with pytest.raises(MeshError, match=r"axis 'experts' of size 3.*model=2.*Use model=1 or 3"):
        abstract(config, mesh=make_mesh("model=2"))


@BOTH
def test_a_traces_inputs_give_its_outputs(config):
    model = noisy(config)
    trace = forward(model, TOKENS, capture=["mlp_in", "mlp_out"]).trace
    found = mlp(model, trace["mlp_in"])
    assert np.all(np.abs(found).max((1, 2, 3)) > 0.1)
    np.testing.assert_allclose(found, trace["mlp_out"], atol=2e-6)


def test_a_dense_model_is_one_expert_with_weight_one():
    model = noisy(LLAMA)
    out = forward(model, TOKENS, capture=["router"])
    assert out.trace["router"].shape == (3, *TOKENS.shape, 1)
    assert np.all(out.trace["router"] == 1)
    assert np.all(out.logits == forward(model, TOKENS).logits)
    nothing = forward(model, TOKENS, replace("router", 0.0), capture=["mlp_out"]).trace["mlp_out"]
    assert np.all(nothing == 0)


@pytest.mark.parametrize("config", [STEPS, MANY], ids=["steps", "many"])
def test_only_structure_recompiles(config):
    tokens = jnp.asarray(TOKENS)
    forward(noisy(config), tokens)
    size = _forward._cache_size()  # type: ignore[attr-defined]
    forward(noisy(config, seed=1), tokens[::-1])
    assert _forward._cache_size() == size  # type: ignore[attr-defined]


def test_tokens_are_sorted_where_it_pays():
    tokens = TOKENS.size
    assert sorted_rows.size(MANY, tokens) == (2, 8, 37)
    assert sorted_rows.size(EACH, tokens) is None
    assert sorted_rows.size(EACH.replace(experts_per_token=4), 10**6) is None
    router = np.zeros((tokens, 32), np.float32)
    router[:, 5] = router[3:, 7] = 0.5
    router[:3, 9] = 0.25
    rows = sorted_rows.sort(jnp.asarray(router), sorted_rows.Size(2, 8, 37))
    assert rows.expert[:7].tolist() == [5, 5, 5, 7, 7, 7, 9]
    own = np.asarray(rows.token)
    assert own[:3].ravel().tolist() == [*range(20), *[tokens] * 4]
    assert own[3:6].ravel().tolist() == [*range(3, 20), *[tokens] * 7]
    assert own[6].tolist() == [0, 1, 2, *[tokens] * 5]
    assert np.all(own[7:] == tokens)
    np.testing.assert_array_equal(
        own.ravel()[np.asarray(rows.place)], np.arange(20)[:, None] + [[0, 0]]
    )


def test_sorted_tokens_compute_what_all_experts_do():
    """A mesh, even of one device, computes all experts: values, gradients and batches of passes."""
    by_rows = noisy(MANY)
    by_all = on_mesh(by_rows, make_mesh("model=1", devices=jax.devices()[:1]))
    embed = forward(by_rows, TOKENS, capture=["embed"]).trace["embed"]
    some = jnp.stack([embed, embed[::-1]])
    weight = jax.random.normal(jax.random.key(1), (MANY.vocab_size,))

    def loss(params, embed, model):
        out = forward(model.replace(params=params), TOKENS, replace("embed", embed))
        return (out.logits @ weight).mean()

    def every(model):
        each = lambda x: jax.value_and_grad(loss, (0, 1))(model.params, x, model)  # noqa: E731
        return jax.jit(jax.vmap(each))(some)

    found, expected = every(by_rows), every(by_all)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        # Sums of a hundred values of size one, in another order.
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-4)
    blocks = jax.tree.leaves(expected[1][0]["blocks"])
    assert all(np.abs(leaf).max() > 1e-4 for leaf in blocks)


@pytest.mark.parametrize("site", ["router", "neuron"])
def test_experts_that_no_token_chose_count_when_they_are_written(site):
    """Every expert, or every neuron, switched on from outside: what they write, by NumPy."""
    model = noisy(MANY)
    value = jnp.linspace(0.1, 0.2, 32 if site == "router" else 64)
    t = forward(
        model, TOKENS, replace(site, value), capture=["mlp_in", "router", "neuron", "mlp_out"]
    ).trace
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), model.params["blocks"]["mlp"])
    x = np.asarray(t["mlp_in"], np.float64)
    if site == "neuron":
        neuron = np.broadcast_to(np.asarray(value, np.float64), t["neuron"].shape)
    else:
        gate, up = (np.einsum("lbtd,ldm->lbtm", x, p[name]["kernel"]) for name in ("gate", "in"))
        neuron = np.repeat(np.asarray(value, np.float64), 2) * gate / (1 + np.exp(-gate)) * up
        neuron[1, ..., MANY.d_dense :] = 0
    np.testing.assert_allclose(t["neuron"], neuron, atol=5e-6)
    written = np.einsum("lbtm,lmd->lbtd", neuron, p["out"]["kernel"])
    assert np.all(np.abs(written).max((1, 2, 3)) > 0.02)
    np.testing.assert_allclose(t["mlp_out"], written, atol=1e-5)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b"])
def test_a_published_mixture_is_planned_on_a_mesh(name):
    """Shapes alone: nothing of it is allocated."""
    model = abstract(preset(name), mesh=make_mesh("data=2,model=4"), dtype=jnp.bfloat16)
    tokens = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    for of in (model, model.replace(mesh=None)):
        out = jax.eval_shape(lambda tokens, of=of: forward(of, tokens, capture=["router"]), tokens)
        assert out.trace["router"].shape == (model.config.n_layers, 2, 64, model.config.experts)
    parts = [leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(model.params)]
    held, whole = sum(map(math.prod, parts)), sum(x.size for x in jax.tree.leaves(model.params))
    assert whole / 8 <= held < 1.02 * whole / 8


def test_fresh_layers_without_a_mixture_have_no_other_parameters():
    """What they do not use is zero, as it is after files: only then digests agree."""
    params = init(STEPS, jax.random.key(0)).params["blocks"]["mlp"]
    assert np.all(params["router"]["kernel"][1] == 0)
    for name in ("gate", "in"):
        assert np.all(params[name]["kernel"][1, :, 14:] == 0)
        assert np.all(params[name]["kernel"][:, :, :14] != 0)
    assert np.all(params["out"]["kernel"][1, 14:] == 0)
    assert np.all(params["out"]["kernel"][0] != 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experts": -1}, "experts: got -1"),
        ({"experts": 5}, "d_mlp: got 24; expected a multiple of experts = 5"),
        ({"experts": 0}, "experts_per_token: got 2; expected none without experts"),
        ({"experts_per_token": 0}, "experts_per_token: got 0; expected 1 to experts = 4"),
        ({"experts_per_token": 5}, "experts_per_token: got 5"),
        ({"normalise_routing": 1}, "normalise_routing: got 1; expected True or False"),
        ({"mlp_bias": True}, "mlp_bias: got True; expected False with experts"),
        ({"d_dense": 3}, "d_dense: got 3; expected from 0 to 0"),
        ({"dense_layers": (1,)}, "d_dense: got 0; expected from 1 to 24"),
        ({"dense_layers": (1,), "d_dense": 25}, "d_dense: got 25"),
        ({"dense_layers": (3,), "d_dense": 4}, "dense_layers: got .*from 0 to 2"),
        ({"dense_layers": (1, 0), "d_dense": 4}, "dense_layers"),
        ({"dense_layers": [1], "d_dense": 4}, "dense_layers"),
        ({"dense_layers": (0, 1, 2), "d_dense": 4}, "dense_layers: .*at least one layer"),
    ],
)
def test_impossible_mixtures_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        EACH.replace(**change)


def test_an_ungated_mixture_has_its_own_activation():
    config = DecoderConfig(
        vocab_size=9, n_layers=1, d_model=8, n_heads=2, d_mlp=12, mlp_bias=False, experts=3,
        experts_per_token=1, activation="relu",
    )  # fmt: skip
    model = noisy(config)
    t = forward(model, TOKENS, capture=["mlp_in", "router", "neuron"]).trace
    kernel = model.params["blocks"]["mlp"]["in"]["kernel"][0]
    active = np.maximum(np.asarray(t["mlp_in"][0], np.float64) @ np.asarray(kernel), 0)
    weight = np.repeat(np.asarray(t["router"][0]), 4, -1)
    assert np.abs(t["neuron"]).max() > 0.01
    np.testing.assert_allclose(t["neuron"][0], active * weight, atol=1e-6)
