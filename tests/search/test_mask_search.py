"""Masks by gradient descent: on models whose circuits are known, and what does not matter."""

import dataclasses

import jax
import numpy as np
import pytest

from hagd_jax.causal import Node
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.parallel import make_mesh
from hagd_jax.search import MaskConfig, Tree, init_masks, schedule, search_many, search_masks
from hagd_jax.testbeds import hand_built, scrambled
from hagd_jax.units import Nodes, neurons
from tests.models.noise import on_mesh

CASES = {case.name: scrambled(case, 1) for case in hand_built()}
CONFIG = MaskConfig(steps=400, batch_size=32, learning_rate=0.1, check_every=100)


def members(mask, kinds=("head", "neuron")):
    both = zip(kinds, (mask.heads, mask.features), strict=True)
    return {Node(kind, *place) for kind, x in both for place in np.argwhere(np.asarray(x)).tolist()}


def found(case, size, config=CONFIG, **options):
    space = neurons(case.model).space
    # Scores that say nothing: the order of the nodes is as good as any.
    scores = Nodes.full(space, 0.0)
    circuits, state = search_masks(case.model, case.prompts, scores, [size], config, **options)
    return circuits[size], state


@pytest.mark.parametrize("name", sorted(CASES))
def test_true_circuits_are_found_where_first_order_methods_fail(name):
    """From scores that say nothing, under the ablation that the truth is stated for."""
    case = CASES[name]
    truth = case.truth["counterfactual"]
    mask, _ = found(case, len(truth))
    assert members(mask) == truth


def test_sizes_on_the_way_and_the_same_key_the_same_circuits():
    case = CASES["parity"]
    scores = Nodes.full(neurons(case.model).space, 0.0)
    config = dataclasses.replace(CONFIG, steps=30, check_every=10)
    seen = []
    run = lambda **more: search_masks(  # noqa: E731
        case.model, case.prompts, scores, [8, 6, 3], config, **more
    )
    first, state = run(on_steps=lambda *step: seen.append(step))
    assert [step for step, *_ in seen] == [10, 20, 30]
    assert seen[-1][2]["size"] == pytest.approx(3, abs=1e-3)
    assert seen[0][2]["kl"] > 0
    assert {size: int(mask.flat().sum()) for size, mask in first.items()} == {8: 8, 6: 6, 3: 3}
    again, _ = run()
    other, _ = run(seed=1)
    assert all((first[k].flat() == again[k].flat()).all() for k in first)
    leaves = jax.tree.leaves(state.logits)
    assert all(np.isfinite(x).all() for x in leaves)
    assert any((first[k].flat() != other[k].flat()).any() for k in first)


def test_a_search_goes_on_where_it_stopped():
    case = CASES["either"]
    scores = Nodes.full(neurons(case.model).space, 0.0)
    whole = dataclasses.replace(CONFIG, steps=40, check_every=10)
    _, expected = search_masks(case.model, case.prompts, scores, [4], whole)
    stopped = []

    class Stop(Exception):
        pass

    def stop(step, *_):
        if step == 30:
            raise Stop

    with pytest.raises(Stop):
        search_masks(
            case.model, case.prompts, scores, [4], whole, on_steps=stop, on_state=stopped.append
        )
    _, state = search_masks(case.model, case.prompts, scores, [4], whole, state=stopped[-1])
    for a, b in zip(state.logits, expected.logits, strict=True):
        np.testing.assert_array_equal(a, b)


def test_clusters_are_opened_from_above():
    """A tree with the truth in one cluster: coarse masks find it, and nodes refine it."""
    case = CASES["both"]
    space, truth = neurons(case.model).space, case.truth["counterfactual"]
    flat = np.zeros(space.nodes, int)
    for node in truth:
        start = 0 if node.kind == "head" else space.layers * space.heads
        width = space.heads if node.kind == "head" else space.features
        flat[start + node.layer * width + node.index] = 1
    mask, _ = found(case, len(truth), tree=Tree.of([flat]))
    assert members(mask) == truth


