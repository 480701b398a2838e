"""Evaluation against float64 NumPy, token by token."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from hagd_jax.errors import InputError
from hagd_jax.interventions import freeze
from hagd_jax.models import forward, mlp
from hagd_jax.parallel import make_mesh
from hagd_jax.transcoders.measures.evaluation import BIN_EDGES, Evaluation, histogram
from hagd_jax.transcoders.measures.measure import Sums, measure
from hagd_jax.transcoders.transcoder import Transcoder, encode, param_specs, shardings
from tests.models.noise import noisy, on_mesh
from tests.transcoders.test_replace import CASES, DEEP, Plain, made
from tests.transcoders.text import Batch, plain_features, split, text

TEXT = text()
HALVES = split(TEXT, [3, 3])
EXACT = ("tokens", "l0", "dead", "histogram")
CLOSE = ("fvu", "jacobian", "loss", "loss_replaced", "loss_ablated", "layer_loss")


@pytest.fixture(scope="module")
def model():
    return noisy(DEEP, 1)


@pytest.fixture(scope="module", params=["layers", "full", "skip", "jump"])
def measured(request, model):
    """A transcoder, and what `measure` says of it; batches of one shape compile once."""
    transcoder = made(CASES[request.param])
    return transcoder, measure(transcoder, model, HALVES, each_layer=True)


@pytest.fixture(scope="module")
def simple(model):
    return measure(made(CASES["layers"]), model, HALVES, each_layer=True)


def cross_entropy(logits, batch):
    """Mean over tokens that count, in float64."""
    logits = np.asarray(logits, np.float64)[:, :-1]
    shifted = logits - logits.max(-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    found = np.take_along_axis(logp, batch.tokens[:, 1:, None], -1)[..., 0]
    weight = batch.weight[:, 1:].astype(np.float64)
    return -(found * weight).sum() / weight.sum()


def replaced_logits(model, transcoder, batch, layers, ablate=False):
    """Layer after layer: read what a pass with the layers below held fixed shows, and hold it."""
    sites, plain = (transcoder.config.reads, "mlp_out"), Plain(transcoder)
    held = np.zeros((model.config.n_layers, *batch.tokens.shape, model.config.d_model))
    features = []
    for layer in range(model.config.n_layers):
        # What is held above this layer has no effect on what it reads.
        trace = forward(
            model, batch.tokens, freeze({"mlp_out": jnp.asarray(held, jnp.float32)}), sites[:1]
        ).trace
        x = np.asarray(trace[sites[0]][layer], np.float64)
        features.append(plain.features(layer, x))
        new = 0 * x if ablate else plain.output(layer, features, x)
        own = own_output(model, batch, held, layer)
        acts = (batch.weight > 0)[..., None] & (layer in layers)
        held[layer] = np.where(acts, new, own)
    return forward(model, batch.tokens, freeze({"mlp_out": jnp.asarray(held, jnp.float32)})).logits


def own_output(model, batch, held, layer):
    """The MLP's own output where the layers below are held."""
    trace = forward(
        model, batch.tokens, freeze({"mlp_out": jnp.asarray(held, jnp.float32)}), ["mlp_in"]
    ).trace
    return np.asarray(mlp(model, trace["mlp_in"])[layer], np.float64)


def test_ratios_are_those_of_float64(measured, model):
    case, found = measured
    features, outputs, truth = plain_features(case, model, TEXT)
    weight = TEXT.weight.astype(np.float64)
    total = weight.sum()
    mean = np.einsum("lbtd,bt->ld", truth, weight) / total
    spread = np.einsum("lbtd,bt->l", (truth - mean[:, None, None]) ** 2, weight)
    missed = np.einsum("lbtd,bt->l", (truth - outputs) ** 2, weight)
    assert (spread > 0).all()
    assert found.tokens == total
    # float32 sums of some hundred terms.
    np.testing.assert_allclose(found.fvu, missed / spread, rtol=2e-5)
    fired = np.einsum("lbtf,bt->lf", features > 0, weight)
    assert (fired > 0).mean() > 0
    np.testing.assert_array_equal(found.fired, fired)
    np.testing.assert_allclose(found.l0, fired.sum(-1) / total, rtol=1e-12)
    np.testing.assert_array_equal(found.dead, (fired == 0).mean(-1))
    assert [sum(row) for row in found.histogram] == (fired > 0).sum(-1).tolist()


