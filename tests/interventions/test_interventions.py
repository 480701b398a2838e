"""Freeze, mask, add and replace: against hand-made rewrites and linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.interventions import (
    add,
    chain,
    freeze,
    mean_alternative,
    replace,
    resample_alternative,
    zero_alternative,
)
from hagd_jax.models import BLOCK_SITES, SITES, forward
from hagd_jax.models.intervention import check
from hagd_jax.models.sites import site_shape
from hagd_jax.units import Nodes, Space, mask_nodes
from tests.models.noise import noisy
from tests.models.test_decoder import LLAMA, NEOX, TOKENS

OTHER = TOKENS[:, ::-1]
SPACE = Space(layers=3, heads=4, features=32)
NODE_SITES = ("head_out", "neuron")


def distance(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=["llama", "neox"])
def test_frozen_patterns_scales_and_mlps_leave_a_linear_map(config):
    """f(x + d) − f(x) is the same for every x, and twice as large for 2d."""
    model = noisy(config)
    sites = ("attn_pattern", "norm1_scale", "norm2_scale", "normf_scale", "mlp_out")
    hold = freeze(forward(model, TOKENS, capture=sites).trace)
    d = jax.random.normal(jax.random.key(5), (config.d_model,))

    def logits(*shifts):
        edits = [add("embed", jnp.asarray(shift)) for shift in shifts]
        return forward(model, TOKENS, chain(hold, *edits)).logits

    base, once, twice = logits(0 * d, 0 * d), logits(d, 0 * d), logits(d, d)
    shifted = logits(d, jnp.ones(config.d_model)) - logits(0 * d, jnp.ones(config.d_model))
    assert distance(once, base) > 0.1
    np.testing.assert_allclose(twice - base, 2 * (once - base), atol=5e-5)
    np.testing.assert_allclose(shifted, once - base, atol=5e-5)
    free = forward(model, TOKENS, add("embed", 2 * d)).logits - forward(model, TOKENS).logits
    assert distance(free, 2 * (once - base)) > 1e-2


def test_freezing_the_stream_of_another_prompt_gives_its_logits():
    model = noisy(LLAMA)
    theirs = forward(model, OTHER, capture=["resid_post"])
    found = forward(model, TOKENS, freeze(theirs.trace)).logits
    np.testing.assert_allclose(found, theirs.logits, atol=2e-6)
    assert distance(found, forward(model, TOKENS).logits) > 0.1


def test_freezing_every_site_of_another_prompt_gives_its_logits():
    model = noisy(NEOX)
    theirs = forward(model, OTHER, capture=SITES)
    np.testing.assert_array_equal(
        forward(model, TOKENS, freeze(theirs.trace)).logits, theirs.logits
    )


@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=["llama", "neox"])
def test_masking_everything_below_the_embedding(config):
    """All nodes from another prompt: the stream is own embedding plus its writes."""
    model = noisy(config)
    theirs = forward(model, OTHER, capture=["attn_out", "mlp_out", "head_out", "neuron"]).trace
    own = forward(model, TOKENS, capture=["embed"]).trace["embed"]
    mask = Nodes.full(Space(config.n_layers, config.n_heads, config.d_mlp), False)
    found = forward(model, TOKENS, mask_nodes(mask, theirs), capture=["resid_final"])
    expected = own + theirs["attn_out"].sum(0) + theirs["mlp_out"].sum(0)
    assert distance(expected, own) > 0.1
    np.testing.assert_allclose(found.trace["resid_final"], expected, atol=1e-5)


def test_a_mask_for_one_node_edits_that_node_alone():
    model = noisy(LLAMA)
    trace = forward(model, TOKENS, capture=NODE_SITES).trace
    mask = Nodes.full(SPACE, 1.0)
    heads, neurons = np.array(mask.heads), np.array(mask.features)
    heads[1, 2], neurons[2, 5] = 0, 0.25
    other = jax.tree.map(lambda x: x[:, ::-1], dict(trace))
    masked = mask_nodes(Nodes(jnp.asarray(heads), jnp.asarray(neurons)), other)
    out = forward(model, TOKENS, masked, capture=NODE_SITES).trace
    by_hand_head = np.array(trace["head_out"][1])
    by_hand_head[:, :, 2] = other["head_out"][1][:, :, 2]
    np.testing.assert_array_equal(out["head_out"][0], trace["head_out"][0])
    np.testing.assert_array_equal(out["head_out"][1], by_hand_head)
    stream = forward(model, TOKENS, replace("head_out", by_hand_head, layer=1), capture=NODE_SITES)
    fresh = np.array(stream.trace["neuron"][2])
    fresh[..., 5] = 0.25 * fresh[..., 5] + 0.75 * np.asarray(other["neuron"][2])[..., 5]
    np.testing.assert_allclose(out["neuron"][2], fresh, atol=1e-6)


def test_a_mask_may_differ_between_prompts():
    model = noisy(LLAMA)
    other = forward(model, OTHER, capture=NODE_SITES).trace
    rng = np.random.default_rng(0)
    each = [
        Nodes(jnp.asarray(rng.random((3, 4))), jnp.asarray(rng.random((3, 32)))) for _ in TOKENS
    ]
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows, axis=1), *each)
    together = forward(model, TOKENS, mask_nodes(stacked, other)).logits
    for row, mask in enumerate(each):
        alone = forward(model, TOKENS, mask_nodes(mask, other)).logits[row]
        np.testing.assert_allclose(together[row], alone, atol=2e-6)


def test_alternatives_equal_numpy():
    model = noisy(NEOX)
    trace = forward(model, TOKENS, capture=NODE_SITES).trace
    weight = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]])
    mean = mean_alternative(trace, jnp.asarray(weight, jnp.float32))
    for site in NODE_SITES:
        value = np.asarray(trace[site], np.float64)
        for t in range(5):
            rows, columns = np.nonzero(weight) if t == 4 else (np.flatnonzero(weight[:, t]), t)
            expected = value[:, rows, columns].mean(1)
            np.testing.assert_allclose(mean[site][:, 0, t], expected, atol=1e-6)
        assert np.all(zero_alternative(trace)[site] == 0)
        order = jnp.array([1, 2, 3, 0])
        np.testing.assert_array_equal(
            resample_alternative(trace, order)[site], trace[site][:, [1, 2, 3, 0]]
        )


@pytest.mark.parametrize("site", ["resid_post", "attn_pattern", "neuron", "logits", "embed"])
def test_edits_touch_their_layer_and_positions_only(site):
    model = noisy(LLAMA)
    where = [False, True, False, True, False]
    inside = site not in ("logits", "embed")
    layer = 2 if inside else None
    before = forward(model, TOKENS, capture=[site]).trace[site]
    after = forward(
        model, TOKENS, add(site, jnp.float32(0.5), layer=layer, positions=where), capture=[site]
    ).trace[site]
    changed = np.asarray(after - before)
    axis = 2 if site == "attn_pattern" else 1
    here = changed[2] if inside else changed
    at = np.moveaxis(here, axis, 0)
    np.testing.assert_allclose(at[where], 0.5, atol=1e-6)
    assert np.all(at[np.logical_not(where)] == 0)
    if inside:
        assert np.all(changed[:2] == 0)


def test_an_edit_without_a_layer_reaches_all():
    model = noisy(LLAMA)
    trace = forward(model, TOKENS, replace("neuron", jnp.arange(32.0)), capture=["neuron"]).trace
    np.testing.assert_array_equal(trace["neuron"], np.broadcast_to(np.arange(32.0), (3, 4, 5, 32)))


def test_nodes_flatten_and_count():
    scores = Nodes(np.arange(12.0).reshape(3, 4), np.arange(96.0).reshape(3, 32))
    flat = scores.flat()
    assert len(flat) == SPACE.nodes == 108
    assert scores.space == SPACE
    back = Nodes.from_flat(SPACE, flat)
    np.testing.assert_array_equal(back.heads, scores.heads)
    np.testing.assert_array_equal(back.features, scores.features)
    assert bool((~Nodes.full(SPACE, True)).flat().any()) is False


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: add("resid_pots", 1.0), ConfigError, "resid_post"),
        (lambda: add("embed", float("nan")), InputError, "NaN"),
        (lambda: add("embed", 1.0, layer=-1), InputError, "layer"),
        (lambda: add("embed", 1.0, layer=0), InputError, "got 0.*outside the blocks"),
        (lambda: freeze({"neuron": 1}, ["head_out"]), InputError, "Add it to `capture`"),
        (lambda: freeze({"nuron": 1}), ConfigError, "neuron"),
        (lambda: mask_nodes(Nodes.full(SPACE, 1.0), {"neuron": 0}), InputError, "head_out"),
    ],
)
def test_bad_input_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def nodes_of(**changes):
    """The parts of a fitting `mask_nodes`, some of them changed."""
    shapes = {
        "heads": (3, 4), "neurons": (3, 32), "head_out": (3, 1, 1, 4, 4), "neuron": (3, 4, 5, 32),
    } | changes  # fmt: skip
    made = {name: jnp.ones(shape) for name, shape in shapes.items()}
    return mask_nodes(Nodes(made.pop("heads"), made.pop("neurons")), made)


FITTING = {
    "a scalar": add("logits", 1.0),
    "one prompt's own vector": replace("mlp_out", jnp.zeros((4, 1, 16)), layer=2),
    "a mask for each prompt": nodes_of(heads=(3, 4, 4), neurons=(3, 1, 32)),
}
MISFITS = {
    "layer: got 3; expected from 0 to 2": add("neuron", 1.0, layer=3),
    r"positions: got shape \(4,\); expected \(5,\)": add("neuron", 1.0, positions=[True] * 4),
    r"'neuron': got shape \(31,\).*\(4, 5, 32\)": replace("neuron", jnp.zeros(31)),
    r"'resid_pre': got shape \(2, 4, 5, 16\)": add("resid_pre", jnp.zeros((2, 4, 5, 16))),
    r"frozen 'mlp_out': got shape \(3, 4, 4, 16\)": freeze({"mlp_out": jnp.zeros((3, 4, 4, 16))}),
    r"frozen 'embed': .* expected \(4, 5, 16\)": freeze({"embed": jnp.zeros((1, 5, 16))}),
    r"mask of heads: got shape \(3, 5\); expected \(3, 4\)": nodes_of(heads=(3, 5)),
    r"mask of neurons: got shape \(3, 3, 32\).* 4 prompts": nodes_of(neurons=(3, 3, 32)),
    r"alternative of heads.*\(1, 1, 3, 4\); .* \(4, 5, 4, 4\)": nodes_of(head_out=(3, 1, 1, 3, 4)),
    r"alternative of neurons.*\(4, 6, 32\)": nodes_of(neuron=(3, 4, 6, 32)),
}


@pytest.mark.parametrize("name", FITTING)
def test_what_fits_is_let_through(name):
    check(chain(FITTING[name]), LLAMA, TOKENS.shape)


@pytest.mark.parametrize("words", MISFITS)
def test_what_does_not_fit_is_named_before_tracing(words):
    with pytest.raises(InputError, match=words):
        forward(noisy(LLAMA), TOKENS, chain(add("embed", 0.0), MISFITS[words]))


def test_fit_is_checked_inside_a_transformation():
    """Layers may be traced, and a batch of vectors counts as one vector each."""
    model = noisy(LLAMA)

    def logits(layer, vector):
        edit = add("mlp_out", vector).replace(layer=jnp.int32(layer))
        return forward(model, TOKENS, edit).logits

    steered = jax.vmap(logits, (0, None))(jnp.array([1, 2]), jnp.ones(16))
    assert distance(steered[0], steered[1]) > 1e-3
    with pytest.raises(InputError, match=r"shape \(15,\)"):
        jax.vmap(logits, (None, 0))(1, jnp.zeros((2, 15)))


@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=["llama", "neox"])
def test_site_shapes_are_those_of_a_trace(config):
    found = jax.eval_shape(lambda: forward(noisy(config), TOKENS, capture=SITES).trace)
    for site, value in found.items():
        leading = (config.n_layers,) if site in BLOCK_SITES else ()
        assert value.shape == (*leading, *site_shape(site, config, *TOKENS.shape))
