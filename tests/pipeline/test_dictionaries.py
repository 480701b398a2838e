"""Circuits over features: those of the neuron basis as a transcoder are the neurons' circuits."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from hagd_jax.causal import ABLATIONS, Ablation, Circuit, ValidateConfig, behaviour, validate
from hagd_jax.causal.partners import partners
from hagd_jax.errors import InputError
from hagd_jax.interventions import add, chain
from hagd_jax.models import forward
from hagd_jax.parallel import make_mesh
from hagd_jax.pipeline import DescribeConfig, ExtractConfig, extract, open_run
from hagd_jax.scores import GradientConfig, mean_scores
from hagd_jax.search import top_nodes
from hagd_jax.tasks import Task, Text, logit_difference, make_prompts
from hagd_jax.transcoders import Transcoder, TranscoderConfig, param_specs
from hagd_jax.units import Nodes, as_dictionary
from tests.causal.plain import CONFIG
from tests.models.noise import noisy, on_mesh
from tests.transcoders.basis import neuron_basis

EXTRACT = ExtractConfig(
    nodes="6",
    gradient=GradientConfig(batch_size=8),
    search="top",
    describe=DescribeConfig(prompts=0),
    judge=ValidateConfig(
        ablations=("counterfactual", "mean"),
        controls=3,
        members=2,
        pairs=1,
        subsets=1,
        greedy=0,
        permuted=0,
        batch_size=8,
    ),
)
WINDOW = TranscoderConfig(n_layers=2, d_model=8, n_features=10, k=3, window=1)


@pytest.fixture(scope="module")
def model():
    return noisy(CONFIG)


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(1)

    def prompts(count):
        clean, corrupted = rng.integers(0, 11, (2, count, 5))
        answer = rng.integers(0, 11, count)
        return make_prompts(clean, corrupted, answer, (answer + 1) % 11, vocab_size=11)

    splits = {"discover": prompts(10), "test": prompts(8)}
    texts = {name: (Text("", "", "", "", ""),) * len(p) for name, p in splits.items()}
    return Task("random", "Nothing.", splits, texts)


@pytest.fixture(scope="module")
def window():
    rng = np.random.default_rng(2)
    params = {
        name: jnp.asarray(rng.normal(0, 0.5, spec.shape), jnp.float32)
        for name, spec in param_specs(WINDOW).items()
    }
    return Transcoder(params, WINDOW, None, "window")


def test_the_neuron_basis_as_a_transcoder_gives_the_neurons_circuit(model, task):
    """Scores, circuit, verdicts, random controls, and the sweep of sizes."""
    own = extract(model, task, EXTRACT)
    again = extract(model, task, EXTRACT, dictionary=neuron_basis(model))
    assert np.abs(own.scores.flat()).max() > 0.05
    np.testing.assert_allclose(again.scores.flat(), own.scores.flat(), atol=1e-5)
    assert {node.kind for node in own.circuit.nodes} == {"head", "neuron"}
    assert [(n.layer, n.index) for n in again.circuit.nodes] == [
        (n.layer, n.index) for n in own.circuit.nodes
    ]
    assert {node.kind for node in again.circuit.nodes} == {"head", "feature"}
    assert own.circuit.dictionary == "neurons"
    assert again.circuit.dictionary.startswith("the neurons again#")
    for a, b in zip(own.report.evidence, again.report.evidence, strict=True):
        assert b.metric == pytest.approx(a.metric, abs=1e-4)
        assert b.kl == pytest.approx(a.kl, abs=1e-4)
        assert b.controls == pytest.approx(a.controls, abs=1e-3)
        assert len(a.controls) == 3
        assert (b.alone.passed, b.alone.match) == (a.alone.passed, a.alone.match)
    for a, b in zip(own.curve, again.curve, strict=True):
        assert (a.nodes, a.share) == (b.nodes, b.share)
        assert b.faithfulness.value == pytest.approx(a.faithfulness.value, abs=1e-3)


def test_scores_of_cross_layer_features_sum_to_their_whole_effect(model, task, window):
    """Completeness: Σ scores = m(all kept) − m(all counterfactual), with the error left in."""
    # A feature that TopK drops falls to zero at once; ReLU lets the metric move continuously.
    smooth = window.replace(config=WINDOW.replace(activation="relu", k=0))
    prompts, nodes = task.splits["discover"], as_dictionary(model, smooth)
    steps = tuple((np.arange(128) + 0.5) / 128)
    config = GradientConfig(steps=steps, batch_size=10)
    scores = mean_scores(model, prompts, config, dictionary=smooth)
    other = nodes.values(forward(model, prompts.corrupted, capture=nodes.capture).trace)

    def metric(value):
        mask = Nodes.full(nodes.space, value)
        logits = forward(model, prompts.clean, nodes.mask(mask, other)).logits
        return float(logit_difference(logits, prompts).mean())

    effect = metric(1.0) - metric(0.0)
    assert abs(effect) > 0.05
    assert np.abs(scores.values.features).max() > 0.01
    np.testing.assert_allclose(scores.flat().sum(), effect, rtol=0.02)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablated_features_take_the_asked_values(model, task, window, ablation):
    """One feature of layer 0, against adding by hand what moving it writes to both layers."""
    prompts, reference = task.splits["test"], task.splits["discover"]
    nodes = as_dictionary(model, window)

    def values(tokens):
        return np.asarray(
            nodes.values(forward(model, tokens, capture=nodes.capture).trace)["feature"][0]
        )

    own, means = values(prompts.clean), values(reference.clean)
    feature = int(own.mean((0, 1)).argmax())
    mask = Nodes.full(nodes.space, True)
    mask = mask.replace(features=mask.features.at[0, feature].set(False))
    found = behaviour(
        model, prompts, [mask], ablation=Ablation(ablation, reference, 3), dictionary=window
    )
    if ablation == "zero":
        wanted = np.zeros((8, 5))
    elif ablation == "mean":
        wanted = np.broadcast_to(means[:, :, feature].mean(0), (8, 5))
    elif ablation == "mean_overall":
        wanted = np.full((8, 5), means[:, :, feature].mean())
    elif ablation == "counterfactual":
        wanted = values(prompts.corrupted)[:, :, feature]
    else:
        wanted = values(partners(prompts, reference, seed=3)[0])[:, :, feature]
    moved = (wanted - own[:, :, feature])[..., None]
    assert np.abs(moved).max() > 0.1
    rows = np.asarray(window.params["W_dec"])[:, feature]
    writes = [add("mlp_out", jnp.asarray(moved * rows[e]), layer=e) for e in (0, 1)]
    logits = forward(model, prompts.clean, chain(*writes)).logits
    expected = np.asarray(logit_difference(logits, prompts))
    plain = np.asarray(logit_difference(forward(model, prompts.clean).logits, prompts))
    assert np.abs(expected - plain).max() > 0.01
    np.testing.assert_allclose(found.metric[0], expected, atol=2e-5)


def test_one_and_eight_devices_give_the_same_circuit_of_features(model, task, window):
    discover, found = task.splits["discover"], []
    for where in (model, on_mesh(model, make_mesh("data=4,model=2"))):
        scores = mean_scores(where, discover, EXTRACT.gradient, dictionary=window)
        mask = top_nodes(scores, 6).mask
        measured = behaviour(
            where, task.splits["test"], [mask], dictionary=window,
            ablation=Ablation("mean", discover),
        )  # fmt: skip
        found.append((scores.flat(), mask.flat(), measured.metric, measured.kl))
    one, many = found
    assert np.abs(one[0]).max() > 0.05
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(np.float64(b), np.float64(a), atol=2e-5)


def test_a_run_over_features_is_recorded_and_judged_by_its_dictionary_alone(
    model, task, window, tmp_path
):
    run = open_run(tmp_path, {})
    judge = dataclasses.replace(EXTRACT.judge, ablations=("zero",))
    config = dataclasses.replace(EXTRACT, judge=judge)
    result = extract(model, task, config, dictionary=window, out=run)
    record = json.loads((tmp_path / "circuit.json").read_text())
    assert record["space"] == [2, 2, 10]
    assert {kind for kind, *_ in record["nodes"]} <= {"head", "feature"}
    circuit = Circuit.load(tmp_path / "circuit.json")
    assert circuit == result.circuit
    report = validate(model, circuit, task, config.judge, dictionary=window)
    assert report == result.report  # undefined numbers are the same object
    for other in (None, neuron_basis(model)):
        with pytest.raises(InputError, match="expected 'window#"):
            validate(model, circuit, task, config.judge, dictionary=other)
    with pytest.raises(InputError, match=r"features: got shape .2, 6.; expected .2, 10."):
        behaviour(
            model,
            task.splits["test"],
            [Nodes.full(as_dictionary(model).space, True)],
            ablation="zero",
            dictionary=window,
        )