def test_losses_are_those_of_passes_held_layer_by_layer(measured, model):
    case, found = measured
    everywhere = range(4)
    expected = {
        "loss": forward(model, TEXT.tokens).logits,
        "loss_replaced": replaced_logits(model, case, TEXT, everywhere),
        "loss_ablated": replaced_logits(model, case, TEXT, everywhere, ablate=True),
    }
    losses = {name: cross_entropy(logits, TEXT) for name, logits in expected.items()}
    assert len({round(value, 3) for value in losses.values()}) == 3
    for name, value in losses.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-5), name
    recovered = (losses["loss_ablated"] - losses["loss_replaced"]) / (
        losses["loss_ablated"] - losses["loss"]
    )
    if losses["loss_ablated"] > losses["loss"]:
        assert found.loss_recovered == pytest.approx(recovered, rel=1e-3)
    else:
        assert np.isnan(found.loss_recovered)
    for layer in (0, 2):
        pair = [
            cross_entropy(replaced_logits(model, case, TEXT, [layer], ablate), TEXT)
            for ablate in (False, True)
        ]
        assert found.layer_loss[layer] == pytest.approx(pair, rel=1e-5)


def without_layers(found):
    return dataclasses.replace(found, layer_loss=None)


def close(found, expected):
    for name in EXACT:
        assert getattr(found, name) == getattr(expected, name), name
    for name in CLOSE if expected.layer_loss else CLOSE[:-1]:
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=2e-5, err_msg=name
        )


def test_batching_changes_nothing(model, simple):
    close(measure(made(CASES["layers"]), model, [TEXT], each_layer=True), simple)


def test_text_that_weighs_nothing_changes_nothing(model, simple):
    empty = Batch(HALVES[0].tokens, 0 * HALVES[0].weight)
    found = measure(made(CASES["layers"]), model, [empty, *HALVES, empty], each_layer=True)
    close(found, simple)


def test_meshes_change_nothing(model):
    mesh, config = make_mesh("data=2,model=4"), CASES["full"]
    one = made(config)
    laid = Transcoder(jax.device_put(one.params, shardings(config, mesh)), config, mesh)
    spread = on_mesh(model, mesh)
    # Three rows: the mesh does not split them evenly.
    found, expected = (measure(t, m, HALVES) for t, m in ((laid, spread), (one, model)))
    close(found, expected)


def test_a_perfect_transcoder(model):
    """The MLPs' own outputs as reconstruction: a map that is linear already."""
    params = jax.tree.map(lambda x: x, model.params)
    del params["blocks"]["mlp"]["gate"]
    lm = model.replace(params=params, config=DEEP.replace(activation="linear", gated_mlp=False))
    kernel = {n: np.asarray(params["blocks"]["mlp"][n]["kernel"]) for n in ("in", "out")}
    config = CASES["layers"].replace(activation="relu", k=0, n_features=4, skip=True)
    zero = {n: jnp.zeros(spec.shape) for n, spec in param_specs(config).items()}
    # W_skip maps x to W_skip x.
    zero["W_skip"] = jnp.asarray(np.einsum("ldm,lme->led", kernel["in"], kernel["out"]))
    found = measure(Transcoder(zero, config), lm, HALVES)
    assert max(found.fvu) < 1e-10
    assert max(found.jacobian) < 1e-10
    assert found.dead == (1.0,) * 4
    assert found.l0 == (0.0,) * 4
    assert found.loss_replaced == pytest.approx(found.loss, rel=1e-6)
    assert found.loss_ablated != pytest.approx(found.loss, rel=1e-3)


def test_the_jacobian_is_that_of_differences(model):
    """By central differences along the direction that `measure` takes."""
    transcoder = made(CASES["layers"])
    params = transcoder.params
    x = forward(model, TEXT.tokens, capture=["mlp_in"]).trace["mlp_in"]
    places = slice(min(8, x.shape[2]) - 1, None, 8)
    x, weight = x[:, :, places], TEXT.weight[:, places]
    active = encode(transcoder, x) != 0
    v = 1e-3 * jax.random.normal(jax.random.key(0), (len(x), 1, x.shape[-1]))[:, None]

    def features(x):  # those that are active at x stay so
        found = jnp.einsum("lbtd,lfd->lbtf", x, params["W_enc"]) * active
        return jnp.einsum("lbtf,lfd->lbtd", found, params["W_dec"])

    truth, got = (
        np.asarray(f(x + v), np.float64) - np.asarray(f(x - v), np.float64)
        for f in (lambda x: mlp(model, x), features)
    )
    missed, size = (np.einsum("lbtd,bt->l", d**2, weight) for d in (got - truth, truth))
    found = measure(transcoder, model, [TEXT]).jacobian
    # Differences of float32 numbers over steps of 1e-3.
    np.testing.assert_allclose(found, missed / size, rtol=2e-3)
    assert min(found) > 0.1


