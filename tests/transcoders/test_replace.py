"""Transcoders inside a forward pass, against float64 NumPy that visits layer after layer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import InputError
from hagd_jax.interventions import add, chain
from hagd_jax.models import forward
from hagd_jax.parallel import make_mesh
from hagd_jax.transcoders import (
    Transcoder,
    TranscoderConfig,
    decode,
    encode,
    errors,
    mask_features,
    param_specs,
    replace_mlps,
    transcoder,
)
from hagd_jax.transcoders.graph import layer_graph
from tests.models.noise import noisy, on_mesh
from tests.models.test_decoder import LLAMA, NEOX, TOKENS

DEEP = LLAMA.replace(n_layers=4)
BASE = TranscoderConfig(n_layers=4, d_model=16, n_features=24, k=5, activation="topk")
CASES = {
    "layers": BASE,
    "window": BASE.replace(window=2),
    "full": BASE.replace(window=3),
    "skip": BASE.replace(window=1, skip=True, activation="relu", k=0),
    "jump": BASE.replace(window=1, activation="jump_relu", k=0, reads="resid_mid"),
}
ALL = sorted(CASES)


def made(config, seed=3, mesh=None):
    """A transcoder whose every parameter is noise."""
    rng = np.random.default_rng(seed)
    params = {
        name: jnp.asarray(rng.normal(0, 0.3, spec.shape), jnp.float32)
        for name, spec in param_specs(config).items()
    }
    return Transcoder(params, config)


def sites(config):
    return (config.reads, "mlp_out")


class Plain:
    """A transcoder in float64, one prompt's layers at a time."""

    def __init__(self, transcoder):
        self.config = transcoder.config
        self.p = {name: np.asarray(x, np.float64) for name, x in transcoder.params.items()}

    def features(self, layer, x):
        pre = x @ self.p["W_enc"][layer].T + self.p["b_enc"][layer]
        if self.config.activation == "jump_relu":
            return np.where(pre > self.p["threshold"][layer], pre, 0)
        positive = np.maximum(pre, 0)
        if self.config.activation == "topk":
            last = np.sort(positive, -1)[..., -self.config.k, None]
            positive = np.where(positive >= last, positive, 0)
        return positive

    def written(self, layer, features):
        """Σ over incoming edges; `features` holds those of the layers up to this one."""
        graph = layer_graph(self.config)
        edges = enumerate(zip(graph.senders, graph.receivers, strict=True))
        return sum(features[a] @ self.p["W_dec"][e] for e, (a, b) in edges if b == layer)

    def output(self, layer, features, x):
        skip = x @ self.p["W_skip"][layer].T if self.config.skip else 0
        return self.written(layer, features) + self.p["b_dec"][layer] + skip


def mlp_outputs(model, intervention, config):
    """What the layers read and write in a rewritten pass."""
    out = forward(model, TOKENS, intervention, capture=sites(config))
    return out.logits, *(np.asarray(out.trace[s], np.float64) for s in sites(config))


@pytest.mark.parametrize(
    ("decoder", "case"), [*((DEEP, case) for case in ALL), (NEOX.replace(n_layers=4), "jump")]
)
def test_replacement_is_the_reconstruction_of_what_this_pass_reads(decoder, case):
    model, dictionary = noisy(decoder), made(CASES[case])
    logits, x, out = mlp_outputs(model, replace_mlps(dictionary), CASES[case])
    plain, seen = Plain(dictionary), []
    for layer in range(4):
        seen.append(plain.features(layer, x[layer]))
        # Float32 sums of 24 features along up to four edges.
        np.testing.assert_allclose(out[layer], plain.output(layer, seen, x[layer]), atol=2e-5)
    assert np.abs(np.stack(seen)).sum(-1).min() > 0
    clean = forward(model, TOKENS, capture=sites(CASES[case]))
    assert np.abs(np.asarray(clean.logits - logits)).max() > 0.1
    # The first layer reads what it always read; the next ones read something else.
    np.testing.assert_array_equal(clean.trace[CASES[case].reads][0], np.float32(x[0]))
    assert np.abs(np.asarray(clean.trace[CASES[case].reads][3]) - x[3]).max() > 0.1


