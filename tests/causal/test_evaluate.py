import dataclasses
import importlib

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.causal import (
    Behaviour,
    Circuit,
    JudgeConfig,
    behaviour,
    evaluate,
    random_controls,
    size_curve,
)
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import init
from hagd_jax.tasks import Task, Text, make_prompts
from hagd_jax.units import Nodes
from tests.causal.plain import CONFIG, SPACE

# By name: the package's attribute `evaluate` is the function.
MODULE = importlib.import_module("hagd_jax.causal.evaluate")
CONTROLS = 3
FULL, EMPTY = Nodes.full(SPACE, True), Nodes.full(SPACE, False)


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)

    def prompts(count):
        clean, corrupted = rng.integers(0, 11, (2, count, 4)).tolist()
        pairs = [rng.permutation(11)[:2].tolist() for _ in range(count)]
        return make_prompts(clean, corrupted, *zip(*pairs, strict=True), vocab_size=11)

    splits = {"discover": prompts(5), "select": prompts(2), "test": prompts(6)}
    texts = {name: (Text("", "", "", "", ""),) * len(p) for name, p in splits.items()}
    return Task("random", "Nothing.", splits, texts)


@pytest.fixture(scope="module")
def model():
    return init(CONFIG, jax.random.key(1))


def circuit_of(mask):
    scores = Nodes.full(SPACE, 1.0)
    return Circuit.from_mask(mask, scores, model="random", task="random")