def test_devices_do_not_matter():
    case = CASES["suppressed"]
    config = dataclasses.replace(CONFIG, steps=20, check_every=10, batch_size=8)
    far = case._replace(model=on_mesh(case.model, make_mesh("replica=8")))
    (one, near), (two, there) = (found(c, 5, config) for c in (case, far))
    np.testing.assert_array_equal(one.flat(), two.flat())
    for a, b in zip(near.logits, there.logits, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_sizes_fall_and_levels_join():
    plan = schedule(MaskConfig(steps=100, opening=0.5), total=1000, least=10, levels=2)
    assert plan.size[0] == 800
    np.testing.assert_allclose(plan.size[89:], 10, rtol=1e-5)
    ratios = plan.size[1:89] / plan.size[:88]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)
    assert plan.opened.sum(0).tolist() == [100, 75, 50]
    assert (schedule(MaskConfig(), 10, 10, 0).size == 10).all()


def test_where_logits_start():
    def begun(scores, tree=None):
        return init_masks(jax.random.key(0), np.array(scores), CONFIG, tree=tree).logits

    above, own = begun([5.0, -1.0, 3.0], Tree.of([np.array([0, 1, 1])]))
    rank = np.array([5 / 6, 1 / 6, 1 / 2])
    expected = 0.5 * np.log(rank / (1 - rank)) + 1
    np.testing.assert_allclose(own, expected, rtol=1e-5)
    np.testing.assert_allclose(above, [expected[0], expected[1:].mean()], rtol=1e-5)
    assert begun(np.arange(10_000.0))[0].max() == 3
    for bad in ([], [np.nan], [np.inf, 0]):
        with pytest.raises(InputError, match="finite"):
            begun(bad)


def test_what_cannot_be_searched_is_refused():
    case = CASES["both"]
    scores = Nodes.full(neurons(case.model).space, 0.0)
    for sizes in ([], [0], [11]):
        with pytest.raises(InputError, match="from 1 to 10"):
            search_masks(case.model, case.prompts, scores, sizes, CONFIG)
    with pytest.raises(InputError, match="4 nodes"):
        search_masks(
            case.model, case.prompts, scores, [2], CONFIG, tree=Tree.of([np.zeros(4, int)])
        )
    for change in ({"steps": 0}, {"start": 0}, {"opening": 2}, {"metric": -1}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            MaskConfig(**change)


def test_many_tasks_at_once_are_each_as_alone():
    """Two behaviours of one model, one of fewer prompts: repeated, it has the same circuits."""
    case = CASES["two_tasks_1"]
    config = dataclasses.replace(CONFIG, steps=60, check_every=60, batch_size=8)
    scores = Nodes.full(neurons(case.model).space, 0.0)
    half = case.prompts[: len(case.prompts) // 2]
    twice = jax.tree.map(lambda x: np.resize(x, (len(case.prompts), *x.shape[1:])), half)
    found = search_many(
        case.model, {"a": case.prompts, "b": half}, {"a": scores, "b": scores}, [4, 2], config
    )
    for name, prompts in (("a", case.prompts), ("b", twice)):
        alone, _ = search_masks(case.model, prompts, scores, [4, 2], config)
        for size in (4, 2):
            assert (found[name][size].flat() == alone[size].flat()).all()
            assert found[name][size].flat().sum() == size
    with pytest.raises(InputError, match="scores"):
        search_many(case.model, {"a": case.prompts}, {}, [2])
    far = on_mesh(case.model, make_mesh("replica=8"))
    with pytest.raises(InputError, match="on one device"):
        search_many(far, {"a": case.prompts}, {"a": scores}, [2])


def test_masks_under_two_ablations_find_the_true_circuit():
    """Half of the prompts of a step under mean ablation, for which the truth is the same."""
    case = CASES["both"]
    truth = case.truth["mean"]
    assert truth == case.truth["counterfactual"]
    mask, _ = found(case, len(truth), dataclasses.replace(CONFIG, mean=0.5))
    assert members(mask) == truth