@pytest.mark.parametrize("case", ["layers", "window", "skip"])
def test_with_its_errors_the_model_comes_back(case):
    model, dictionary = noisy(DEEP), made(CASES[case])
    clean = forward(model, TOKENS, capture=sites(CASES[case]))
    error = errors(dictionary, clean.trace)
    assert np.abs(np.asarray(error)).max() > 0.5
    x, out = (np.asarray(clean.trace[s], np.float64) for s in sites(CASES[case]))
    plain = Plain(dictionary)
    found = [plain.features(layer, x[layer]) for layer in range(4)]
    expected = np.stack([out[i] - plain.output(i, found, x[i]) for i in range(4)])
    np.testing.assert_allclose(error, expected, atol=2e-5)
    again = forward(model, TOKENS, replace_mlps(dictionary, error=error)).logits
    np.testing.assert_allclose(again, clean.logits, atol=1e-4)
    # It stays what it was when something moves; only the features answer.
    moved = forward(model, TOKENS, chain(add("embed", 0.5), replace_mlps(dictionary, error=error)))
    assert np.abs(np.asarray(moved.logits - clean.logits)).max() > 0.1


@pytest.mark.parametrize("case", ["layers", "full", "jump"])
def test_masks_of_ones_are_exact(case):
    model, dictionary = noisy(DEEP), made(CASES[case])
    alternative = jax.random.normal(jax.random.key(0), (4, 4, 5, 24))
    ones = jnp.ones((4, 24))
    plain = forward(model, TOKENS).logits
    found = forward(model, TOKENS, mask_features(dictionary, ones, alternative)).logits
    np.testing.assert_array_equal(found, plain)
    replaced = forward(model, TOKENS, replace_mlps(dictionary)).logits
    alone = mask_features(dictionary, ones, alternative, keep_error=False)
    np.testing.assert_allclose(forward(model, TOKENS, alone).logits, replaced, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "keep_error"), [*((case, True) for case in ALL), ("full", False), ("skip", False)]
)
def test_masked_features_move_what_they_write(case, keep_error):
    """Each prompt has its own mask; the true MLP runs on what this pass reads."""
    model, dictionary, rng = noisy(DEEP), made(CASES[case]), np.random.default_rng(0)
    mask, alternative = rng.random((4, 4, 24)), rng.random((4, 4, 5, 24))
    edit = mask_features(dictionary, mask, alternative, keep_error=keep_error)
    capture = {CASES[case].reads, "mlp_in", "mlp_out", "neuron"}
    trace = forward(model, TOKENS, edit, capture=capture).trace
    t = {site: np.asarray(value, np.float64) for site, value in trace.items()}
    w_out = np.asarray(model.params["blocks"]["mlp"]["out"]["kernel"], np.float64)
    plain, amounts = Plain(dictionary), []
    for layer in range(4):
        x = t[CASES[case].reads][layer]
        own = plain.features(layer, x)
        m = mask[layer][:, None]
        if keep_error:
            amounts.append((1 - m) * (alternative[layer] - own))
            expected = t["neuron"][layer] @ w_out[layer] + plain.written(layer, amounts)
        else:
            amounts.append(m * own + (1 - m) * alternative[layer])
            expected = plain.output(layer, amounts, x)
        np.testing.assert_allclose(t["mlp_out"][layer], expected, atol=2e-5)
    assert np.abs(np.stack(amounts)).sum() > 10


def test_one_masked_feature_reaches_the_layers_of_its_edges_alone():
    model, dictionary = noisy(DEEP), made(CASES["window"])
    clean = forward(model, TOKENS, capture=["mlp_in", "neuron"]).trace
    mask = np.ones((4, 24))
    own = np.asarray(encode(dictionary, clean["mlp_in"]))
    feature = int(np.argmax(own[1].sum((0, 1))))
    mask[1, feature] = 0
    alternative = np.zeros((4, 1, 1, 24))
    out = forward(
        model, TOKENS, mask_features(dictionary, mask, alternative),
        capture=["mlp_in", "mlp_out", "neuron"],
    ).trace  # fmt: skip
    w_out = np.asarray(model.params["blocks"]["mlp"]["out"]["kernel"])
    extra = np.asarray(out["mlp_out"]) - np.einsum("lbtm,lmd->lbtd", out["neuron"], w_out)
    w_dec = np.asarray(dictionary.params["W_dec"])
    amount = -own[1][..., feature, None]
    # Edges of layer 1 are 3 to 5: to layers 1, 2 and 3.
    writes = [amount * w_dec[edge, feature] for edge in (3, 4, 5)]
    expected = np.stack([0 * writes[0], *writes])
    np.testing.assert_allclose(extra, expected, atol=1e-5)
    assert np.abs(extra[3]).max() > 0.05


