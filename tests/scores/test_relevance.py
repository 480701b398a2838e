"""RelP, GIM and conductance against NumPy in float64, and against the identities they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.interventions import add, chain, replace, scale_gradient, stop_gradient
from hagd_jax.models import DecoderConfig, forward
from hagd_jax.scores import (
    METHODS,
    GradientConfig,
    Method,
    component_graph,
    conductance,
    eap,
    eap_ig,
    gim,
    gim_rules,
    mean_scores,
    prompt_scores,
    relp,
    relp_rules,
)
from hagd_jax.tasks import logit_difference, make_prompts
from hagd_jax.units import Nodes, mask_nodes, neurons
from tests.models.noise import noisy
from tests.models.test_decoder import GEMMA
from tests.scores import by_hand
from tests.transcoders.basis import neuron_basis

PLAIN = DecoderConfig(
    vocab_size=12, n_layers=2, d_model=8, n_heads=2, d_mlp=12, activation="gelu", max_positions=8,
)  # fmt: skip
GATED = DecoderConfig(
    vocab_size=12, n_layers=2, d_model=8, n_heads=4, n_kv_heads=2, d_mlp=12, norm="rms",
    positions="none", activation="silu", gated_mlp=True, qkv_bias=False, attn_out_bias=False,
    mlp_bias=False,
)  # fmt: skip
MIXTURE = GATED.replace(experts=3, experts_per_token=2)
LINEAR = DecoderConfig(
    vocab_size=12, n_layers=1, d_model=8, n_heads=2, d_mlp=6, norm="none", positions="none",
    activation="linear", parallel_residual=True,
)  # fmt: skip
CONFIGS = {"plain": PLAIN, "gated": GATED, "mixture": MIXTURE}
FAMILIES = pytest.mark.parametrize("name", CONFIGS)


def some_prompts(count=3, lengths=(5, 4, 5)):
    rng = np.random.default_rng(7)
    rows, other = ([rng.integers(0, 12, n).tolist() for n in lengths[:count]] for _ in range(2))
    return make_prompts(
        rows, other, answer=[1, 2, 3][:count], distractor=[4, 5, 6][:count], vocab_size=12
    )


PROMPTS = some_prompts()


def close(found, expected, rtol=2e-5):
    """Float32 beside float64: relative to the largest score."""
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(found, expected, atol=rtol * np.abs(expected).max())


# By hand the router is held, as the rules hold it and as the derivative does not.
PAIRS = [(n, r) for n in CONFIGS for r in ("grad", "relp", "gim") if (n, r) != ("mixture", "grad")]


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_scores_equal_a_backward_pass_by_hand(name, rule):
    """The derivative itself too, which tells that the backward pass by hand is right."""
    model = noisy(CONFIGS[name], 3)
    expected = by_hand.scores(model, PROMPTS, rule).mean(0)
    found = {"grad": eap, "relp": relp, "gim": gim}[rule](model, PROMPTS).flat()
    close(found, expected)
    if rule != "grad":
        plain = by_hand.scores(model, PROMPTS, "grad").mean(0)
        assert np.abs(plain - expected).max() > 0.05 * np.abs(expected).max()


def test_the_temperature_is_that_of_the_softmax():
    model = noisy(GATED, 3)
    expected = by_hand.scores(model, PROMPTS, "gim", temperature=5.0).mean(0)
    close(gim(model, PROMPTS, temperature=5.0).flat(), expected)
    assert np.abs(expected - by_hand.scores(model, PROMPTS, "gim").mean(0)).max() > 1e-3
    # At temperature 1, and with nothing divided, what is left is that norms are held.
    found = gim(model.replace(config=GATED.replace(norm="none")), PROMPTS, temperature=1.0,
                normalise=False)  # fmt: skip
    close(found.flat(), eap(model.replace(config=GATED.replace(norm="none")), PROMPTS).flat())


@FAMILIES
@pytest.mark.parametrize("rules", [relp_rules(), gim_rules()], ids=["relp", "gim"])
def test_rules_change_no_value(name, rules):
    model = noisy(CONFIGS[name], 3)
    plain = forward(model, PROMPTS.clean).logits
    # Factors of neurons are computed apart: the same numbers but for the order of a product.
    np.testing.assert_allclose(forward(model, PROMPTS.clean, rules).logits, plain, atol=2e-6)


def relevance(model, rules, layer=None):
    """Per prompt: the sum of value · coefficient over the stream before a layer; the metric."""
    trace = forward(model, PROMPTS.clean, capture=("embed", "resid_pre")).trace
    value = trace["embed"] if layer is None else trace["resid_pre"][layer]

    def metric(amount):
        site = replace("embed", amount) if layer is None else add("resid_pre", amount, layer=layer)
        logits = forward(model, PROMPTS.clean, chain(site, rules)).logits
        return logit_difference(logits, PROMPTS).sum()

    coefficient = jax.grad(metric)(value if layer is None else jnp.zeros_like(value))
    logits = forward(model, PROMPTS.clean).logits
    return (value * coefficient).sum((1, 2)), logit_difference(logits, PROMPTS)


# Norms after attention and MLPs and of queries and keys, windows and a soft cap of scores.
NORMS = GEMMA.replace(logit_softcap=0.0)


@pytest.mark.parametrize("config", [GATED, MIXTURE, NORMS], ids=["gated", "mixture", "norms"])
@pytest.mark.parametrize("layer", [None, 1])
def test_relevance_is_conserved_without_biases(config, layer):
    found, metric = relevance(noisy(config, 3), relp_rules(), layer)
    assert np.abs(metric).min() > 1e-2
    np.testing.assert_allclose(found, metric, rtol=1e-5, atol=1e-6)
    free, _ = relevance(noisy(config, 3), relp_rules(hold_patterns=False), layer)
    assert np.abs(free - metric).max() > 1e-3


def test_at_zero_an_activation_has_its_slope():
    """Nothing is divided by zero: all that the activation functions read is zero."""
    model = noisy(PLAIN)
    mlp = jax.tree.map(jnp.zeros_like, model.params["blocks"]["mlp"]["in"])
    blocks = model.params["blocks"]
    blocks = blocks | {"mlp": blocks["mlp"] | {"in": mlp}}
    model = model.replace(params=model.params | {"blocks": blocks})

    def metric(amount, rules):
        do = chain(rules, add("neuron_pre", amount))
        return forward(model, PROMPTS.clean, do).logits[:, -1, 0].sum()

    at = jnp.zeros(12)
    held = relp_rules()
    for site in ("neuron_act", "neuron_up"):
        assert site in held.sites
    found = jax.grad(lambda x: metric(x, chain(held)))(at)
    assert np.isfinite(found).all()
    # GELU's slope at 0 is ½, as that of the pass with norms and patterns held.
    names = [*(s for s in held.sites if s.endswith("_scale")), "attn_pattern"]
    np.testing.assert_allclose(
        jax.grad(lambda x: metric(x, stop_gradient(names)))(at), found, rtol=1e-5, atol=1e-7
    )
    assert np.abs(found).max() > 1e-3


def linear(config, seed):
    """Without norms, gates and activation functions, and with patterns that are uniform."""
    model = noisy(config, seed)
    attn = model.params["blocks"]["attn"]
    attn = attn | {"q": jax.tree.map(jnp.zeros_like, attn["q"])}
    return model.replace(params=model.params | {"blocks": model.params["blocks"] | {"attn": attn}})


def effects(model):
    """m(clean) − m(clean with one node from the counterfactual), one forward pass for each."""
    space, rows = neurons(model).space, []
    other = forward(model, PROMPTS.corrupted, capture=("head_out", "neuron")).trace
    for node in range(space.nodes + 1):
        mask = Nodes.from_flat(space, jnp.ones(space.nodes + 1).at[node].set(0)[: space.nodes])
        logits = forward(model, PROMPTS.clean, mask_nodes(mask, other)).logits
        rows.append(logit_difference(logits, PROMPTS))
    rows = np.asarray(rows, np.float64)
    return (rows[-1] - rows[:-1]).T


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", METHODS)
def test_all_methods_agree_with_ablation_in_a_linear_layer(method, seed):
    model = linear(LINEAR, seed)
    found = prompt_scores(model, PROMPTS, method=method)
    close(found.values, effects(model), rtol=1e-5)


DEEP = LINEAR.replace(n_layers=3, parallel_residual=False)


@pytest.mark.parametrize(
    "method", ["eap", "eap_ig", "relp", "conductance", Method(rules=gim_rules(normalise=False))]
)
def test_methods_agree_with_ablation_in_a_deep_linear_model(method):
    """But for two: masks share effects between nodes in series; GIM halves what passes values."""
    model = linear(DEEP, 1)
    expected = effects(model)
    close(prompt_scores(model, PROMPTS, method=method).values, expected, rtol=1e-5)


def test_gim_halves_what_passes_a_value_in_a_deep_linear_model():
    """Neurons of the last layer but one pass one attention layer: half there, all beside it."""
    model = linear(DEEP, 1)
    whole, found = effects(model), np.asarray(prompt_scores(model, PROMPTS, method="gim").values)
    last = -DEEP.d_mlp
    close(found[:, last:], whole[:, last:], rtol=1e-5)
    blocks = model.params["blocks"]
    still = jax.tree.map(lambda x: x.at[-1].set(0), blocks["attn"]["o"])
    blocks = blocks | {"attn": blocks["attn"] | {"o": still}}
    beside = effects(model.replace(params=model.params | {"blocks": blocks}))
    expected = (whole + beside) / 2
    close(found[:, 2 * last : last], expected[:, 2 * last : last], rtol=1e-5)


def cut(seed):
    """Embedding, the first layer's writes and the second's lie in three parts of the stream."""
    c = DecoderConfig(
        vocab_size=12, n_layers=2, d_model=12, n_heads=2, d_mlp=8, norm="none", positions="none",
        activation="gelu", parallel_residual=True, attn_out_bias=False, mlp_bias=False,
    )  # fmt: skip
    model, part = noisy(c, seed), np.repeat(np.arange(3), 4)
    keep = lambda *parts: jnp.asarray(np.stack([part == p for p in parts]), jnp.float32)  # noqa: E731
    reads, writes = keep(0, 1), keep(1, 2)
    p = jax.tree.map(lambda x: 1.5 * x, model.params)
    a, m = p["blocks"]["attn"], p["blocks"]["mlp"]
    attn = {n: a[n] | {"kernel": a[n]["kernel"] * reads[:, :, None, None]} for n in "qkv"}
    attn["o"] = {"kernel": a["o"]["kernel"] * writes[:, None, None]}
    mlp = {"in": {"kernel": m["in"]["kernel"] * reads[..., None]},
           "out": {"kernel": m["out"]["kernel"] * writes[:, None]}}  # fmt: skip
    return model.replace(params={
        "embed": {"embedding": p["embed"]["embedding"] * keep(0)[0]},
        "unembed": {"kernel": p["unembed"]["kernel"] * keep(2)[0][:, None]},
        "blocks": p["blocks"] | {"attn": attn, "mlp": mlp},
    })  # fmt: skip


def test_conductances_of_a_cut_sum_to_the_whole_effect():
    """Both layers are cuts; the error of the midpoint rule falls with the square of the steps."""
    model = cut(2)
    ends = [
        logit_difference(forward(model, PROMPTS.inputs(side)).logits, PROMPTS).mean()
        for side in ("clean", "corrupted")
    ]
    effect, errors = float(ends[0] - ends[1]), []
    assert abs(effect) > 0.1
    for count in (4, 16, 64):
        steps = tuple((np.arange(count) + 0.5) / count)
        scores = conductance(model, PROMPTS, GradientConfig(steps=steps)).values
        layers = np.asarray(scores.heads).sum(1) + np.asarray(scores.features).sum(1)
        errors.append(np.abs(layers - effect).max())
    assert errors[-1] < 1e-3 * abs(effect)
    assert errors[0] > 4 * errors[1]
    # Clean minus counterfactual times a mean gradient is no such sum.
    steps = tuple((np.arange(64) + 0.5) / 64)
    rival = eap_ig(model, PROMPTS, GradientConfig(steps=steps)).values
    layers = np.asarray(rival.heads).sum(1) + np.asarray(rival.features).sum(1)
    assert np.abs(layers - effect).max() > 10 * errors[-1]


@pytest.mark.parametrize("method", ["ig", "relp", "gim", "conductance"])
def test_features_that_are_neurons_have_their_scores(method):
    model = noisy(PLAIN.replace(activation="relu"), 5)
    expected = prompt_scores(model, PROMPTS, method=method).values
    found = prompt_scores(model, PROMPTS, method=method, dictionary=neuron_basis(model)).values
    close(found, expected)


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="with arrays"):
        prompt_scores(noisy(PLAIN), PROMPTS, method=Method(rules=add("v", jnp.zeros(4))))
    with pytest.raises(ConfigError, match="temperature"):
        gim_rules(0.5)
    with pytest.raises(ConfigError, match="hold_patterns"):
        relp_rules(hold_patterns=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no_such"):
        stop_gradient(["no_such"])
    with pytest.raises(ConfigError, match="factor of 'v'"):
        scale_gradient({"v": 2.0})
    with pytest.raises(ConfigError, match="method"):
        prompt_scores(noisy(PLAIN), PROMPTS, method="saliency")


@pytest.mark.parametrize(
    "metric", [lambda logits, _: logits.sum(), lambda logits, _: logits[:, -1], "logits"],
    ids=["one number", "a row of each", "text"],
)  # fmt: skip
def test_metrics_that_are_no_number_for_each_prompt_are_refused(metric):
    for scored in (relp, mean_scores, component_graph):
        with pytest.raises(InputError, match="metric"):
            scored(noisy(PLAIN), PROMPTS, metric=metric)


def test_methods_without_a_known_path_or_factor_are_refused():
    for unknown in (Method(path="mask"), Method(factor="speed")):
        with pytest.raises(ConfigError, match="of the method"):
            prompt_scores(noisy(PLAIN), PROMPTS, method=unknown)