def some_mask(seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    return Nodes(rng.random((2, 2)) < share, rng.random((2, 6)) < share)


def test_verdict_and_curve_are_made_of_what_was_measured(model, task):
    mask, config = some_mask(), JudgeConfig(("counterfactual",), controls=CONTROLS)
    heard = []
    (verdict,) = evaluate(model, circuit_of(mask), task, config, on_ablation=heard.append)
    controls = random_controls(mask, CONTROLS, seed=0)
    measured = behaviour(
        model, task.splits["test"], [FULL, EMPTY, mask, ~mask, *controls], ablation="counterfactual"
    )
    whole, nothing, alone, without, *chance = measured.metric.astype(np.float64)
    gap = (whole - nothing).mean()
    assert abs(gap) > 0.01
    recovered = verdict.faithfulness.ratio_of_means
    assert recovered.value == pytest.approx((alone - nothing).mean() / gap)
    assert verdict.necessity.value == pytest.approx((whole - without).mean() / gap)
    assert verdict.controls == pytest.approx([(c - nothing).mean() / gap for c in chance])
    assert verdict.metric == pytest.approx(
        {
            "model": whole.mean(),
            "empty": nothing.mean(),
            "circuit": alone.mean(),
            "complement": without.mean(),
        }
    )
    assert verdict.kl["circuit"] == pytest.approx(measured.kl[2].mean())
    assert verdict.exact_match == measured.match[2].mean()
    assert (verdict.prompts, verdict.split, heard) == (6, "test", ["counterfactual"])

    points = size_curve(model, task, [mask, *controls, EMPTY])
    assert points[0].nodes == len(circuit_of(mask))
    assert points[0].share == len(circuit_of(mask)) / 16
    assert points[0].faithfulness == pytest.approx(recovered)
    assert points[0].accuracy == pytest.approx(verdict.accuracy["circuit"])
    assert points[0].kl == pytest.approx(verdict.kl["circuit"])
    assert [p.faithfulness.value for p in points[1:-1]] == pytest.approx(list(verdict.controls))
    assert points[-1].faithfulness.value == 0


@pytest.mark.parametrize(("mask", "kept"), [(FULL, 1.0), (EMPTY, 0.0)])
def test_all_and_nothing(model, task, mask, kept):
    """The extremes are known, and no random circuit of their size differs from them."""
    config = JudgeConfig(("counterfactual",), controls=CONTROLS)
    (verdict,) = evaluate(model, circuit_of(mask), task, config)
    assert verdict.faithfulness.ratio_of_means.value == kept
    assert verdict.necessity.value == kept
    assert verdict.controls == (kept,) * CONTROLS
    assert verdict.p_value == 1
    assert verdict.kl["circuit" if kept else "complement"] == 0


def test_a_circuit_of_another_model_is_refused(model, task):
    other = dataclasses.replace(circuit_of(EMPTY), space=(3, 2, 6))
    with pytest.raises(InputError, match=r"layers, heads, neurons = \(2, 2, 6\)"):
        evaluate(model, other, task)


@pytest.mark.parametrize(
    "change", [{"ablations": ()}, {"ablations": ("knockout",)}, {"controls": 0}]
)
def test_impossible_judges_are_refused(change):
    with pytest.raises(ConfigError):
        JudgeConfig(**change)


def judged(monkeypatch, model, task, metric, correct, kl):
    """A verdict on made-up measurements: rows model, empty, circuit, complement, controls."""
    rows = [np.array(x) for x in (metric, correct, kl)]
    made_up = Behaviour(*rows, np.ones(rows[0].shape, bool))
    monkeypatch.setattr(MODULE, "behaviour", lambda *_, **__: made_up)
    (verdict,) = evaluate(model, circuit_of(EMPTY), task, JudgeConfig(("zero",)))
    return verdict


def table(*means, prompts=4):
    return np.repeat(np.array(means, float)[:, None], prompts, axis=1)


@pytest.mark.parametrize(
    ("hits", "of", "kl", "gates"),
    [
        (85, 100, 0.29, (True, True)),
        (84, 100, 0.31, (False, False)),
        # A model that is never right has no behaviour that a circuit could keep.
        (0, 0, 0.0, (False, True)),
    ],
)
def test_gates(monkeypatch, model, task, hits, of, kl, gates):
    correct = np.zeros((5, 100), bool)
    correct[0, :of], correct[2, :hits] = True, True
    metric = table(5, 0, 4, 1, 0.5, prompts=100)
    verdict = judged(monkeypatch, model, task, metric, correct, table(0, 1, kl, 1, 1, prompts=100))
    assert verdict.gates == {"accuracy": gates[0], "kl": gates[1]}
    assert verdict.accuracy["circuit"].value == hits / 100


def test_p_value_counts_controls_that_do_as_well(monkeypatch, model, task):
    metric = table(5, 0, 3, 1, 0.5, 3, 4, 1)
    verdict = judged(monkeypatch, model, task, metric, metric > 2, np.zeros((8, 4)))
    assert verdict.controls == pytest.approx((0.1, 0.6, 0.8, 0.2))
    assert verdict.p_value == (1 + 2) / (1 + 4)


def test_a_behaviour_that_no_node_carries_is_not_defined(monkeypatch, model, task):
    metric = table(5, 5, 5, 5, 5)
    verdict = judged(monkeypatch, model, task, metric, metric > 2, np.zeros((5, 4)))
    assert np.isnan(verdict.faithfulness.ratio_of_means.value)
    assert np.isnan(verdict.necessity.value)
    assert verdict.p_value == 1
    record = verdict.to_json()
    assert record["faithfulness"]["invalid"] == 1
    assert set(record["accuracy"]["model"]) == {"value", "low", "high"}


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 5))
def test_controls_keep_counts_in_every_layer(seed, share, count):
    rng = np.random.default_rng(seed)
    members = Nodes(rng.random((4, 6)) < share, rng.random((4, 9)) < share)
    controls = random_controls(members, count, seed)
    assert len(controls) == count
    for control in controls:
        assert control.heads.dtype == control.features.dtype == bool
        assert (control.heads.sum(1) == members.heads.sum(1)).all()
        assert (control.features.sum(1) == members.features.sum(1)).all()


def test_controls_are_fair_and_repeatable():
    members = Nodes(np.eye(3, 4, dtype=bool), np.arange(15).reshape(3, 5) % 5 < 2)
    controls = random_controls(members, 4000, 0)
    again = random_controls(members, 4000, 0)
    assert all((a.flat() == b.flat()).all() for a, b in zip(controls, again, strict=True))
    # Every node of a layer is equally often a member.
    heads = np.mean([control.heads for control in controls], axis=0)
    neurons = np.mean([control.features for control in controls], axis=0)
    np.testing.assert_allclose(heads, 0.25, atol=0.03)
    np.testing.assert_allclose(neurons, 0.4, atol=0.03)
    other = random_controls(members, 1, 1)[0]
    assert (other.flat() != controls[0].flat()).any()