@pytest.mark.parametrize("case", ["full", "skip"])
def test_gradients_equal_differences(case):
    """Of masks, and of the transcoder's weights through the whole model."""
    model, dictionary = noisy(DEEP), made(CASES[case])
    alternative = jnp.asarray(np.random.default_rng(1).random((4, 4, 5, 24)), jnp.float32)
    goal = jax.random.normal(jax.random.key(7), (4, 24))

    def loss(mask, params):
        edit = mask_features(dictionary.replace(params=params), mask, alternative, keep_error=False)
        return jnp.sum(goal * forward(model, TOKENS, edit, remat=True).logits[:, -1])

    mask = jnp.full((4, 24), 0.5)
    slopes = jax.jit(jax.grad(loss, (0, 1)))(mask, dictionary.params)
    value, last = jax.jit(loss), len(dictionary.params["W_dec"]) - 1

    def slope(name, where):
        """Short steps, so that few features switch on or off between them."""
        ends = []
        for step in (1e-3, -1e-3):
            if name == "mask":
                ends.append(value(mask.at[where].add(step), dictionary.params))
            else:
                moved = dictionary.params[name].at[where].add(step)
                ends.append(value(mask, dictionary.params | {name: moved}))
        return (ends[0] - ends[1]) / 2e-3

    # Float32 differences over 2e-3 of a sum of 96 logits: about 0.01 of noise.
    for where in [(0, 3), (3, 7)]:
        np.testing.assert_allclose(slopes[0][where], slope("mask", where), rtol=0.02, atol=0.05)
    for name, where in [("W_dec", (0, 2, 3)), ("W_dec", (last, 2, 3)), ("b_dec", (2, 1))]:
        found = slopes[1][name][where]
        np.testing.assert_allclose(found, slope(name, where), rtol=0.02, atol=0.05)
    assert all(np.abs(np.asarray(g)).max() > 0.1 for g in slopes[1].values())
    assert np.abs(np.asarray(slopes[0])).max() > 0.5


@pytest.mark.parametrize(("case", "prompts"), [("layers", 3), ("full", 4)])
def test_a_mesh_changes_nothing(case, prompts):
    """Three prompts of five tokens do not divide the mesh; four do."""
    one, dictionary = noisy(DEEP), made(CASES[case])
    rng, tokens = np.random.default_rng(1), TOKENS[:prompts]
    alternative = jnp.asarray(rng.random((4, prompts, 5, 24)), jnp.float32)
    mask = jnp.asarray(rng.random((4, 24)), jnp.float32)
    mesh = make_mesh("data=4,model=2")
    many = on_mesh(one, mesh)
    wide = dataclasses.replace(
        dictionary,
        params=jax.device_put(dictionary.params, transcoder.shardings(dictionary.config, mesh)),
        mesh=mesh,
    )
    for make in (replace_mlps, lambda d: mask_features(d, mask, alternative)):
        expected = forward(one, tokens, make(dictionary)).logits
        assert np.abs(np.asarray(expected)).max() > 0.1
        np.testing.assert_allclose(forward(many, tokens, make(wide)).logits, expected, atol=1e-5)


def test_what_does_not_fit_is_named_before_tracing():
    model, dictionary = noisy(DEEP), made(BASE)
    other = made(BASE.replace(d_model=12))
    with pytest.raises(InputError, match=r"4 layers of d_model 12.*4 layers of d_model 16"):
        forward(model, TOKENS, replace_mlps(other))
    with pytest.raises(InputError, match=r"mask of features: got shape \(4, 23\)"):
        forward(model, TOKENS, mask_features(dictionary, np.ones((4, 23)), 0.0 * np.ones((4, 1))))
    edit = mask_features(dictionary, np.ones((4, 24)), np.ones((4, 4, 6, 24)))
    with pytest.raises(InputError, match=r"alternative of features.*\(4, 6, 24\)"):
        forward(model, TOKENS, edit)
    with pytest.raises(InputError, match=r"error, in each layer.*\(4, 5, 16\)"):
        forward(model, TOKENS, replace_mlps(dictionary, error=np.ones((4, 4, 5, 15))))
    with pytest.raises(InputError, match="Add it to `capture`"):
        errors(dictionary, {"mlp_in": np.ones((4, 4, 5, 16))})


def test_new_weights_do_not_compile_again():
    from hagd_jax.models.model import _forward

    model = noisy(DEEP)
    forward(model, TOKENS, replace_mlps(made(CASES["window"])))
    before = _forward._cache_size()
    forward(model, TOKENS, replace_mlps(made(CASES["window"], seed=9)))
    assert _forward._cache_size() == before


def test_decoding_in_a_pass_is_decoding_outside():
    """The reconstruction of the first layers, which read what they always read."""
    model, dictionary = noisy(DEEP), made(CASES["window"])
    x = forward(model, TOKENS, capture=["mlp_in"]).trace["mlp_in"]
    whole = decode(dictionary, encode(dictionary, x), x)
    inside = forward(model, TOKENS, replace_mlps(dictionary), capture=["mlp_out"]).trace["mlp_out"]
    np.testing.assert_allclose(inside[0], whole[0], atol=1e-5)