def test_means_far_from_zero_lose_nothing():
    """Chan's merge where Σy² − (Σy)²/n in float32 would be noise."""
    rng = np.random.default_rng(0)
    y, w = 1e4 + rng.normal(size=(2, 30, 3)), rng.integers(0, 2, 30).astype(float)

    def sums(y, w):
        mean = np.einsum("lnd,n->ld", y, w) / max(w.sum(), 1e-30)
        spread = np.einsum("lnd,n->l", (y - mean[:, None]) ** 2, w)
        return Sums(w.sum(), mean, spread, 0.0, 0.0, 0.0, 0.0, None, 0.0)

    parts = [sums(y[:, a:b], w[a:b]) for a, b in ((0, 1), (1, 7), (7, 7), (7, 30))]
    merged = parts[0] + parts[1] + parts[2] + parts[3]
    np.testing.assert_allclose(merged.spread, sums(y, w).spread, rtol=1e-9)
    np.testing.assert_allclose(merged.mean, sums(y, w).mean, rtol=1e-12)


def test_a_layer_that_writes_a_constant_has_no_fvu(model):
    params = jax.tree.map(lambda x: x, model.params)
    params["blocks"]["mlp"]["out"]["kernel"] = params["blocks"]["mlp"]["out"]["kernel"].at[1].set(0)
    found = measure(made(CASES["layers"]), model.replace(params=params), HALVES, each_layer=True)
    assert np.isnan(found.fvu).tolist() == [False, True, False, False]
    assert np.isnan(found.mean_fvu)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["mean_fvu"] is None


def test_json_round_trip(simple):
    for found in (without_layers(simple), simple):
        record = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert Evaluation.from_json(record) == found
        assert record["loss_recovered"] == pytest.approx(found.loss_recovered, nan_ok=True)
    for broken in ({}, [], None, record | {"fvu": "x"}, record | {"l0": [1.0]}):
        with pytest.raises(InputError, match="evaluation"):
            Evaluation.from_json(broken)


def test_histogram_counts_what_lives():
    density = np.array([0, 0, 1e-12, 10**-6.9, 10**-2.05, 0.5, 1.0])
    counts = histogram(density)
    assert len(counts) == len(BIN_EDGES) - 1
    assert sum(counts) == 5
    assert counts[0] == 2
    assert counts[-1] == 1
    (bin,) = np.flatnonzero(np.array(counts)[1:-3]) + 1
    assert BIN_EDGES[bin] <= -2.05 < BIN_EDGES[bin + 1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"weight": 0 * TEXT.weight}, "no token of positive weight"),
        ({"weight": TEXT.weight[:, 1:]}, "weight of batch 0"),
        ({"weight": -TEXT.weight}, "weight of batch 0"),
        ({"weight": np.nan * TEXT.weight}, "weight of batch 0"),
        ({"tokens": TEXT.tokens + 10_000}, "tokens"),
        ({"tokens": TEXT.tokens[0]}, "tokens"),
        ({"tokens": TEXT.tokens[:0], "weight": TEXT.weight[:0]}, "tokens"),
    ],
)
def test_bad_text(change, expected, model):
    with pytest.raises(InputError, match=expected):
        measure(made(CASES["layers"]), model, [TEXT._replace(**change)])


def test_no_text_and_another_model(model):
    with pytest.raises(InputError, match="no token"):
        measure(made(CASES["layers"]), model, [])
    other = made(CASES["layers"].replace(d_model=8))
    with pytest.raises(InputError, match="d_model 8"):
        measure(other, model, [TEXT])


def test_evaluations_compare_without_counts(simple):
    assert simple.fired.sum() > 0
    assert dataclasses.replace(simple, fired=None) == simple


def test_the_table_names_every_layer(simple):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(simple.table())
    lines = [line.split() for line in console.export_text().splitlines()]
    for layer in range(4):
        (row,) = [line for line in lines if line[:1] == [str(layer)]]
        assert row[1:3] == [f"{simple.fvu[layer]:.3f}", f"{simple.l0[layer]:.1f}"]
        assert len(row) == 6
    assert max(map(len, console.export_text().splitlines()), default=0) <= 80
