"""The random circuits that a circuit is compared with."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd_jax.causal import Circuit, EdgeCircuit, size_curve, sizes_of
from hagd_jax.causal.trials import groups, make_trials
from hagd_jax.models import DecoderConfig, abstract
from hagd_jax.tasks import Task, Text, make_prompts
from hagd_jax.units import Edges, Nodes, Space, components, neurons
from tests.models.noise import noisy

CONFIG = DecoderConfig(vocab_size=9, n_layers=3, d_model=8, n_heads=4, d_mlp=9)
SPACE = Space(3, 4, 9)
MODEL = abstract(CONFIG)
SMALL = {"controls": 30, "members": 5, "pairs": 3, "subsets": 2}


def trials_of(mask, seed=0, **changes):
    scores = Nodes.full(SPACE, 1.0)
    circuit = Circuit.from_mask(mask, scores, model="m", task="t")
    return make_trials(circuit, neurons(MODEL), seed=seed, **SMALL | changes)


def rows(trials, group):
    """The flat masks of a group; the model's own row has no mask."""
    return [trials.masks[i - 1].flat().astype(bool) for i in range(group.start, group.stop)]


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.05, 0.95))
def test_controls_are_other_circuits_of_the_same_size_each_once(seed, share):
    rng = np.random.default_rng(seed)
    mask = Nodes(rng.random((3, 4)) < share, rng.random((3, 9)) < share)
    flat, trials = mask.flat(), trials_of(mask, seed)
    controls = rows(trials, trials.controls)
    assert len({c.tobytes() for c in controls} | {flat.tobytes()}) == 1 + len(controls)
    assert all(c.sum() == flat.sum() for c in controls)
    fine, kind = groups(neurons(MODEL))
    same = lambda c, labels: all(  # noqa: E731
        c[labels == v].sum() == flat[labels == v].sum() for v in np.unique(labels)
    )
    if 8 <= flat.sum() <= 31:
        # Enough of them: about half keep what each layer has, all keep what each kind has.
        assert len(controls) == 30
        assert sum(same(c, fine) for c in controls) >= 10
        assert all(same(c, kind) for c in controls)
    for other in rows(trials, trials.without_others):
        assert (other[flat]).all()
    for one, place in zip(rows(trials, trials.without_member), trials.tested, strict=True):
        assert flat[place]
        assert (np.flatnonzero(flat & ~one) == [place]).all()


def test_a_small_model_has_as_many_controls_as_there_are_circuits():
    """One head of two: one other head, but then any other unit."""
    config = DecoderConfig(vocab_size=9, n_layers=1, d_model=4, n_heads=2, d_mlp=6)
    circuit = Circuit.from_mask(
        Nodes(np.array([[True, False]]), np.zeros((1, 6), bool)), Nodes.full(Space(1, 2, 6), 1.0),
        model="m", task="t",
    )  # fmt: skip
    trials = make_trials(circuit, neurons(abstract(config)), seed=0, **SMALL)
    assert trials.controls.stop - trials.controls.start == 7


@pytest.mark.parametrize("size", [0, 39])
def test_nothing_and_everything_have_no_controls(size):
    mask = Nodes.from_flat(SPACE, np.arange(39) < size)
    trials = trials_of(mask)
    assert trials.controls.stop == trials.controls.start
    assert (trials.ends, trials.members) == (3, size)


def test_what_decides_does_not_depend_on_what_is_beside_it():
    rng = np.random.default_rng(0)
    mask = Nodes(rng.random((3, 4)) < 0.4, rng.random((3, 9)) < 0.4)
    one, other = trials_of(mask), trials_of(mask, pairs=1, subsets=9)
    assert one.core == other.core
    for a, b in zip(one.masks[: one.core], other.masks[: one.core], strict=True):
        np.testing.assert_array_equal(a.flat(), b.flat())
    assert any(
        (a.flat() != b.flat()).any()
        for a, b in zip(one.masks[: one.core], trials_of(mask, 1).masks, strict=False)
    )


def test_controls_of_edges_are_edges():
    there = Edges.existing(CONFIG)
    rng = np.random.default_rng(1)
    mask = there.like(there.flat() & (rng.random(there.flat().shape) < 0.2))
    circuit = EdgeCircuit.from_mask(mask, mask, CONFIG, model="m", task="t")
    trials = make_trials(circuit, components(MODEL), seed=0, **SMALL)
    for control in rows(trials, trials.controls):
        assert control.sum() == len(circuit)
        assert not (control & ~there.flat()).any()


def test_the_curve_is_made_of_what_was_measured():
    model = noisy(CONFIG)
    rng = np.random.default_rng(2)
    clean, other = rng.integers(0, 9, (2, 9, 4)).tolist()
    prompts = make_prompts(clean, other, [1] * 9, [2] * 9, vocab_size=9)
    task = Task("t", "", {"discover": prompts, "test": prompts},
                dict.fromkeys(("discover", "test"), (Text("", "", "", "", ""),) * 9))  # fmt: skip
    full, empty = Nodes.full(SPACE, True), Nodes.full(SPACE, False)
    points = size_curve(model, task, [empty, full])
    assert [p.faithfulness.value for p in points] == [0, 1]
    assert [p.nodes for p in points] == [0, SPACE.nodes]
    assert points[1].kl == pytest.approx(0, abs=1e-6) != points[0].kl
    assert sizes_of(1000)[:3] == [1, 2, 5]
    assert jax.tree.leaves(points)
